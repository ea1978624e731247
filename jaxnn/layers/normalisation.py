"""Layers that normalise each example: layer, RMS, group and instance norm."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import jax

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.ops._common.validation import require_number
from jaxnn.ops.normalisation import (
    group_norm,
    instance_norm,
    layer_norm,
    require_groups,
    rms_norm,
)

ONES, ZEROS = jax.nn.initializers.ones, jax.nn.initializers.zeros


class NormalisationLayer(ParametricOpLayer):
    """The base of the normalisation layers, with optional params {"scale": (n,), "bias": (n,)}."""

    n: int | tuple[int, ...]
    use_bias = False

    def __post_init__(self):
        name = type(self).__name__
        for size in self.shape or (0,):
            require_sizes(name, n=size)
        try:
            require_number("eps", self.eps, above=0)
            self.require_options()
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each parameter."""
        return self.n if isinstance(self.n, tuple) else (self.n,)

    @property
    def axis(self) -> tuple[int, ...] | int:
        """The axes that have this shape, the last ones."""
        return tuple(range(-len(self.shape), 0)) if isinstance(self.n, tuple) else -1

    def require_options(self) -> None:
        """Raise unless the options of the layer are valid."""

    def init(self, key):
        """The scale by `scale_init` and the bias by `bias_init`."""
        scale_key, bias_key = jax.random.split(key)
        params = {}
        if self.use_scale:
            params["scale"] = self.scale_init(scale_key, self.shape)
        if self.use_bias:
            params["bias"] = self.bias_init(bias_key, self.shape)
        return params

    def bwd(self, residuals, dy):
        """`op.bwd`, of the parameters and the input."""
        dparams, dx, *_ = self.op.bwd(residuals, dy)
        return dparams, dx

    def bwd_input(self, residuals, dy):
        """`op.bwd_input`, of the input."""
        deltas, dx, *_ = self.op.bwd_input(residuals, dy)
        return deltas, dx


@dataclass(frozen=True, repr=False)
class LayerNorm(NormalisationLayer):
    """Layer norm of the last axis, with params {"scale": (n,), "bias": (n,)}; see `layer_norm`.

    Args:
        n: the size of the last axis, or a tuple of the sizes of the last axes, which are normalised
            together.
        eps: ε, above 0.
        scale_offset: a number that is added to the scale; with 1, `scale_init` should give zeros.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: whether params has a "scale".
        use_bias: whether params has a "bias".

    Raises:
        ValueError: n is not a positive integer, or eps is not above 0.

    Example:
        >>> layer = jaxnn.LayerNorm(3)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([1.0, 2.0, 3.0]))
        >>> [round(float(feature), 2) for feature in y]
        [-1.22, 0.0, 1.22]
    """

    n: int | tuple[int, ...]
    eps: float = field(default=1e-5, kw_only=True)
    scale_offset: float = field(default=0.0, kw_only=True)
    scale_init: Callable = field(default=ONES, kw_only=True)
    bias_init: Callable = field(default=ZEROS, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    position_wise = True

    def require_options(self) -> None:
        """Raise unless the offset is a number."""
        require_number("scale_offset", self.scale_offset)

    @cached_property
    def op(self):
        """`layer_norm` with the layer's axes, ε and offset."""
        return layer_norm.bind(axis=self.axis, eps=self.eps, scale_offset=self.scale_offset)


@dataclass(frozen=True, repr=False)
class RMSNorm(NormalisationLayer):
    """RMS norm of the last axis, with params {"scale": (n,)}; see `rms_norm`.

    Args:
        n: the size of the last axis, or a tuple of the sizes of the last axes, which are normalised
            together.
        eps: ε, above 0.
        scale_offset: a number that is added to the scale; with 1, `scale_init` should give zeros.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        use_scale: whether params has a "scale".

    Raises:
        ValueError: n is not a positive integer, or eps is not above 0.

    Example:
        >>> layer = jaxnn.RMSNorm(2)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([1.0, 7.0]))
        >>> [round(float(feature), 2) for feature in y]
        [0.2, 1.4]
    """

    n: int | tuple[int, ...]
    eps: float = field(default=1e-5, kw_only=True)
    scale_offset: float = field(default=0.0, kw_only=True)
    scale_init: Callable = field(default=ONES, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)

    position_wise = True

    def require_options(self) -> None:
        """Raise unless the offset is a number."""
        require_number("scale_offset", self.scale_offset)

    @cached_property
    def op(self):
        """`rms_norm` with the layer's axes, ε and offset."""
        return rms_norm.bind(axis=self.axis, eps=self.eps, scale_offset=self.scale_offset)


@dataclass(frozen=True, repr=False)
class GroupNorm(NormalisationLayer):
    """Group norm of n channels, with params {"scale": (n,), "bias": (n,)}; see `group_norm`.

    Args:
        groups: the number of groups.
        n: the number of channels.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: whether params has a "scale".
        use_bias: whether params has a "bias".

    Raises:
        TypeError: groups is not an integer.
        ValueError: n is not a positive integer, groups does not divide it, or eps is not above 0.

    Example:
        >>> layer = jaxnn.GroupNorm(2, 4)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([[1.0, 3.0, 10.0, 30.0]]))
        >>> [round(float(channel), 2) for channel in y[0]]
        [-1.0, 1.0, -1.0, 1.0]
    """

    groups: int
    n: int
    eps: float = field(default=1e-5, kw_only=True)
    scale_init: Callable = field(default=ONES, kw_only=True)
    bias_init: Callable = field(default=ZEROS, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    def require_options(self) -> None:
        """Raise unless the groups divide the channels."""
        require_groups(self.groups, self.n)

    @cached_property
    def op(self):
        """`group_norm` with the layer's groups and ε."""
        return group_norm.bind(groups=self.groups, eps=self.eps)


@dataclass(frozen=True, repr=False)
class InstanceNorm(NormalisationLayer):
    """Instance norm of n channels, with params {"scale": (n,), "bias": (n,)}; see `instance_norm`.

    Args:
        n: the number of channels.
        eps: ε, above 0.
        scale_init: `(key, shape) -> scale`, one of `jax.nn.initializers`.
        bias_init: the same for the bias.
        use_scale: whether params has a "scale".
        use_bias: whether params has a "bias".

    Raises:
        ValueError: n is not a positive integer, or eps is not above 0.

    Example:
        >>> from jaxnn.layers.normalisation import InstanceNorm
        >>> layer = InstanceNorm(2)
        >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])
        >>> print(jnp.round(layer.apply(layer.init(jax.random.key(0)), x), 2))
        [[[-1. -1.]
          [ 1.  1.]]]
    """

    n: int
    eps: float = field(default=1e-5, kw_only=True)
    scale_init: Callable = field(default=ONES, kw_only=True)
    bias_init: Callable = field(default=ZEROS, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    @cached_property
    def op(self):
        """`instance_norm` with the layer's ε."""
        return instance_norm.bind(eps=self.eps)
