"""Pooling: the maximum or the average over windows of given size or number, or over all."""

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
from jaxnn.ops._common.windows import (
    Lengths,
    Padding,
    Shares,
    Size,
    Windows,
    padding_of_lax,
    windows_along,
)
from jaxnn.ops.shape import Shape, ShapeResiduals

Input = Float[Array, "N *L C"]
Padded = Float[Array, "N *P C"]
Pooled = Float[Array, "N *M C"]
Sizes = int | tuple[int | None, ...]


class MaxPoolResiduals(NamedTuple):
    """For each pooled axis, the last one first, the place of the largest number in its window."""

    places: tuple[Integer[Array, "..."], ...]
    x: Shape


class GlobalMaxPoolResiduals(NamedTuple):
    """The place of the largest number, counted over all pooled axes."""

    place: Integer[Array, "N C"]
    x: Shape


@op
def max_pool(
    x: Input,
    *,
    window: Lengths,
    stride: Lengths | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
) -> Pooled:
    """Max pooling, y = the largest number of each window, in each channel.

    Shapes:
        N batch; L one or more pooled axes; M windows along each of them; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C) with M = ⌊(L + padding − window)/stride⌋ + 1, or ⌈…⌉ + 1

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = ẋ at iₘ, the place of the largest number of window m:
        ⟨dy, ẏ⟩ = Σₘ dyₘ·ẋ[iₘ], so
        dxᵢ = Σ dyₘ over the windows m with iₘ = i

    Of equal numbers the first one counts, with the last pooled axis varying fastest. NaN counts as
    the largest number. Padding never counts: it acts as −∞, and iₘ of a window in which all is −∞
    is its first entry outside the padding (where autodiff gives dyₘ to the padding).

    Saves the place within the window for each pooled axis, one byte each for windows below 256,
    instead of x and y.

    Implementation notes:
        The axes are pooled in turn, the last one first, so that a window of h·w costs h + w
        comparisons. dx is assembled by comparing places, without a scatter: where windows overlap k
        times along an axis, it is a sum of k shifted parts. The padding repeats the entries at the
        edge: every window that reaches into the padding holds that entry as well, so that its
        copies never win. A padding of −∞ would raise under `jax_debug_infs`.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; by default the window, so that none overlap.
        padding: one choice for all axes or a tuple of one for each: "VALID" for none, "SAME" or
            "SAME_LOWER" for M = ⌈L/stride⌉ (an odd entry goes to the end, or to the start),
            "CAUSAL" for window − 1 entries before x, or an integer for both sides. A tuple may also
            hold pairs (before, after).
        ceil_mode: whether M is rounded up instead of down, so that a last window, which extends
            beyond the padding, holds the remaining entries. As in PyTorch, no window starts behind
            x.

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
    windows, strides, around, beyond = _windows_of_lax(x, window, stride, padding, ceil_mode)
    lowest = np.asarray(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, windows, strides, _sums(around, beyond))


@max_pool.validate
def _(x, **options):
    _require_windows(x, **options)


@max_pool.forward
def max_pool_fwd(x, **options):
    """y = the largest number along each axis in turn, and its places."""
    y, places = x, []
    for axis in reversed(_pooled(x.shape, **options)):
        y, place = _max_along(y, axis)
        places.append(place)
    return y, MaxPoolResiduals(tuple(places), Shape(x.shape))


@max_pool.backward
@wide
def max_pool_bwd(residuals, dy, **options):
    """dxᵢ = Σ dyₘ over the windows whose largest number is at i."""
    dx = dy
    axes = _pooled(residuals.x.sizes, **options)
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
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> Pooled:
    """Average pooling, y = the mean of each window, in each channel.

    Shapes:
        N batch; L one or more pooled axes; M windows along each of them; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C) with M = ⌊(L + padding − window)/stride⌋ + 1, or ⌈…⌉ + 1

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = (1/nₘ)·Σ ẋᵢ over the entries i of window m:
        ⟨dy, ẏ⟩ = Σₘ (dyₘ/nₘ)·Σ ẋᵢ, so
        dxᵢ = Σ dyₘ/nₘ over the windows m that hold i

    nₘ is the number of entries outside the padding, as in Keras; with `count_padding` those in the
    padding count as well, as by default in Flax and PyTorch. The entries by which the last window
    of `ceil_mode` extends beyond the padding never count.

    Saves no array: the derivative does not depend on x.

    Implementation notes:
        Both sums run along one axis at a time, so that a window of h·w costs h + w additions. Where
        windows overlap, XLA's own windows need a third of the memory of padded slices: for
        (64, 56, 56, 32), 3×3, stride 1, 51 and 133 MB; where they do not, slices are six times as
        fast. Sums of float16 and bfloat16 accumulate in float32.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; by default the window, so that none overlap.
        padding: one choice for all axes or a tuple of one for each: "VALID" for none, "SAME" or
            "SAME_LOWER" for M = ⌈L/stride⌉ (an odd entry goes to the end, or to the start),
            "CAUSAL" for window − 1 entries before x, or an integer for both sides. A tuple may also
            hold pairs (before, after).
        ceil_mode: whether M is rounded up instead of down, so that a last window, which extends
            beyond the padding, holds the remaining entries. As in PyTorch, no window starts behind
            x.
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
    windows, strides, around, beyond = _windows_of_lax(x, window, stride, padding, ceil_mode)
    zero, ones = np.zeros((), x.dtype), jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    whole = _sums(around, beyond)
    total = lax.reduce_window(x, zero, lax.add, windows, strides, whole)
    if count_padding:
        ones = lax.pad(ones, np.ones((), x.dtype), [(*pair, 0) for pair in around])
        whole = beyond
    return total / lax.reduce_window(ones, zero, lax.add, windows, strides, whole)


