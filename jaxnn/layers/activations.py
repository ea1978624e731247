"""Activations with parameters as layers: PReLU and dynamic tanh."""

from dataclasses import dataclass, field

import jax.numpy as jnp

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.ops._common.validation import require_number
from jaxnn.ops.activations.parametric import dynamic_tanh, prelu


@dataclass(frozen=True, repr=False)
class PReLU(ParametricOpLayer):
    """Parametric ReLU with params {"slope": ()}, or {"slope": (n,)}; see `prelu`.

    Args:
        n: the size of the last axis, for a slope of each feature; `None` for one slope.
        slope: the initial slope.

    Raises:
        TypeError: slope is not a number.
        ValueError: n is neither a positive integer nor `None`.

    Example:
        >>> layer = jaxnn.PReLU()
        >>> print(layer.apply(layer.init(jax.random.key(0)), jnp.array([-2.0, 3.0])))
        [-0.5  3. ]
    """

    n: int | None = None
    slope: float = field(default=0.25, kw_only=True)

    op = prelu
    position_wise = True

    def __post_init__(self):
        if self.n is not None:
            require_sizes("PReLU", n=self.n)
        _require_number("PReLU", "slope", self.slope)

    def init(self, key):
        """The same slope everywhere."""
        return {"slope": jnp.full(() if self.n is None else self.n, float(self.slope))}


@dataclass(frozen=True, repr=False)
class DynamicTanh(ParametricOpLayer):
    """Dynamic tanh with params {"alpha": (), "scale": (n,), "bias": (n,)}; see `dynamic_tanh`.

    Args:
        n: the size of the last axis.
        alpha: the initial α.
        use_scale: whether params has a "scale"; it starts at 1.
        use_bias: whether params has a "bias"; it starts at 0.

    Raises:
        TypeError: alpha is not a number.
        ValueError: n is not a positive integer.

    Example:
        >>> layer = jaxnn.DynamicTanh(3)
        >>> y = layer.apply(layer.init(jax.random.key(0)), jnp.array([-100.0, 0.0, 2.0]))
        >>> [round(float(feature), 3) for feature in y]
        [-1.0, 0.0, 0.762]
    """

    n: int
    alpha: float = field(default=0.5, kw_only=True)
    use_scale: bool = field(default=True, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    op = dynamic_tanh
    position_wise = True

    def __post_init__(self):
        require_sizes("DynamicTanh", n=self.n)
        _require_number("DynamicTanh", "alpha", self.alpha)

    def init(self, key):
        """α as given, the scale 1 and the bias 0."""
        params = {"alpha": jnp.asarray(float(self.alpha))}
        if self.use_scale:
            params["scale"] = jnp.ones(self.n)
        if self.use_bias:
            params["bias"] = jnp.zeros(self.n)
        return params


def _require_number(layer, name, value) -> None:
    """Raise, with the layer's name, unless an option is a number."""
    try:
        require_number(name, value)
    except TypeError as error:
        raise TypeError(f"{layer}: {error}") from None
