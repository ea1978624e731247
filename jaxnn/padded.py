"""Sequences of different lengths in one array."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer


class Padded(NamedTuple):
    """Sequences that are padded to one length, which layers accept in place of an array.

        net.apply(params, jaxnn.Padded(values, lengths))

    Layers over time (`RNN`, `GRU`, `LSTM`, `Bidirectional`, `MultiHeadAttention`,
    `TransformerBlock`) ignore the padding, whatever it holds, and so does `BatchNorm`. All others
    work on the values and pass the lengths on, so the output is `Padded` too. The gradient of a
    `Padded` is that of its values, an array. Training replaces the padding of the input by 0.

    Shapes:
        N batch; T the longest length
        values:  (N, T, …); inside `batch_first`, (T, N, …)
        lengths: (N,), optional
        mask:    optional, true for the keys that each query sees: (T, T), (N, 1, 1, T), or another
                 shape that `attention` takes; recurrent layers reject it

    Example:
        >>> layer = jaxnn.batch_first(jaxnn.LSTM(4, 3))
        >>> x = jaxnn.Padded(jnp.ones((2, 5, 4)), lengths=jnp.array([5, 2]))
        >>> y = layer.apply(layer.init(jax.random.key(0)), x)
        >>> y.values.shape, y.lengths.tolist(), bool((y.values[1, 2:] == 0).all())
        ((2, 5, 3), [5, 2], True)
    """

    values: Any
    lengths: Integer[Array, "*N"] | None = None
    mask: Bool[Array, "..."] | None = None

    @property
    def valid(self) -> Bool[Array, "N T"]:
        """The mask of the positions before the end of their sequence."""
        positions = jnp.arange(self.values.shape[1])[None]
        return positions < jnp.asarray(self.lengths).astype(int)[:, None]


class TimeFirst(Padded):
    """A `Padded` inside `batch_first`, with values (T, N, …)."""

    @property
    def valid(self) -> Bool[Array, "T N"]:
        """The mask of the positions before the end of their sequence."""
        positions = jnp.arange(self.values.shape[0])[:, None]
        return positions < jnp.asarray(self.lengths).astype(int)[None]


def swap_batch_and_time(x, name: str = "x"):
    """An array, or the values of a `Padded`, with the first two axes swapped."""
    values = values_of(x)
    if not isinstance(values, jax.Array) or values.ndim < 2:
        got = f"shape {values.shape}" if isinstance(values, jax.Array) else type(values).__name__
        raise ValueError(f"batch_first: {name} must be an array (N, T, …), got {got}")
    values = jnp.swapaxes(values, 0, 1)
    if not isinstance(x, Padded):
        return values
    kind = Padded if isinstance(x, TimeFirst) else TimeFirst
    return kind(values, x.lengths, x.mask)


def zero_padding(x):
    """The same array, or tree of them, with 0 beyond the lengths of each `Padded`."""

    def zeroed(part):
        if not isinstance(part, Padded) or part.lengths is None:
            return part
        valid = part.valid.reshape(part.valid.shape + (1,) * (part.values.ndim - 2))
        return part._replace(values=jnp.where(valid, part.values, 0))

    return jax.tree.map(zeroed, x, is_leaf=lambda part: isinstance(part, Padded))


def values_of(x):
    """The values of a `Padded`, or the array itself."""
    return x.values if isinstance(x, Padded) else x


def with_values(x, values):
    """These values, with the lengths and the mask of x if it has them."""
    return x._replace(values=values) if isinstance(x, Padded) else values
