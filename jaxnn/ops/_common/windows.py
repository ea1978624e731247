"""One axis of a pooling: which of its entries are in which window."""

from typing import NamedTuple

import numpy as np
from jax import lax

from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_for_each_axis,
    require_padding,
)

Lengths = int | tuple[int, ...]
Padding = str | tuple[tuple[int, int], ...]


class PooledAxis(NamedTuple):
    """How one axis is pooled.

    Attributes:
        number: which axis of x it is.
        size: its length.
        window: the size of a window.
        stride: the steps from one window to the next.
        before: the padding in front.
        after: the padding behind.
    """

    number: int
    size: int
    window: int
    stride: int
    before: int
    after: int

    @property
    def n_windows(self) -> int:
        """How many windows there are."""
        return (self.size + self.before + self.after - self.window) // self.stride + 1

    @property
    def overlap(self) -> int:
        """How many windows may hold the same entry."""
        return -(-self.window // self.stride)

    @property
    def first(self) -> np.ndarray:
        """For each window, its first place outside of the padding."""
        return np.maximum(self.before - self.stride * np.arange(self.n_windows), 0)

    @property
    def counts(self) -> np.ndarray:
        """For each window, how many of its places are outside of the padding."""
        end = self.before + self.size - self.stride * np.arange(self.n_windows)
        return np.minimum(end, self.window) - self.first

    def along(self, numbers: np.ndarray, ndim: int) -> np.ndarray:
        """Numbers that stand along this axis of an array with `ndim` axes."""
        return numbers.reshape(*(-1 if i == self.number else 1 for i in range(ndim)))


def pooled_axes(shape, window: Lengths, stride: Lengths | None, padding: Padding):
    """The axes of x between the first and the last, and how each of them is pooled."""
    sizes = shape[1:-1]
    windows = _for_each(window, sizes)
    strides = windows if stride is None else _for_each(stride, sizes)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(sizes, windows, strides, padding)
    axes = [
        PooledAxis(number, *lengths, *pair)
        for number, (*lengths, pair) in enumerate(
            zip(sizes, windows, strides, padding, strict=True), start=1
        )
    ]
    # The stride of a window that is alone means nothing; as long as the window it costs least.
    return tuple(a._replace(stride=a.window) if a.n_windows == 1 else a for a in axes)


def require_windows(x, window, stride, padding) -> None:
    """x has axes to pool, the options fit them, and every window holds some of it."""
    require_floating(x=x)
    if x.ndim < 3:
        raise ValueError(
            f"x is {describe(x)}; it must have at least three axes: the batch first, the "
            "channels last, and in between what is pooled"
        )
    require_for_each_axis("window", window, x.ndim - 2)
    if stride is not None:
        require_for_each_axis("stride", stride, x.ndim - 2)
    require_padding(padding, x.ndim - 2)
    for axis in pooled_axes(x.shape, window, stride, padding):
        padded = axis.size + axis.before + axis.after
        if axis.size == 0 or axis.n_windows < 1:
            raise ValueError(
                f"the window has length {axis.window} along axis {axis.number} but x is "
                f"{describe(x)}, {padded} along that axis with its padding"
            )
        if axis.counts.min() < 1:
            raise ValueError(
                f"a window of length {axis.window} along axis {axis.number} lies in the "
                f"padding {(axis.before, axis.after)} altogether; x is {describe(x)}"
            )


def _for_each(length: Lengths, sizes) -> tuple[int, ...]:
    return (length,) * len(sizes) if isinstance(length, int) else length
