"""Pooling: the largest number or the average of each window, or the average of everything."""

import math
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_for_each_axis,
    require_padding,
)
from jaxnn.ops._common.windows import Lengths, Padding, Size, Windows, windows_along
from jaxnn.ops.shape import Shape, ShapeResiduals

Input = Float[Array, "N *L C"]
Padded = Float[Array, "N *P C"]
Pooled = Float[Array, "N *M C"]


class MaxPoolResiduals(NamedTuple):
    """For each pooled axis, the last one first, where in its window the largest number was."""

    places: tuple[Integer[Array, "..."], ...]
    x: Shape


@op
def max_pool(
    x: Input, *, window: Lengths, stride: Lengths | None = None, padding: Padding = "VALID"
) -> Pooled:
    """Max pooling, y = the largest number of each window, in each channel.

    Shapes:
        N batch; L one or more pooled axes; M windows along each of them; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C) with M = ⌊(L + padding − window)/stride⌋ + 1

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = ẋ at iₘ, the place of the largest number of window m:
        ⟨dy, ẏ⟩ = Σₘ dyₘ·ẋ[iₘ], so
        dxᵢ = Σ dyₘ over the windows m with iₘ = i

    Of equal numbers the first one counts, with the last pooled axis running fastest. NaN counts as
    the largest number. Padding never counts: it acts as −∞, and iₘ of a window of nothing but −∞
    is its first entry outside the padding (where autodiff gives dyₘ to the padding).

    Saves the place within the window for each pooled axis, one byte each for windows below 256,
    instead of x and y.

    Implementation notes:
        One axis is pooled after the other, the last one first, so that a window of h·w costs h + w
        comparisons. dx is assembled by comparing places, without a scatter: where windows overlap k
        times along an axis, it is a sum of k shifted parts. The padding repeats the entries at the
        edge: every window that reaches into the padding holds that entry as well, so that its
        copies never win. A padding of −∞ would raise under `jax_debug_infs`.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; by default the window, so that none overlap.
        padding: "VALID" for none, "SAME" for M = ⌈L/stride⌉, or (before, after) for each axis.

    Raises:
        TypeError: x is not floating point, or an option has a wrong type.
        ValueError: x has no axis to pool, a length is not positive, the options do not fit the
            axes, or a window is larger than the padded input or lies entirely in the padding.

    Reference: D. Scherer et al., "Evaluation of Pooling Operations in Convolutional Architectures
    for Object Recognition", 2010.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 2.0, 2.0]]).reshape(1, 4, 1)
        >>> print(jaxnn.max_pool(x, window=2).reshape(2))
        [3. 2.]
    """
    lowest = np.asarray(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, *_windows_of_lax(x, window, stride, padding))


@max_pool.validate
def _(x, *, window, stride, padding):
    _require_windows(x, window, stride, padding)


@max_pool.forward
def max_pool_fwd(x, *, window, stride=None, padding="VALID"):
    """y = the largest number along each axis in turn, and its places."""
    y, places = x, []
    for axis in reversed(_pooled(x.shape, window, stride, padding)):
        y, place = _max_along(y, axis)
        places.append(place)
    return y, MaxPoolResiduals(tuple(places), Shape(x.shape))


@max_pool.backward
@wide
def max_pool_bwd(residuals, dy, *, window, stride=None, padding="VALID"):
    """dxᵢ = Σ dyₘ over the windows whose largest number is at i."""
    dx = dy
    axes = _pooled(residuals.x.sizes, window, stride, padding)
    for axis, place in zip(axes, reversed(residuals.places), strict=True):
        dx = _sum_of_windows(dx, axis, place)
    return (dx,)


@op
def avg_pool(
    x: Input,
    *,
    window: Lengths,
    stride: Lengths | None = None,
    padding: Padding = "VALID",
    count_padding: bool = False,
) -> Pooled:
    """Average pooling, y = the mean of each window, in each channel.

    Shapes:
        N batch; L one or more pooled axes; M windows along each of them; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C) with M = ⌊(L + padding − window)/stride⌋ + 1

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = (1/nₘ)·Σ ẋᵢ over the entries i of window m:
        ⟨dy, ẏ⟩ = Σₘ (dyₘ/nₘ)·Σ ẋᵢ, so
        dxᵢ = Σ dyₘ/nₘ over the windows m that hold i

    nₘ is the number of entries outside the padding, as in Keras; with `count_padding` it is the
    size of the window everywhere, as by default in Flax and PyTorch.

    Saves no array: the derivative does not depend on x.

    Implementation notes:
        Both sums run along one axis after the other, so that a window of h·w costs h + w additions.
        Sums of float16 and bfloat16 are in float32.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; by default the window, so that none overlap.
        padding: "VALID" for none, "SAME" for M = ⌈L/stride⌉, or (before, after) for each axis.
        count_padding: whether the zeros of the padding count as entries.

    Raises:
        TypeError: x is not floating point, or an option has a wrong type.
        ValueError: x has no axis to pool, a length is not positive, the options do not fit the
            axes, or a window is larger than the padded input or lies entirely in the padding.

    Reference: Y. LeCun et al., "Handwritten Digit Recognition with a Back-Propagation Network",
    1989, section 4.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 2.0, 2.0, 5.0]]).reshape(1, 5, 1)
        >>> print(jaxnn.avg_pool(x, window=2, padding="SAME").reshape(3))
        [2. 2. 5.]
    """
    zero, windows = np.zeros((), x.dtype), _windows_of_lax(x, window, stride, padding)
    total = lax.reduce_window(x, zero, lax.add, *windows)
    if count_padding:
        return total / math.prod(windows[0])
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    return total / lax.reduce_window(ones, zero, lax.add, *windows)


