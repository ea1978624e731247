"""The windows of a pooling or a convolution, which slide along an axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Size = Any  # an int, or a symbolic dimension of `jax.export`
Lengths = int | tuple[int, ...]
OfAxis = int | tuple[int, int] | str  # the padding of one axis
Padding = int | str | tuple[OfAxis, ...]


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
        beyond: the part of `after` that only completes the last window in ceiling mode. An average
            does not count it as padding; a negative number is padding that no window reaches.
    """

    axis: int
    size: Size
    length: int
    stride: int
    before: Size
    after: Size
    dilation: int = 1
    beyond: Size = 0

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


class Shares(NamedTuple):
    """The windows of an adaptive pooling: a given number of them covers one axis.

    Window m holds the entries ⌊m·size/number⌋ … ⌈(m + 1)·size/number⌉ − 1.

    Attributes:
        axis: the axis of the array.
        size: the number of entries along it.
        number: the number of windows.
    """

    axis: int
    size: int
    number: int

    @property
    def starts(self) -> np.ndarray:
        """Where each window starts."""
        return np.arange(self.number) * self.size // self.number

    @property
    def lengths(self) -> np.ndarray:
        """The number of entries in each window."""
        return -(-np.arange(1, self.number + 1) * self.size // self.number) - self.starts

    @property
    def are_equal(self) -> bool:
        """Whether the windows have equally many entries, and no entry in common."""
        return self.size % self.number == 0

    @property
    def holders(self) -> "Shares":
        """The windows that hold each entry: ⌊i·number/size⌋ … ⌈(i + 1)·number/size⌉ − 1."""
        return Shares(self.axis, self.number, self.size)

    def entries(self) -> list[np.ndarray]:
        """For each place in a window, the entry there; shorter windows repeat their last entry."""
        last = self.lengths - 1
        places = range(int(last.max()) + 1)
        return [(self.starts + np.minimum(place, last)).astype(np.int32) for place in places]


def windows_along(
    shape: tuple[Size, ...],
    length: Lengths,
    stride: Lengths,
    padding: Padding,
    dilation: Lengths = 1,
    *,
    ceil_mode: bool = False,
) -> tuple[Windows, ...]:
    """The windows along each axis between the first and the last.

    Args:
        shape: the shape of the array.
        length: the number of entries in a window; like the others, one for all axes or for each.
        stride: the distance between windows.
        padding: the padding of the array.
        dilation: the distance between neighbours in a window.
        ceil_mode: whether one more window covers the last entries if the others do not.
    """
    sizes = shape[1:-1]
    lengths, strides, dilations = (for_each(n, sizes) for n in (length, stride, dilation))
    windows = []
    for axis, (size, length, stride, padded, dilation) in enumerate(
        zip(sizes, lengths, strides, _of_axes(padding, sizes), dilations, strict=True), start=1
    ):
        before, after = _pair(padded, size, _spread(length, dilation), stride)
        made = Windows(axis, size, length, stride, before, after, dilation)
        # "SAME" has ⌈size/stride⌉ windows already.
        covers = not ceil_mode or padded in ("SAME", "SAME_LOWER")
        windows.append(made if covers else _completed(made))
    return tuple(windows)


def transposed_windows(
    shape: tuple[Size, ...],
    length: Lengths,
    stride: Lengths,
    padding: Padding,
    dilation: Lengths = 1,
    output_padding: int | tuple[int, ...] = 0,
) -> tuple[Windows, ...]:
    """The windows of the convolution whose transpose has an input of this shape.

    Along each axis the transpose has `number` inputs and `size` outputs.
    """
    sizes = shape[1:-1]
    options = (length, stride, dilation, output_padding)
    of_axes = zip(*(for_each(n, sizes) for n in options), strict=True)
    windows = []
    for axis, (number, padded, (n, s, d, extra)) in enumerate(
        zip(sizes, _of_axes(padding, sizes), of_axes, strict=True), start=1
    ):
        reach = _spread(n, d)
        before, after = _pair_of_transpose(padded, reach, s)
        size = _spread(number, s) - 1 + reach - before - after + extra
        windows.append(Windows(axis, size, n, s, before, after - extra, d))
    return tuple(windows)


def padding_of_lax(
    padding: Padding,
    sizes: tuple[Size, ...],
    reaches: tuple[int, ...],
    strides: tuple[int, ...],
) -> tuple[tuple[Size, Size], ...]:
    """The padding as the pairs that JAX's own functions take, for definitions only.

    No forward or backward calls this, so it checks their padding.
    """
    pairs: list[tuple[Size, Size]] = []
    each = padding if isinstance(padding, tuple) else (padding,) * len(sizes)
    for padded, size, reach, stride in zip(each, sizes, reaches, strides, strict=True):
        if isinstance(padded, tuple):
            pairs.append(padded)
        elif padded == "CAUSAL":
            pairs.append((reach - 1, 0))
        elif isinstance(padded, str):
            pairs += lax.padtype_to_pads((size,), (reach,), (stride,), padded)
        else:
            pairs.append((padded, padded))
    return tuple(pairs)


def for_each(number: Lengths, sizes: tuple[Size, ...]) -> tuple[int, ...]:
    """An option that is one number or a tuple, as one number for each of these axes."""
    return number if isinstance(number, tuple) else (number,) * len(sizes)


def _spread(number, distance):
    """The number of entries that `number` points span at this distance, both ends included."""
    return distance * (number - 1) + 1


def _of_axes(padding: Padding, sizes) -> tuple[OfAxis, ...]:
    """The padding of each axis."""
    return padding if isinstance(padding, tuple) else (padding,) * len(sizes)


def _pair(padded: OfAxis, size: Size, reach: int, stride: int) -> tuple[Size, Size]:
    """The entries before and after one axis."""
    if isinstance(padded, int):
        return padded, padded
    if isinstance(padded, tuple):
        return padded
    if padded == "CAUSAL":
        return reach - 1, 0
    if padded == "VALID":
        return 0, 0
    total = jax.core.max_dim(((size - 1) // stride) * stride + reach - size, 0)
    less = total // 2
    return (less, total - less) if padded == "SAME" else (total - less, less)


def _pair_of_transpose(padded: OfAxis, reach: int, stride: int) -> tuple[int, int]:
    """The padding of the convolution whose transpose has this padding."""
    overlap = reach - stride
    if isinstance(padded, int):
        return padded, padded
    if isinstance(padded, tuple):
        return reach - 1 - padded[0], reach - 1 - padded[1]
    if padded == "CAUSAL":
        return 0, overlap
    if padded == "VALID":
        return 0, min(overlap, 0)
    less = max(overlap // 2, 0)
    more = overlap - less
    return (less, more) if padded == "SAME" or overlap < 0 else (more, less)


def _completed(windows: Windows) -> Windows:
    """The windows in ceiling mode: ⌈…⌉ replaces ⌊…⌋, but no window starts behind x."""
    size, reach, stride = windows.size, windows.reach, windows.stride
    covered = size + windows.before + windows.after
    number = -((reach - covered) // stride) + 1
    if stride > reach - windows.after:
        number = min(number, -(-(size + windows.before) // stride))
    beyond = stride * (number - 1) + reach - covered
    return windows._replace(after=windows.after + beyond, beyond=beyond)
