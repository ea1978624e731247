"""Layers whose input is recovered from their output, so that nothing in between is saved."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.combinators import Composed, located
from jaxnn.layer import Layer, as_layer
from jaxnn.op import Op
from jaxnn.padded import Padded, values_of, with_values
from jaxnn.recomputed import always, computed_after


class CarryResiduals(NamedTuple):
    """The parameters, the carry after the last layer, and the key."""

    params: Any
    carry: Any
    key: Any


class Invertible(Layer):
    """A layer whose backward starts from its output: its residuals are no larger than that.

    It works on a carry, which is the output and any further arrays that make the inversion exact.
    Several such layers in sequence, as in `stacked`, save only the last carry. A subclass defines
    these methods, and `init` and `apply`.
    """

    def carry_of(self, x):
        """The carry before the layer."""
        raise NotImplementedError

    def output_of(self, carry):
        """The output that a carry holds."""
        raise NotImplementedError

    def advance(self, params, carry, key=None):
        """The carry after the layer, in training."""
        raise NotImplementedError

    def go_back(self, params, carry, dy, key=None) -> tuple[Any, Any, Any]:
        """The gradients of the parameters, the carry before the layer, and dx."""
        raise NotImplementedError

    def go_back_input(self, params, carry, dy, key=None) -> tuple[Any, Any, Any]:
        """The deltas, the carry before the layer, and dx."""
        raise NotImplementedError

    def fwd(self, params, x, key=None):
        """The output, and the carry that it comes from."""
        carry = self.advance(params, self.carry_of(x), key)
        return self.output_of(carry), CarryResiduals(params, carry, key)

    def bwd(self, residuals, dy):
        """The backward pass from the carry."""
        dparams, _, dx = self.go_back(residuals.params, residuals.carry, dy, residuals.key)
        return dparams, dx

    def bwd_input(self, residuals, dy):
        """The same, without the gradients of the parameters."""
        deltas, _, dx = self.go_back_input(residuals.params, residuals.carry, dy, residuals.key)
        return deltas, dx


class Precise(NamedTuple):
    """An array as an unevaluated sum of two: its value, and the rounding error of that."""

    value: jax.Array
    error: jax.Array

    def plus(self, term) -> "Precise":
        """The sum with another array; subtracting that array restores this one exactly."""
        if jax.typeof(term) != jax.typeof(self.value) or (condition := always(term)) is None:
            return self._sum(term)
        # Isolated, because XLA would fuse each sum with all the sums before it, in a time and a
        # memory that grow with the square of their number.
        total = lax.cond(condition, Precise._sum, lambda same, _: same, self, term)
        return lax.optimization_barrier(total)

    def _sum(self, term) -> "Precise":
        value, rounded = two_sum(self.value, term)
        return Precise(*two_sum(value, self.error + rounded))


def two_sum(a, b):
    """a + b as rounded, and its rounding error; together they are the exact sum.

    Reference: D. Knuth, "The Art of Computer Programming", volume 2, 1997, section 4.2.2.
    """
    kind = jnp.finfo(a.dtype)
    rounded = partial(lax.reduce_precision, exponent_bits=kind.nexp, mantissa_bits=kind.nmant)
    total = rounded(a + b)
    of_b = rounded(total - a)
    error = rounded(rounded(a - rounded(total - of_b)) + rounded(b - of_b))
    return total, lax.stop_gradient(error)


class Halves(NamedTuple):
    """The two halves of an array, and the rest of the `Padded` that it came in."""

    first: Precise
    second: Precise
    padded: Padded | None


@dataclass(frozen=True, repr=False)
class Reversible(Invertible, Composed):
    """Additive couplings in sequence; see `reversible`.

    Attributes:
        layers: f₁, g₁, f₂, g₂, …
    """

    layers: tuple[Layer, ...]

    def __post_init__(self):
        if not self.layers or len(self.layers) % 2:
            raise ValueError(
                f"reversible: the layers must come in pairs f, g, but there are {len(self.layers)}"
            )
        for layer in self.layers:
            if layer.stateful:
                raise ValueError(
                    f"reversible: {layer!r} gathers statistics for inference from its residuals, "
                    "which are not saved; use a layer without state, such as LayerNorm"
                )

    def apply(self, params, x, state=None):
        """The halves after all couplings, side by side."""
        return self.output_of(self._walk(params, self.carry_of(x), self._applied))

    def carry_of(self, x):
        """The two halves, and no rounding error yet."""
        shape = getattr(values_of(x), "shape", ())
        if not shape or shape[-1] % 2:
            raise ValueError(
                "reversible: x must be an array whose last axis splits into two equal halves, got "
                f"{jax.tree.map(jnp.shape, values_of(x))}"
            )
        first, second = (Precise(half, jnp.zeros_like(half)) for half in _split(values_of(x)))
        return Halves(first, second, x._replace(values=None) if isinstance(x, Padded) else None)

    def output_of(self, carry):
        """The halves, side by side."""
        halves = carry.first.value, carry.second.value
        return with_values(carry.padded, jnp.concatenate(halves, axis=-1))

    def advance(self, params, carry, key=None):
        """y₁ = x₁ + f(x₂) and y₂ = x₂ + g(y₁), pair by pair."""
        return self._walk(params, carry, partial(self._trained, key))

    def go_back(self, params, carry, dy, key=None):
        """x₂ = y₂ − g(y₁) and x₁ = y₁ − f(x₂), pair by pair, with each backward along the way."""
        return self._walk_back(params, carry, dy, key, lambda layer, *given: layer.bwd(*given))

    def go_back_input(self, params, carry, dy, key=None):
        """The same, with the residuals of each layer held together with its deltas."""

        def backward(layer, saved, dy):
            deltas, dx = layer.bwd_input(saved, dy)
            return (saved, deltas), dx

        return self._walk_back(params, carry, dy, key, backward)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of each layer's parameters."""
        saved, deltas = zip(*deltas, strict=True)
        return super().bwd_params(saved, deltas, weights, axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of each layer's parameters, example by example."""
        saved, deltas = zip(*deltas, strict=True)
        return super().bwd_examples(saved, deltas, axis)

    def _walk_back(self, params, carry, dy, key, backward):
        """The backward walk, with `backward(layer, residuals, dy) -> (kept, dx)` of each layer."""
        self.require_one_for_each("params", params)
        moved, other, padded = carry
        shape = (*moved.value.shape[:-1], 2 * moved.value.shape[-1])
        if getattr(dy, "shape", None) != shape:
            got = str(jax.tree.map(jnp.shape, dy))
            raise ValueError(
                f"reversible: dy must have the shape of the output, {shape}, got {got:.200}"
            )
        d_moved, d_other = _split(dy)
        kept: list = []
        for i in reversed(range(len(self.layers))):
            moved, other, d_moved, d_other = other, moved, d_other, d_moved
            source = computed_after(other.value, d_moved)
            y, saved = self.layers[i].fwd(params[i], with_values(padded, source), self._key(key, i))
            moved = moved.plus(-values_of(y))
            of_layer, dx = backward(self.layers[i], saved, d_moved)
            d_other = d_other + dx
            kept.insert(0, of_layer)
        return (
            tuple(kept),
            Halves(moved, other, padded),
            jnp.concatenate([d_moved, d_other], axis=-1),
        )

    def _walk(self, params, carry, run):
        """The carry after all couplings; `run(i, params, x)` is the output of layer i."""
        self.require_one_for_each("params", params)
        moved, other, padded = carry
        i = 0
        try:
            for i, layer_params in enumerate(params):
                change = values_of(run(i, layer_params, with_values(padded, other.value)))
                if (change.shape, change.dtype) != (moved.value.shape, moved.value.dtype):
                    raise ValueError(
                        f"it gives {change.dtype}{change.shape} for {moved.value.dtype}"
                        f"{moved.value.shape}; in `reversible` it must keep the shape and the dtype"
                    )
                moved, other = other, moved.plus(change)
        except (TypeError, ValueError) as error:
            raise located(error, i, self.layers[i]) from None
        return Halves(moved, other, padded)

    def _applied(self, i, params, x):
        return self.layers[i].apply(params, x)

    def _trained(self, key, i, params, x):
        return self.layers[i].fwd(params, x, self._key(key, i))[0]

    def _key(self, key, i):
        return None if key is None else jax.random.fold_in(key, i)

    def extend(self, params, x, cache):
        """The halves at the next positions."""
        caches = list(cache)

        def run(i, layer_params, x):
            y, caches[i] = self.layers[i].extend(layer_params, x, cache[i])
            return y

        carry = self._walk(params, self.carry_of(x), run)
        return self.output_of(carry), tuple(caches)


def reversible(*layers: Layer | Op) -> Reversible:
    """Pairs of layers that save only their last output: y₁ = x₁ + f(x₂), y₂ = x₂ + g(y₁).

    x₁ and x₂ are the halves of x along its last axis, y₁ and y₂ those of y. Further pairs follow in
    sequence. `stacked(reversible(f, g), n)` also saves only its last output: the memory of the
    backward does not depend on the depth.

    The input follows from the output, g first:
        x₂ = y₂ − g(y₁)
        x₁ = y₁ − f(x₂)

    Backward. From ẏ₁ = ẋ₁ + f'(x₂)·ẋ₂ and ẏ₂ = ẋ₂ + g'(y₁)·ẏ₁,
        ⟨dy₁, ẏ₁⟩ + ⟨dy₂, ẏ₂⟩ = ⟨dy₁ + g'(y₁)ᵀ·dy₂, ẏ₁⟩ + ⟨dy₂, ẋ₂⟩
    so with g.bwd and f.bwd at the inputs found above,
        dx₁ = dy₁ + g.bwd(dy₂)
        dx₂ = dy₂ + f.bwd(dx₁)
    and the gradients of the parameters are those of the same two calls. The keys of random layers
    are those of the forward, so their masks are the same.

    Saves: y, and the rounding errors of its sums, an array like y. Without them x would be
    recovered with an error that grows with depth. With them it is recovered exactly, as long as the
    activations grow less than about 2²⁴-fold from the first layer to the last: normalise inside f
    and g.

    Args:
        *layers: f, g, and further pairs; layers, or ops of one argument, whose output has the shape
            of their input, half of x.

    Raises:
        TypeError: an argument is neither.
        ValueError: the number of layers is odd, or one has a state; later, the last axis of x is
            odd, or a layer changes the shape or the dtype.

    Reference: A. Gomez et al., "The Reversible Residual Network: Backpropagation Without Storing
    Activations", 2017, equations 6 to 8.

    Example:
        >>> block = jaxnn.reversible(
        ...     jaxnn.serial(jaxnn.LayerNorm(4), jaxnn.Linear(4, 4), jaxnn.tanh),
        ...     jaxnn.serial(jaxnn.LayerNorm(4), jaxnn.Linear(4, 4), jaxnn.tanh),
        ... )
        >>> net = jaxnn.stacked(block, 16)
        >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 8))).shape
        (5, 8)
    """
    return Reversible(tuple(map(as_layer, layers)))


def _split(values):
    return jnp.split(values, 2, axis=-1)