@avg_pool.validate
def _(x, *, count_padding, **options):
    _require_windows(x, **options)


@avg_pool.forward
@wide
def avg_pool_fwd(x, *, count_padding=False, **options):
    """yₘ = (1/nₘ)·Σ xᵢ, summed along each axis in turn."""
    axes = _pooled(x.shape, **options)
    y = x
    for axis in reversed(axes):
        if axis.overlap > 1:
            y = _sums_along(y, axis, (axis.before, axis.after), axis.stride)
        else:
            y = reduce(jnp.add, _entries(_with_zeros(y, axis), axis))
    return y / _divisor(axes, count_padding, y.dtype), ShapeResiduals(Shape(x.shape))


@avg_pool.backward
@wide
def avg_pool_bwd(residuals, dy, *, count_padding=False, **options):
    """dxᵢ = Σ dyₘ/nₘ over the windows that hold i."""
    axes = _pooled(residuals.x.sizes, **options)
    dx = dy / _divisor(axes, count_padding, dy.dtype)
    for axis in axes:
        if axis.overlap > 1:
            around = axis.length - 1 - axis.before, axis.size + axis.before - axis.spread
            dx = _sums_along(dx, axis, around, 1, axis.stride)
        else:
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
        Sums of float16 and bfloat16 accumulate in float32.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no axis to pool, or an empty one.

    Reference: M. Lin et al., "Network In Network", 2013, section 3.2.

    Example:
        >>> jaxnn.global_avg_pool(jnp.ones((7, 5, 6, 3))).shape
        (7, 3)
    """
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


@global_avg_pool.validate
def _(x):
    _require_space(x)


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


@op
def global_max_pool(x: Input) -> Float[Array, "N C"]:
    """Global max pooling, y = the largest number over all axes but the first and the last.

    Shapes:
        N batch; L one or more pooled axes; C channels
        x, dx: (N, L…, C)
        y, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏ = ẋ at i, the place of the largest number:
        dxᵢ = dy, and 0 elsewhere

    Of equal numbers the first one counts, with the last pooled axis varying fastest. NaN counts as
    the largest number.

    Saves i, one integer for each channel, instead of x and y.

    Implementation notes:
        i is the smallest place with x = y. XLA computes the argmax over a middle axis entry by
        entry, which takes nearly three times as long: 31 ms for (64, 56, 56, 32) on two cores,
        forward and backward, instead of 12 ms.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no axis to pool, or an empty one.

    Reference: M. Oquab et al., "Is object localization for free?", 2015, section 3.

    Example:
        >>> x = jnp.array([1.0, 5.0, 3.0, 5.0]).reshape(1, 2, 2, 1)
        >>> print(jaxnn.global_max_pool(x))
        [[5.]]
    """
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    first = jnp.argmax(rows, axis=1)[:, None]
    return jnp.take_along_axis(rows, first, axis=1)[:, 0]


@global_max_pool.validate
def _(x):
    _require_space(x)


@global_max_pool.forward
def global_max_pool_fwd(x):
    """y = the largest number, and its first place."""
    axes = tuple(range(1, x.ndim - 1))
    y = jnp.max(x, axis=axes)
    is_largest = (x == jnp.expand_dims(y, axes)) | (x != x)
    place = jnp.min(jnp.where(is_largest, _numbered(x.shape), np.iinfo(np.int32).max), axis=axes)
    return y, GlobalMaxPoolResiduals(place, Shape(x.shape))


@global_max_pool.backward
def global_max_pool_bwd(residuals, dy):
    """dx = dy at the place of the largest number, 0 elsewhere."""
    shape = residuals.x.sizes
    place, dy = (jnp.expand_dims(a, range(1, len(shape) - 1)) for a in (residuals.place, dy))
    return (jnp.where(_numbered(shape) == place, dy, 0),)


@op
def adaptive_max_pool(x: Input, *, size: Sizes) -> Pooled:
    """Max pooling to a given size, y = the largest number of each of M windows along each axis.

    Shapes:
        N batch; L one or more pooled axes; M windows along each, given by `size`; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C)

    Window m holds the entries ⌊m·L/M⌋ … ⌈(m + 1)·L/M⌉ − 1. Together they hold every entry, and
    neighbours share one where M does not divide L.

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = ẋ at iₘ, the place of the largest number of window m:
        dxᵢ = Σ dyₘ over the windows m with iₘ = i

    The windows that hold entry i are ⌊i·M/L⌋ … ⌈(i + 1)·M/L⌉ − 1: the same formula with L and M
    exchanged. Of equal numbers the first one counts, with the last pooled axis varying fastest. NaN
    counts as the largest number.

    Saves the place within the window for each pooled axis, one byte each for windows below 256,
    instead of x and y.

    Implementation notes:
        The axes are pooled in turn, the last one first, as in `max_pool`. The place is the smallest
        with x = y, as in `global_max_pool`.

    Args:
        x: the input.
        size: M, one for all pooled axes or one for each; `None` for an axis keeps its size.

    Raises:
        TypeError: x is not floating point, or size is not an integer.
        ValueError: x has no axis to pool, an axis is empty or of symbolic size, or size does not
            fit the axes.

    Reference: `torch.nn.AdaptiveMaxPool2d`, whose windows these are; K. He et al., "Spatial Pyramid
    Pooling in Deep Convolutional Networks", 2014, section 2.3.

    Example:
        >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
        >>> print(jaxnn.adaptive_max_pool(x, size=3).ravel())
        [4. 4. 3.]
    """
    for axis in reversed(range(1, x.ndim - 1)):
        windows = []
        for start, end in _adaptive_windows(x.shape, size, axis):
            window = lax.slice_in_dim(x, start, end, axis=axis)
            first = jnp.argmax(window, axis, keepdims=True)
            windows.append(jnp.take_along_axis(window, first, axis))
        x = jnp.concatenate(windows, axis)
    return x


@adaptive_max_pool.validate
def _(x, *, size):
    _require_sizes(x, size)


@adaptive_max_pool.forward
def adaptive_max_pool_fwd(x, *, size):
    """y = the largest number along each axis in turn, and its places."""
    y, places = x, []
    for axis in reversed(_shares(x.shape, size)):
        y, place = _max_of_shares(y, axis)
        places.append(place)
    return y, MaxPoolResiduals(tuple(places), Shape(x.shape))


@adaptive_max_pool.backward
@wide
def adaptive_max_pool_bwd(residuals, dy, *, size):
    """dxᵢ = Σ dyₘ over the windows whose largest number is at i."""
    dx = dy
    axes = _shares(residuals.x.sizes, size)
    for axis, place in zip(axes, reversed(residuals.places), strict=True):
        dx = _spread_to_places(dx, axis, place)
    return (dx,)


@op
def adaptive_avg_pool(x: Input, *, size: Sizes) -> Pooled:
    """Average pooling to a given size, y = the mean of each of M windows along each axis.

    Shapes:
        N batch; L one or more pooled axes; M windows along each, given by `size`; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C)

    Window m holds the entries ⌊m·L/M⌋ … ⌈(m + 1)·L/M⌉ − 1. Together they hold every entry, and
    neighbours share one where M does not divide L.

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩ with ẏₘ = (1/nₘ)·Σ ẋᵢ over the nₘ entries i of window m:
        dxᵢ = Σ dyₘ/nₘ over the windows m that hold i

    These are the windows ⌊i·M/L⌋ … ⌈(i + 1)·M/L⌉ − 1: the same formula with L and M exchanged.

    Saves no array: the derivative does not depend on x.

    Implementation notes:
        Both sums run along one axis at a time. Sums of float16 and bfloat16 accumulate in float32.

    Args:
        x: the input.
        size: M, one for all pooled axes or one for each; `None` for an axis keeps its size.

    Raises:
        TypeError: x is not floating point, or size is not an integer.
        ValueError: x has no axis to pool, an axis is empty or of symbolic size, or size does not
            fit the axes.

    Reference: `torch.nn.AdaptiveAvgPool2d`, whose windows these are; K. He et al., "Spatial Pyramid
    Pooling in Deep Convolutional Networks", 2014, section 2.3.

    Example:
        >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
        >>> print(jaxnn.adaptive_avg_pool(x, size=2).ravel())
        [2.3333333 1.6666666]
    """
    for axis in range(1, x.ndim - 1):
        windows = [
            jnp.mean(lax.slice_in_dim(x, start, end, axis=axis), axis, keepdims=True)
            for start, end in _adaptive_windows(x.shape, size, axis)
        ]
        x = jnp.concatenate(windows, axis)
    return x


@adaptive_avg_pool.validate
def _(x, *, size):
    _require_sizes(x, size)


@adaptive_avg_pool.forward
@wide
def adaptive_avg_pool_fwd(x, *, size):
    """yₘ = (1/nₘ)·Σ xᵢ along each axis in turn."""
    y = x
    for axis in reversed(_shares(x.shape, size)):
        y = _sum_of_shares(y, axis) / _lengths(axis, y)
    return y, ShapeResiduals(Shape(x.shape))


@adaptive_avg_pool.backward
@wide
def adaptive_avg_pool_bwd(residuals, dy, *, size):
    """dxᵢ = Σ dyₘ/nₘ over the windows that hold i, along each axis in turn."""
    dx = dy
    for axis in _shares(residuals.x.sizes, size):
        dx = _sum_of_shares(dx / _lengths(axis, dx), axis.holders)
    return (dx,)


def _windows_of_lax(x, window, stride, padding, ceil_mode):
    """For a definition: the options in the form that `lax.reduce_window` takes, for every axis.

    Returns:
        The windows, their strides, the padding, and the entries beyond it in ceiling mode.
    """
    n_axes = x.ndim - 2
    stride = window if stride is None else stride
    windows, strides = ((n,) * n_axes if isinstance(n, int) else n for n in (window, stride))
    pairs = padding_of_lax(padding, x.shape[1:-1], windows, strides)
    beyond = [(0, 0)] * n_axes
    if ceil_mode:
        for i, (size, w, s, pair) in enumerate(
            zip(x.shape[1:-1], windows, strides, pairs, strict=True)
        ):
            number = math.ceil((size + sum(pair) - w) / s) + 1
            if (number - 1) * s >= size + pair[0]:  # the last one would start behind x
                number -= 1
            beyond[i] = 0, max((number - 1) * s + w - size - sum(pair), 0)
    around = [((0, 0), *each, (0, 0)) for each in (pairs, beyond)]
    return (1, *windows, 1), (1, *strides, 1), *around


def _sums(padding, beyond):
    """For a definition: both kinds of padding together."""
    return [(a + c, b + d) for (a, b), (c, d) in zip(padding, beyond, strict=True)]


def _pooled(shape, *, window, stride=None, padding="VALID", ceil_mode=False):
    """The `Windows` along each pooled axis."""
    stride = window if stride is None else stride
    axes = windows_along(shape, window, stride, padding, ceil_mode=ceil_mode)
    # The stride of a single window does not matter; one block of at least its length costs least.
    return tuple(a._replace(stride=max(a.stride, a.length)) if a.number == 1 else a for a in axes)


def _max_along(x: Input, axis: Windows) -> tuple[Pooled, Integer[Array, "..."]]:
    """The largest number of each window along one axis, and its place in the window."""
    entries = _entries(_with_edges(x, axis), axis)
    first = jnp.asarray(_first_inside(axis), _place_dtype(axis.length))
    return _largest(entries, jnp.broadcast_to(_along(axis, first, x.ndim), entries[0].shape))


def _largest(entries: list[Pooled], place) -> tuple[Pooled, Integer[Array, "..."]]:
    """The largest of these numbers, and its place; that of the first is given."""
    largest, *others = entries
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
        place: the place in each window to which its dy is added; by default every place.
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


def _sums_along(x: Array, axis: Windows, padding, stride: int, spread: int = 1) -> Array:
    """The sum of each window along one axis of x, whose entries are `spread` apart."""

    def of_axis(value, otherwise):
        return tuple(value if i == axis.axis else otherwise for i in range(x.ndim))

    return lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        of_axis(axis.length, 1),
        of_axis(stride, 1),
        of_axis(padding, (0, 0)),
        base_dilation=of_axis(spread, 1),
    )


def _with_edges(x: Input, axis: Windows) -> Padded:
    """x with its first and its last entry repeated in the padding of one axis.

    If there are gaps between the windows, entries may follow the last one: they are dropped.
    """
    x = lax.slice_in_dim(x, 0, axis.size + min(axis.after, 0), axis=axis.axis)
    pairs = [(0, 0)] * x.ndim
    pairs[axis.axis] = axis.before, max(axis.after, 0)
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
    counts: list[Any] = []
    for axis in axes:
        if not count_padding:
            number = (axis.size - axis.starts).clip(max=axis.length) - _first_inside(axis)
        elif axis.beyond == 0:
            number = axis.length
        else:
            end = axis.size + axis.after - axis.beyond
            number = (end - axis.starts).clip(max=axis.length)
        counts.append(number if isinstance(number, int) else _along(axis, number, len(axes) + 2))
    return jnp.asarray(math.prod(counts), dtype)


def _along(axis: Windows | Shares, numbers, ndim: int):
    """One number for each window, along the axis of an array with `ndim` axes."""
    return numbers.reshape(*(-1 if i == axis.axis else 1 for i in range(ndim)))


def _place_dtype(length: int):
    """The dtype of a place in a window of this length."""
    return jnp.uint8 if length < 2**8 else jnp.int32


def _numbered(shape) -> Integer[Array, "1 *L 1"]:
    """The index of each place in space, with the last axis varying fastest."""
    space = shape[1:-1]
    return jnp.arange(math.prod(space), dtype=jnp.int32).reshape(1, *space, 1)


def _adaptive_windows(shape, size, axis):
    """For a definition: where each window along an axis starts and ends."""
    length = shape[axis]
    number = size if isinstance(size, int) else size[axis - 1]
    number = length if number is None else number
    return [(m * length // number, math.ceil((m + 1) * length / number)) for m in range(number)]


def _shares(shape, size: Sizes) -> list[Shares]:
    """The windows along each axis, except for axes that keep their size."""
    sizes = size if isinstance(size, tuple) else (size,) * (len(shape) - 2)
    return [
        Shares(axis, shape[axis], number)
        for axis, number in enumerate(sizes, start=1)
        if number not in (None, shape[axis])
    ]


def _max_of_shares(x: Input, axis: Shares) -> tuple[Pooled, Integer[Array, "..."]]:
    """The largest number of each window along one axis, and its place in the window."""
    behind, length = axis.axis + 1, int(axis.lengths.max())
    dtype = _place_dtype(length)
    if axis.are_equal:
        blocks = x.reshape(*x.shape[: axis.axis], axis.number, length, *x.shape[behind:])
        largest = jnp.max(blocks, behind)
        is_largest = (blocks == jnp.expand_dims(largest, behind)) | (blocks != blocks)
        order = _order(length, behind, blocks.ndim)
        return largest, jnp.min(jnp.where(is_largest, order, length), behind).astype(dtype)
    parts = []
    for start, n in zip(axis.starts.tolist(), axis.lengths.tolist(), strict=True):
        entries = [lax.slice_in_dim(x, i, i + 1, axis=axis.axis) for i in range(start, start + n)]
        parts.append(_largest(entries, jnp.zeros(entries[0].shape, dtype)))
    largest, place = (jnp.concatenate(part, axis.axis) for part in zip(*parts, strict=True))
    return largest, place


def _spread_to_places(dy: Pooled, axis: Shares, place: Integer[Array, "..."]) -> Input:
    """The sum, for each entry along one axis, of the dy of the windows whose place is there.

    Args:
        dy: one number for each window.
        axis: the windows.
        place: the place in each window to which its dy is added.
    """
    behind, place = axis.axis + 1, place.astype(jnp.int32)
    if axis.are_equal:
        length = axis.size // axis.number
        chosen = jnp.expand_dims(place, behind) == _order(length, behind, dy.ndim + 1)
        dx = jnp.where(chosen, jnp.expand_dims(dy, behind), 0)
        return dx.reshape(*dy.shape[: axis.axis], axis.size, *dy.shape[behind:])
    total: Any = 0
    for k, window in enumerate(axis.holders.entries()):
        wanted = np.arange(axis.size) - axis.starts[window]
        wanted = np.where(k < axis.holders.lengths, wanted, -1).astype(np.int32)
        chosen = jnp.take(place, window, axis.axis, mode="clip") == _along(axis, wanted, dy.ndim)
        total = total + jnp.where(chosen, jnp.take(dy, window, axis.axis, mode="clip"), 0)
    return total


def _sum_of_shares(x: Float[Array, "..."], axis: Shares) -> Float[Array, "..."]:
    """The sum of the entries of each window along one axis."""
    before, after = x.shape[: axis.axis], x.shape[axis.axis + 1 :]
    if axis.are_equal:
        entries = x.reshape(*before, axis.number, axis.size // axis.number, *after)
        return jnp.sum(entries, axis.axis + 1)
    if axis.holders.are_equal:  # each window has one entry
        each = (*before, axis.size, axis.number // axis.size, *after)
        repeated = jnp.broadcast_to(jnp.expand_dims(x, axis.axis + 1), each)
        return repeated.reshape(*before, axis.number, *after)
    total: Any = 0
    for k, at in enumerate(axis.entries()):
        entries = jnp.take(x, at, axis.axis, mode="clip")
        is_held = k < axis.lengths
        if not is_held.all():
            entries = jnp.where(_along(axis, is_held, x.ndim), entries, 0)
        total = total + entries
    return total


def _lengths(axis: Shares, like: Array) -> Float[Array, "..."]:
    """The number of entries of each window, along the axis."""
    return jnp.asarray(_along(axis, axis.lengths, like.ndim), like.dtype)


def _order(length: int, axis: int, ndim: int) -> np.ndarray:
    """0 … length − 1 along one axis of an array with `ndim` axes."""
    numbers = np.arange(length, dtype=np.int32)
    return numbers.reshape(*(-1 if i == axis else 1 for i in range(ndim)))


def _require_space(x) -> None:
    """Raise unless x is floating point and has spatial axes, none of them empty."""
    require_floating(x=x)
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"x is {describe(x)}; between its first axis, the batch, and its last, the channels, "
            "it must have at least one axis to pool, and none that is empty"
        )


def _require_sizes(x, size) -> None:
    """Raise unless x has axes to pool and size fits them."""
    _require_space(x)
    n_axes = x.ndim - 2
    sizes = size if isinstance(size, tuple) else (size,) * n_axes
    if not all(number is None or type(number) is int for number in sizes) or size is None:
        raise TypeError(f"option size must be an integer or a tuple of integers, got {size!r}")
    if len(sizes) != n_axes or any(number is not None and number < 1 for number in sizes):
        raise ValueError(
            f"option size must be positive, one number or one for each of the {n_axes} axes "
            f"between the first and the last, got {size!r}"
        )
    if not all(isinstance(length, int) for length in x.shape[1:-1]):
        raise ValueError(
            f"x is {describe(x)}; adaptive pooling needs sizes that are known when it is traced, "
            "not symbolic ones"
        )


def _require_windows(x, *, window, stride, padding, ceil_mode) -> None:
    """Raise unless the options fit x, which has axes to pool, and every window holds some of it."""
    require_floating(x=x)
    if x.ndim < 3:
        raise ValueError(
            f"x is {describe(x)}; it must have at least three axes: the batch first, the "
            "channels last, and the axes to pool in between"
        )
    require_for_each_axis("window", window, x.ndim - 2)
    if stride is not None:
        require_for_each_axis("stride", stride, x.ndim - 2)
    require_padding(padding, x.ndim - 2)
    for axis in _pooled(x.shape, window=window, stride=stride, padding=padding):
        padded = axis.size + axis.before + axis.after
        if axis.size == 0 or (axis.number < 1 and not ceil_mode):
            raise ValueError(
                f"the window has length {axis.length} along axis {axis.axis} but x is "
                f"{describe(x)}, {padded} along that axis with its padding"
            )
        # That of "SAME", which may be symbolic, is shorter than a window.
        if isinstance(axis.before, int) and (
            axis.before >= axis.length
            or (axis.after >= axis.length and axis.spread > axis.before + axis.size)
        ):
            raise ValueError(
                f"a window of length {axis.length} along axis {axis.axis} lies entirely in the "
                f"padding {(axis.before, axis.after)}; x is {describe(x)}"
            )