@avg_pool.validate
def _(x, *, window, stride, padding, count_padding):
    _require_windows(x, window, stride, padding)
    if not isinstance(count_padding, bool):
        raise TypeError(f"option count_padding must be a bool, got {count_padding!r}")


@avg_pool.forward
@wide
def avg_pool_fwd(x, *, window, stride=None, padding="VALID", count_padding=False):
    """yₘ = (1/nₘ)·Σ xᵢ, summed along each axis in turn."""
    axes = _pooled(x.shape, window, stride, padding)
    y = x
    for axis in reversed(axes):
        y = reduce(jnp.add, _entries(_with_zeros(y, axis), axis))
    return y / _divisor(axes, count_padding, y.dtype), ShapeResiduals(Shape(x.shape))


@avg_pool.backward
@wide
def avg_pool_bwd(residuals, dy, *, window, stride=None, padding="VALID", count_padding=False):
    """dxᵢ = Σ dyₘ/nₘ over the windows that hold i."""
    axes = _pooled(residuals.x.sizes, window, stride, padding)
    dx = dy / _divisor(axes, count_padding, dy.dtype)
    for axis in axes:
        dx = _sum_of_windows(dx, axis)
    return (dx,)


@op
def global_avg_pool(x: Input) -> Float[Array, "N C"]:
    """Global average pooling, y = the mean over all axes but the first and the last.

    Shapes:
        N batch; L one or more pooled axes; C channels
        x, dx: (N, L…, C)
        y, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏ = (1/n)·Σ ẋᵢ, where n is the product of the sizes L:
        ⟨dy, ẏ⟩ = Σᵢ (dy/n)·ẋᵢ, so
        dxᵢ = dy/n for every i

    Saves no array: the derivative does not depend on x.

    Implementation notes:
        Sums of float16 and bfloat16 are in float32.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no axis to pool, or there is nothing to average.

    Reference: M. Lin et al., "Network In Network", 2013, section 3.2.

    Example:
        >>> jaxnn.global_avg_pool(jnp.ones((7, 5, 6, 3))).shape
        (7, 3)
    """
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


@global_avg_pool.validate
def _(x):
    require_floating(x=x)
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"x is {describe(x)}; between its first axis, the batch, and its last, the channels, "
            "there must be something to average"
        )


@global_avg_pool.forward
@wide
def global_avg_pool_fwd(x):
    """y = (1/n)·Σ xᵢ."""
    return jnp.mean(x, axis=range(1, x.ndim - 1)), ShapeResiduals(Shape(x.shape))


@global_avg_pool.backward
@wide
def global_avg_pool_bwd(residuals, dy):
    """dxᵢ = dy/n."""
    shape = residuals.x.sizes
    each = dy / math.prod(shape[1:-1])
    return (jnp.broadcast_to(jnp.expand_dims(each, range(1, len(shape) - 1)), shape),)


def _windows_of_lax(x, window, stride, padding):
    """The options of a definition as `lax.reduce_window` takes them: for every axis of x."""
    n_axes = x.ndim - 2
    stride = window if stride is None else stride
    windows, strides = ((n,) * n_axes if isinstance(n, int) else n for n in (window, stride))
    padding = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    return (1, *windows, 1), (1, *strides, 1), padding


def _pooled(shape, window, stride, padding) -> tuple[Windows, ...]:
    """The windows along each pooled axis."""
    axes = windows_along(shape, window, window if stride is None else stride, padding)
    # The stride of a single window means nothing; one block of at least its length costs least.
    return tuple(a._replace(stride=max(a.stride, a.length)) if a.number == 1 else a for a in axes)


