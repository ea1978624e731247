"""Networks that compute in a narrow dtype, with parameters in float32."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.combinators import Around
from jaxnn.layer import Layer, as_layer, bwd_params_of
from jaxnn.op import Op
from jaxnn.padded import Padded, values_of

DTYPES = ("bfloat16", "float16", "float32")
BACKOFF_BITS = 4  # an overflow divides s by 2⁴
LARGEST_BITS = 126  # s and 1/s are normal numbers of float32


@jax.tree_util.register_static
@dataclass(frozen=True)
class Dtypes:
    """The dtypes of the arrays of `params` and of `x`, static when the backward is traced."""

    params: tuple
    x: tuple


class MixedResiduals(NamedTuple):
    """The residuals of the network, and the dtypes of its arguments before the casts."""

    saved: Any
    dtypes: Dtypes


class Attempt(NamedTuple):
    """One backward with a scale: the number of attempts before it, and its result.

    Attributes:
        n: the number of attempts before it.
        gradients: those of the scaled dy, in the narrow dtype.
    """

    n: jax.Array
    gradients: Any


@dataclass(frozen=True, repr=False)
class Mixed(Around):
    """A network in a narrow dtype with parameters in float32; see `mixed`.

    Attributes:
        layer: the network.
        dtype: the dtype that it computes in.
        loss_scale: whether the backward scales dy; `None` for float16 only.
    """

    layer: Layer
    dtype: Any
    loss_scale: bool | None = field(default=None, kw_only=True)

    def __post_init__(self):
        try:
            dtype = jnp.dtype(self.dtype)
        except TypeError:
            dtype = None
        if self.dtype is None or dtype is None or dtype.name not in DTYPES:
            raise ValueError(f"mixed: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        object.__setattr__(self, "dtype", dtype)

    @property
    def position_wise(self) -> bool:  # type: ignore[override]
        """Whether the network is."""
        return self.layer.position_wise

    @property
    def scales(self) -> bool:
        """Whether the backward scales dy."""
        return self.dtype == jnp.float16 if self.loss_scale is None else self.loss_scale

    def input_of_layer(self, x):
        """x in the narrow dtype."""
        return _cast(x, self.dtype)

    def params_of_layer(self, params):
        """The parameters in the narrow dtype."""
        return _cast(params, self.dtype)

    def apply(self, params, x, state=None):
        """The output of the network, in float32."""
        y = self.layer.apply(self.params_of_layer(params), self.input_of_layer(x), state)
        return _cast(y, jnp.float32)

    def fwd(self, params, x, key=None):
        """The output of the network in float32, and its residuals."""
        y, saved = self.layer.fwd(self.params_of_layer(params), self.input_of_layer(x), key)
        return _cast(y, jnp.float32), MixedResiduals(saved, Dtypes(_dtypes(params), _dtypes(x)))

    def bwd(self, residuals, dy):
        """The network's backward between two casts, and with a scale if there is one."""
        saved, dtypes = residuals
        if self.scales:
            (dparams, dx), s = self._scaled_bwd(saved, dy)
        else:
            (dparams, dx), s = self.layer.bwd(saved, _cast(dy, self.dtype)), None
        return _restored(dparams, dtypes.params, s), _restored(dx, dtypes.x, s)

    def bwd_input(self, residuals, dy):
        """The same in two halves; with a scale, everything happens here."""
        if self.scales:
            return self.bwd(residuals, dy)
        deltas, dx = self.layer.bwd_input(residuals.saved, _cast(dy, self.dtype))
        return deltas, _restored(dx, residuals.dtypes.x)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the parameters, in the dtypes of the parameters."""
        if self.scales:
            return Layer.bwd_params(self, residuals, deltas, weights, axis)
        dparams = bwd_params_of(self.layer, residuals.saved, deltas, weights, axis)
        return _restored(dparams, residuals.dtypes.params)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the parameters, example by example."""
        if self.scales:
            raise ValueError(
                "mixed: with a loss scale the backward is one piece, which gives no gradient of "
                "each example; use bfloat16, or loss_scale=False"
            )
        return self.layer.bwd_examples(residuals.saved, deltas, axis)

    def update_state(self, state, residuals):
        """The state of the network after a training step, in the dtype that it had."""
        return self.layer.update_state(state, residuals.saved)

    def init_cache(self, batch, length, dtype=jnp.float32):
        """The cache of the network, in the narrow dtype."""
        return self.layer.init_cache(batch, length, self.dtype)

    def extend(self, params, x, cache):
        """The output of the network for the next positions, in float32."""
        y, cache = self.layer.extend(self.params_of_layer(params), self.input_of_layer(x), cache)
        return _cast(y, jnp.float32), cache

    def _scaled_bwd(self, saved, dy):
        """`layer.bwd(s·dy)` with the first s for which nothing overflows, and that s."""
        largest = _largest(dy)
        _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 0))
        limits = jnp.finfo(self.dtype)
        start = limits.maxexp // 2
        attempts = (start - limits.minexp + limits.nmant) // BACKOFF_BITS  # then s·dy vanishes

        def scale(n):
            bits = jnp.clip(start - exponent - BACKOFF_BITS * n, -LARGEST_BITS, LARGEST_BITS)
            return jnp.ldexp(jnp.ones_like(largest), bits)

        def attempt(n):
            scaled = jax.tree.map(lambda d: d.astype(jnp.float32) * scale(n), dy)
            return Attempt(n, self.layer.bwd(saved, _cast(scaled, self.dtype)))

        def overflows(tried):
            finite = _largest(tried.gradients) < jnp.inf  # NaN is not
            return ~finite & (largest < jnp.inf) & (tried.n < attempts)

        tried = lax.while_loop(
            overflows, lambda tried: attempt(tried.n + 1), attempt(jnp.zeros_like(exponent))
        )
        return tried.gradients, scale(tried.n)

    def __repr__(self) -> str:
        option = "" if self.loss_scale is None else f", loss_scale={self.loss_scale}"
        return f"Mixed({self.layer!r}, {self.dtype.name}{option})"


