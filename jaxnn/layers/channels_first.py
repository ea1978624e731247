"""Layers for images with the channels first."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnn.combinators import Around
from jaxnn.layer import Layer, as_layer
from jaxnn.op import Op


@dataclass(frozen=True, repr=False)
class ChannelsFirst(Around):
    """A layer for images (N, H, W, C), applied to (N, C, H, W); see `channels_first`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def apply(self, params, x, state=None):
        """The output with its channels moved to the front."""
        return _to_front(self.layer.apply(params, self.input_of_layer(x), state))

    def input_of_layer(self, x):
        """x with its channels moved to the back."""
        return _to_back("x", x)

    def fwd(self, params, x, key=None):
        """The output with its channels moved to the front, and the residuals of the layer."""
        y, saved = self.layer.fwd(params, self.input_of_layer(x), key)
        return _to_front(y), saved

    def bwd_input(self, residuals, dy):
        """The channels of dx and dy are moved like those of x and y."""
        deltas, dx = self.layer.bwd_input(residuals, _to_back("dy", dy))
        return deltas, _to_front(dx)


def channels_first(layer: Layer | Op) -> ChannelsFirst:
    """A layer for images (N, H, W, C), applied to (N, C, H, W), for any number of spatial axes.

    All layers and ops of jaxnn have the channels last. Around a whole network, data with the
    channels first, such as PyTorch's, is transposed once on either side. An output (N, K) is
    unchanged. Backward: the channels of dx and dy are moved like those of x and y.

    Args:
        layer: a layer, or an op of one argument.

    Raises:
        TypeError: it is neither.
        ValueError: x has fewer than two axes.

    Example:
        >>> layer = jaxnn.channels_first(jaxnn.Conv(3, 8, (5, 5), stride=2))
        >>> layer
        ChannelsFirst(Conv(3, 8, (5, 5), stride=2))
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((7, 3, 32, 32))).shape
        (7, 8, 16, 16)
    """
    return ChannelsFirst(as_layer(layer))


def _to_back(name, x):
    """An array with its second axis last, if it has more than two."""
    if not isinstance(x, jax.Array) or x.ndim < 2:
        got = f"shape {x.shape}" if isinstance(x, jax.Array) else f"a {type(x).__name__}"
        raise ValueError(f"channels_first: {name} must be an array (N, C, …), got {got}")
    return jnp.moveaxis(x, 1, -1) if x.ndim > 2 else x


def _to_front(x):
    """An array with its last axis second, if it has that many."""
    return jnp.moveaxis(x, -1, 1) if x.ndim > 2 else x