def _max_along(x: Input, axis: Windows) -> tuple[Pooled, Integer[Array, "..."]]:
    """The largest number of each window along one axis, and its place in the window."""
    largest, *others = _entries(_with_edges(x, axis), axis)
    first = jnp.asarray(_first_inside(axis), jnp.uint8 if axis.length < 2**8 else jnp.int32)
    place = jnp.broadcast_to(_along(axis, first, x.ndim), largest.shape)
    for i, entry in enumerate(others, start=1):
        wins = ~(entry <= largest) & (largest == largest)
        largest = jnp.where(wins, entry, largest)
        place = jnp.where(wins, jnp.asarray(i, place.dtype), place)
    return largest, place


def _sum_of_windows(dy: Pooled, axis: Windows, place=None) -> Input:
    """The sum, for each entry along one axis, of the dy of the windows that hold it.

    The axis is seen as blocks of `stride` entries. Window m begins with block m and extends over
    `overlap` blocks: block a of the window has the places a·stride … (a + 1)·stride − 1.

    Args:
        dy: one number for each window.
        axis: the windows.
        place: the one place of each window that its dy goes to; by default all its places.
    """
    behind = axis.axis + 1
    total: Any = 0
    chosen: np.ndarray | Array
    for block in range(axis.overlap):
        shift = block, axis.overlap - 1 - block
        places = block * axis.stride + np.arange(axis.stride, dtype=np.int32)
        places = places.reshape(*(-1 if i == behind else 1 for i in range(dy.ndim + 1)))
        if place is None:
            chosen = places < axis.length
        else:
            shifted = jnp.expand_dims(_padded(place, axis, *shift), behind)
            chosen = shifted.astype(jnp.int32) == places
        part = jnp.expand_dims(_padded(dy, axis, *shift), behind)
        total = total + jnp.where(chosen, part, 0)
    n_covered = (axis.number + axis.overlap - 1) * axis.stride
    total = total.reshape(*dy.shape[: axis.axis], n_covered, *dy.shape[behind:])
    return _padded(total, axis, -axis.before, axis.before + axis.size - n_covered)


def _entries(padded: Padded, axis: Windows) -> list[Pooled]:
    """For each place in a window along one axis, the entries there, one for each window."""
    return [
        lax.slice_in_dim(padded, place, place + axis.spread, axis.stride, axis.axis)
        for place in range(axis.length)
    ]


def _with_zeros(x: Input, axis: Windows) -> Padded:
    """x with the padding of one axis."""
    return _padded(x, axis, axis.before, axis.after)


def _with_edges(x: Input, axis: Windows) -> Padded:
    """x with its first and its last entry repeated in the padding of one axis."""
    pairs = [(0, 0)] * x.ndim
    pairs[axis.axis] = axis.before, axis.after
    return jnp.pad(x, pairs, mode="edge")


def _padded(x: Array, axis: Windows, before: Size, after: Size) -> Array:
    """x with zeros before and after along one axis; a negative number drops entries."""
    pairs = [(0, 0, 0)] * x.ndim
    pairs[axis.axis] = before, after, 0
    return lax.pad(x, jnp.zeros((), x.dtype), pairs)


def _first_inside(axis: Windows):
    """For each window, its first place outside the padding."""
    return (-axis.starts).clip(min=0)


def _divisor(axes: tuple[Windows, ...], count_padding: bool, dtype) -> Float[Array, "..."]:
    """The number that the sum of each window is divided by."""
    if count_padding:
        return jnp.asarray(math.prod(axis.length for axis in axes), dtype)
    counts = [
        (axis.size - axis.starts).clip(max=axis.length) - _first_inside(axis) for axis in axes
    ]
    ndim = len(axes) + 2
    each = [_along(axis, n, ndim) for axis, n in zip(axes, counts, strict=True)]
    return jnp.asarray(math.prod(each), dtype)


def _along(axis: Windows, numbers, ndim: int):
    """One number for each window, along the axis of an array with `ndim` axes."""
    return numbers.reshape(*(-1 if i == axis.axis else 1 for i in range(ndim)))


def _require_windows(x, window, stride, padding) -> None:
    """Raise unless the options fit x, which has axes to pool, and every window holds some of it."""
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
    for axis in _pooled(x.shape, window, stride, padding):
        padded = axis.size + axis.before + axis.after
        if axis.size == 0 or axis.number < 1:
            raise ValueError(
                f"the window has length {axis.length} along axis {axis.axis} but x is "
                f"{describe(x)}, {padded} along that axis with its padding"
            )
        # Padding of "SAME" is shorter than a window.
        if not isinstance(padding, str) and (
            axis.before >= axis.length
            or (axis.after >= axis.length and axis.spread > axis.before + axis.size)
        ):
            raise ValueError(
                f"a window of length {axis.length} along axis {axis.axis} lies in the "
                f"padding {(axis.before, axis.after)} altogether; x is {describe(x)}"
            )