def mixed(net: Layer | Op, dtype, *, loss_scale: bool | None = None) -> Mixed:
    """A network that computes in bfloat16 or float16, with its parameters in float32.

    The parameters remain as `net.init` makes them: the optimizer updates these master parameters,
    whose float32 holds updates that a narrow dtype would round away (1 + 1e-4 is 1 in bfloat16).
    Forward, with C the cast of every floating-point array to the narrow dtype:
        y = float32(net(C(θ), C(x)))
    so a loss is computed in float32. The state, such as that of `BatchNorm`, keeps its dtype.

    Backward. A cast is the identity up to rounding, so it is linear and its transpose is the cast
    back. With J the Jacobian of the network at C(θ) and C(x), from ⟨dy, ẏ⟩ = ⟨dθ, θ̇⟩ + ⟨dx, ẋ⟩:
        ẏ        = J·(C(θ̇), C(ẋ))
        (dθ, dx) = C⁻(net.bwd(residuals, C(dy)))
    where C⁻ casts each gradient to the dtype of its argument, float32 for master parameters.

    Loss scale. The smallest positive float16 is 6e-8, and gradients below it become 0. The backward
    is linear in dy, so for every s
        net.bwd(residuals, dy) = net.bwd(residuals, s·dy)/s
    With s a power of two, the product and the quotient are exact, and both are taken in float32. s
    brings the largest |dy| to between 2⁷ and 2⁸, halfway (in bits) from 1 to the overflow of
    float16. If a gradient overflows nevertheless, the backward runs again with s/16, until all
    gradients are finite or s·dy underflows to 0. An overflow costs one more backward but no step,
    and no scale is kept from step to step. A dy that holds infinity or NaN runs once.

    bfloat16 has the range of float32, so it needs no scale. With a scale the backward holds a loop,
    through which JAX differentiates in forward mode only.

    Saves the residuals of the network, in the narrow dtype.

    Args:
        net: a layer, or an op of one argument.
        dtype: `jnp.bfloat16` or `jnp.float16`; `jnp.float32` changes nothing.
        loss_scale: whether the backward scales dy, by default only in float16.

    Raises:
        TypeError: net is neither, or loss_scale is not a boolean.
        ValueError: dtype is none of these.

    Reference: P. Micikevicius et al., "Mixed Precision Training", 2018, section 3.

    Example:
        >>> net = jaxnn.mixed(jaxnn.mlp((4, 8, 3)), jnp.bfloat16)
        >>> params = net.init(jax.random.key(0))
        >>> y, residuals = net.fwd(params, jnp.ones((5, 4)))
        >>> dparams, dx = net.bwd(residuals, jnp.ones((5, 3)))
        >>> y.dtype.name, dparams[0]["w"].dtype.name, residuals.saved[0].x.dtype.name
        ('float32', 'float32', 'bfloat16')
    """
    return Mixed(as_layer(net), dtype, loss_scale=loss_scale)


def _cast(tree, dtype):
    """The tree with each floating-point array in this dtype."""

    def cast(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _dtypes(tree) -> tuple:
    """The dtype of each array that a gradient may belong to; of a `Padded`, that of its values."""
    values = jax.tree.map(values_of, tree, is_leaf=lambda part: isinstance(part, Padded))
    return tuple(jax.typeof(leaf).dtype for leaf in jax.tree.leaves(values))


def _restored(gradients, dtypes: tuple, s=None):
    """Each gradient, divided by s if there is one, in the dtype of its argument."""
    if gradients is None:
        return None
    leaves, tree = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)

    def restored(leaf, dtype):
        if leaf is None:
            return None
        return (leaf if s is None else leaf.astype(jnp.float32) / s).astype(dtype)

    return jax.tree.unflatten(tree, map(restored, leaves, dtypes))


def _largest(tree):
    """The largest magnitude of all floating-point numbers in float32, NaN if there is one.

    Inside `shard_map` it is over all devices, because gradients are added up over them.
    """
    largest = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            magnitudes = abs(leaf.astype(jnp.float32))
            largest = jnp.maximum(largest, jnp.max(magnitudes, initial=0))
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    return lax.pmax(largest, axes) if axes else largest
