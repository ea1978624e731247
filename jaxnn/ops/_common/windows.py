"""Windows that slide along an axis, of a pooling or of a convolution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Size = Any  # an int, or a symbolic dimension of `jax.export`
Lengths = int | tuple[int, ...]
Padding = str | tuple[tuple[int, int], ...]


class Windows(NamedTuple):
    """The windows along one axis: window m holds the entries stride·m + dilation·k − before.

    k runs over 0 … length − 1. Entries outside 0 … size − 1 are padding.

    Attributes:
        axis: the axis of the array.
        size: the number of entries along it.
        length: the number of entries in a window.
        stride: the distance from one window to the next.
        before: the padding in front; a negative number drops entries.
        after: the padding behind; a negative number drops entries.
        dilation: the distance between neighbours in a window.
    """

    axis: int
    size: Size
    length: int
    stride: int
    before: Size
    after: Size
    dilation: int = 1

    @property
    def reach(self) -> int:
        """The number of entries from the first of a window to its last, both included."""
        return _spread(self.length, self.dilation)

    @property
    def number(self) -> Size:
        """The number of windows."""
        return (self.size + self.before + self.after - self.reach) // self.stride + 1

    @property
    def spread(self) -> Size:
        """The number of entries from the start of the first window to that of the last."""
        return _spread(self.number, self.stride)

    @property
    def overlap(self) -> int:
        """The largest number of windows that hold the same entry."""
        return -(-self.reach // self.stride)

    @property
    def starts(self) -> np.ndarray | jax.Array:
        """Where each window starts; a negative number lies in the padding."""
        arange = np.arange if isinstance(self.number, int) else jnp.arange
        return self.stride * arange(self.number) - self.before


def windows_along(
    shape: tuple[Size, ...],
    length: Lengths,
    stride: Lengths,
    padding: Padding,
    dilation: Lengths = 1,
) -> tuple[Windows, ...]:
    """The windows along each axis between the first and the last."""
    sizes = shape[1:-1]
    lengths, strides, dilations = (for_each(n, sizes) for n in (length, stride, dilation))
    if isinstance(padding, str):
        reaches = tuple(map(_spread, lengths, dilations))
        pairs = tuple(lax.padtype_to_pads(sizes, reaches, strides, padding))
    else:
        pairs = padding
    return tuple(
        Windows(axis, size, length, stride, before, after, dilation)
        for axis, (size, length, stride, (before, after), dilation) in enumerate(
            zip(sizes, lengths, strides, pairs, dilations, strict=True), start=1
        )
    )


def transposed_windows(
    shape: tuple[Size, ...],
    length: Lengths,
    stride: Lengths,
    padding: Padding,
    dilation: Lengths = 1,
) -> tuple[Windows, ...]:
    """The windows of the convolution whose transpose has an input of this shape.

    Along each axis the transpose has `number` inputs and `size` outputs.
    """
    sizes = shape[1:-1]
    lengths, strides, dilations = (for_each(n, sizes) for n in (length, stride, dilation))
    pairs = (padding,) * len(sizes) if isinstance(padding, str) else padding
    windows = []
    for axis, (number, length, stride, pair, dilation) in enumerate(
        zip(sizes, lengths, strides, pairs, dilations, strict=True), start=1
    ):
        reach, spread = _spread(length, dilation), _spread(number, stride)
        overlap = reach - stride
        if pair == "SAME":
            before = max(overlap // 2, 0)
            after = overlap - before
        elif pair == "VALID":
            before, after = 0, min(overlap, 0)
        else:
            before, after = (reach - 1 - padded for padded in pair)
        size = spread - 1 + reach - before - after
        windows.append(Windows(axis, size, length, stride, before, after, dilation))
    return tuple(windows)


def for_each(number: Lengths, sizes: tuple[Size, ...]) -> tuple[int, ...]:
    """An option that is one number or a tuple, as one number for each of these axes."""
    return number if isinstance(number, tuple) else (number,) * len(sizes)


def _spread(number, distance):
    """The entries that `number` points take up, both ends included, at this distance."""
    return distance * (number - 1) + 1
