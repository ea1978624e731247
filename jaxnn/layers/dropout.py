"""The dropout layer."""

from dataclasses import dataclass, field

from jaxnn.layer import Layer
from jaxnn.ops._common.validation import require_floating
from jaxnn.ops.dropout import dropout, require_broadcast_axes, require_rate
from jaxnn.padded import values_of, with_values


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Layer without params that drops a fraction of its input in training; see `dropout`.

    Inference (`apply`) is the identity. The training form needs a key.

    Args:
        rate: the fraction p, 0 ≤ p < 1.
        broadcast_axes: axes along which the mask is the same; (1, 2) drops whole channels of
            images.

    Raises:
        TypeError: rate is not a number, or broadcast_axes holds something other than integers.
        ValueError: rate is out of range; or, later, `fwd` gets no key.

    Example:
        >>> layer = jaxnn.Dropout(0.5)
        >>> print(layer.apply((), jnp.ones(3)))
        [1. 1. 1.]
        >>> y, residuals = layer.fwd((), jnp.ones(3), jax.random.key(4))
        >>> print(y)
        [2. 0. 2.]
    """

    rate: float
    broadcast_axes: int | tuple[int, ...] = field(default=(), kw_only=True)

    position_wise = True

    def __post_init__(self):
        try:
            require_rate(self.rate)
            require_broadcast_axes(self.broadcast_axes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Dropout: {error}") from None

    def apply(self, params, x, state=None):
        """x itself."""
        try:
            require_floating(x=values_of(x))
        except TypeError as error:
            raise TypeError(f"Dropout: {error}") from None
        return x

    def fwd(self, params, x, key=None):
        """`dropout(x, key)`."""
        if key is None:
            raise ValueError(
                "Dropout: training needs a key for the random mask; pass key= to fwd, or to the "
                "function that trains the network"
            )
        options = {"rate": self.rate, "broadcast_axes": self.broadcast_axes}
        y, residuals = dropout.fwd(values_of(x), key, **options)
        return with_values(x, y), residuals

    def bwd_input(self, residuals, dy):
        """The same mask on dy."""
        dx, _ = dropout.bwd(residuals, dy)
        return (), dx
