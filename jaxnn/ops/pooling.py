"""Pooling: the largest number or the average of each window, or the average of everything."""

import math
from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import describe, require_floating
from jaxnn.ops._common.windows import (
    Lengths,
    Padding,
    PooledAxis,
    pooled_axes,
    require_windows,
)
from jaxnn.ops.shape import Shape, ShapeKept

Input = Float[Array, "N *L C"]
Windows = Float[Array, "N *M C"]


class MaxPoolResiduals(NamedTuple):
    """For each axis that is pooled, where in the window the largest number was."""

    places: tuple[Integer[Array, "..."], ...]
    x: Shape


@op
def max_pool(
    x: Input, *, window: Lengths, stride: Lengths | None = None, padding: Padding = "VALID"
) -> Windows:
    """Max pooling, y = the largest number of each window, in each channel.

    Shapes (N batch, L one or more pooled axes, M windows along each of them, C channels):
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C), M = ⌊(L + padding − window)/stride⌋ + 1

    Backward, with i* the place of the largest number of window m:
        yₘ = x at i*, so ∂yₘ/∂xᵢ = 1 if i = i* and else 0, and
        dxᵢ = Σ dyₘ over the windows m that found their largest number at i
    Of equal numbers the first one counts, in the order of the last pooled axis running fastest.
    A NaN counts as the largest. Padding is −∞ and never counts: in a window of nothing but −∞
    it is the first entry outside of the padding (where autodiff gives dyₘ to the padding).

    One axis is pooled after the other, the last one first, so that a window of h·w costs h + w
    comparisons. dx is put together by comparing places, without scattering: where windows overlap
    k times along an axis it is a sum of k shifted parts.

    Keeps the place within the window for each axis, of one byte (for windows below 256), instead
    of x and y.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; the window itself if left out, so that none overlap.
        padding: "VALID" for none, "SAME" for M = ⌈L/stride⌉, or (before, after) for each axis.

    Raises:
        TypeError: x is not floating point; an option is of the wrong kind.
        ValueError: x has no axis to pool, a length is not positive, the options do not fit the
            axes, a window is larger than the padded input or lies in the padding altogether.

    Source: D. Scherer et al., "Evaluation of Pooling Operations in Convolutional Architectures
    for Object Recognition", 2010.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 2.0, 2.0]]).reshape(1, 4, 1)
        >>> print(jaxnn.max_pool(x, window=2).reshape(2))
        [3. 2.]
    """
    axes = pooled_axes(x.shape, window, stride, padding)
    return _reduce_window(x, axes, -jnp.inf, lax.max)


@max_pool.forward
def max_pool_fwd(x, *, window, stride=None, padding="VALID"):
    """y = the largest number along each axis in turn, and its places."""
    y, places = x, []
    for axis in reversed(pooled_axes(x.shape, window, stride, padding)):
        y, place = _max_along(y, axis)
        places.append(place)
    return y, MaxPoolResiduals(tuple(places), Shape(x.shape))


@max_pool.backward
def max_pool_bwd(residuals, dy, *, window, stride=None, padding="VALID"):
    """dxᵢ = Σ dyₘ over the windows whose largest number is at i."""
    axes = pooled_axes(residuals.x.sizes, window, stride, padding)
    dx = at_least_float32(dy)
    for axis, place in zip(axes, reversed(residuals.places), strict=True):
        dx = _spread(dx, axis, place)
    return (dx.astype(dy.dtype),)


@op
def avg_pool(
    x: Input,
    *,
    window: Lengths,
    stride: Lengths | None = None,
    padding: Padding = "VALID",
    count_padding: bool = False,
) -> Windows:
    """Average pooling, y = the mean of each window, in each channel.

    Shapes (N batch, L one or more pooled axes, M windows along each of them, C channels):
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, M…, C), M = ⌊(L + padding − window)/stride⌋ + 1

    Backward, with nₘ the number of entries that window m is divided by:
        yₘ = (1/nₘ)·Σ xᵢ over the window, so ∂yₘ/∂xᵢ = 1/nₘ for each i in it, and
        dxᵢ = Σ dyₘ/nₘ over the windows m that hold i
    Both sums are taken along one axis after the other.

    nₘ counts the entries outside of the padding, as in Keras; with `count_padding` it is the size
    of the window everywhere, as in Flax and PyTorch by default.

    Keeps no array: the derivative does not depend on x. Sums of float16 and bfloat16 are in
    float32.

    Args:
        x: the input.
        window: the size of the window, one for all pooled axes or one for each.
        stride: the steps between windows; the window itself if left out, so that none overlap.
        padding: "VALID" for none, "SAME" for M = ⌈L/stride⌉, or (before, after) for each axis.
        count_padding: whether the zeros of the padding count as entries.

    Raises:
        TypeError: x is not floating point; an option is of the wrong kind.
        ValueError: x has no axis to pool, a length is not positive, the options do not fit the
            axes, a window is larger than the padded input or lies in the padding altogether.

    Source: Y. LeCun et al., "Handwritten Digit Recognition with a Back-Propagation Network",
    1989, section 4.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 2.0, 2.0, 5.0]]).reshape(1, 5, 1)
        >>> print(jaxnn.avg_pool(x, window=2, padding="SAME").reshape(3))
        [2. 2. 5.]
    """
    axes = pooled_axes(x.shape, window, stride, padding)
    return _reduce_window(x, axes, 0.0, lax.add) / _divisor(axes, count_padding, x.dtype)


@avg_pool.forward
def avg_pool_fwd(x, *, window, stride=None, padding="VALID", count_padding=False):
    """yₘ = (1/nₘ)·Σ xᵢ, summed along each axis in turn."""
    axes = pooled_axes(x.shape, window, stride, padding)
    y = at_least_float32(x)
    for axis in reversed(axes):
        y = reduce(jnp.add, _entries(y, axis, 0.0))
    y = y / _divisor(axes, count_padding, y.dtype)
    return y.astype(x.dtype), ShapeKept(Shape(x.shape))


@avg_pool.backward
def avg_pool_bwd(residuals, dy, *, window, stride=None, padding="VALID", count_padding=False):
    """dxᵢ = Σ dyₘ/nₘ over the windows that hold i."""
    axes = pooled_axes(residuals.x.sizes, window, stride, padding)
    dx = at_least_float32(dy)
    dx = dx / _divisor(axes, count_padding, dx.dtype)
    for axis in axes:
        dx = _spread(dx, axis)
    return (dx.astype(dy.dtype),)


@op
def global_avg_pool(x: Input) -> Float[Array, "N C"]:
    """Global average pooling, y = the mean over all axes but the first and the last.

    Shapes (N batch, L one or more pooled axes, C channels):
        x, dx: (N, L…, C)
        y, dy: (N, C)

    Backward, with n the product of the pooled sizes:
        y = (1/n)·Σ xᵢ, so ∂y/∂xᵢ = 1/n and
        dxᵢ = dy/n for every i

    Keeps no array. Sums of float16 and bfloat16 are in float32.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no axis to pool, or there is nothing to average.

    Source: M. Lin et al., "Network In Network", 2013, section 3.2.

    Example:
        >>> jaxnn.global_avg_pool(jnp.ones((7, 5, 6, 3))).shape
        (7, 3)
    """
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


@global_avg_pool.forward
def global_avg_pool_fwd(x):
    """y = (1/n)·Σ xᵢ."""
    y = global_avg_pool.definition(at_least_float32(x))
    return y.astype(x.dtype), ShapeKept(Shape(x.shape))


@global_avg_pool.backward
def global_avg_pool_bwd(residuals, dy):
    """dxᵢ = dy/n."""
    shape = residuals.x.sizes
    pooled = tuple(range(1, len(shape) - 1))
    each = at_least_float32(dy) / math.prod(shape[1:-1])
    return (jnp.broadcast_to(jnp.expand_dims(each.astype(dy.dtype), pooled), shape),)


def _reduce_window(x: Input, axes: tuple[PooledAxis, ...], initial: float, operation) -> Windows:
    """`operation` over each window, of which the padding holds `initial`."""
    sizes, strides, padding = (
        (edge, *lengths, edge)
        for edge, lengths in (
            (1, [axis.window for axis in axes]),
            (1, [axis.stride for axis in axes]),
            ((0, 0), [(axis.before, axis.after) for axis in axes]),
        )
    )
    return lax.reduce_window(x, np.asarray(initial, x.dtype), operation, sizes, strides, padding)


def _entries(x: Input, axis: PooledAxis, initial: float) -> list[Windows]:
    """For each place in a window along one axis, the entries there, one for each window."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis.number] = (axis.before, axis.after, 0)
    padded = lax.pad(x, jnp.asarray(initial, x.dtype), padding)
    reach = axis.stride * (axis.n_windows - 1) + 1
    return [
        lax.slice_in_dim(padded, place, place + reach, axis.stride, axis.number)
        for place in range(axis.window)
    ]


def _max_along(x: Input, axis: PooledAxis) -> tuple[Windows, Integer[Array, "..."]]:
    """The largest number of each window along one axis, and its place in the window."""
    largest, *others = _entries(x, axis, -jnp.inf)
    first = axis.along(axis.first.astype(_place_dtype(axis)), x.ndim)
    place = jnp.broadcast_to(first, largest.shape)
    for i, entry in enumerate(others, start=1):
        wins = ~(entry <= largest) & (largest == largest)
        largest = jnp.where(wins, entry, largest)
        place = jnp.where(wins, jnp.asarray(i, place.dtype), place)
    return largest, place


def _spread(dy: Windows, axis: PooledAxis, place=None) -> Input:
    """The sum, for each entry along one axis, of the dy of the windows that it is in.

    The axis is seen as blocks of `stride` entries. Window m begins with block m and reaches over
    `overlap` blocks: block a of the window has the places a·stride … (a + 1)·stride − 1.

    Args:
        dy: one number for each window.
        axis: the axis.
        place: the one place of each window that its dy goes to; by default all its places.
    """
    behind = axis.number + 1
    spread = 0
    for block in range(axis.overlap):
        shift = [(0, 0, 0)] * dy.ndim
        shift[axis.number] = (block, axis.overlap - 1 - block, 0)
        places = block * axis.stride + np.arange(axis.stride, dtype=np.int32)
        places = places.reshape(*(-1 if i == behind else 1 for i in range(dy.ndim + 1)))
        if place is None:
            chosen = places < axis.window
        else:
            shifted = lax.pad(place, jnp.zeros((), place.dtype), shift)
            chosen = jnp.expand_dims(shifted, behind).astype(jnp.int32) == places
        part = jnp.expand_dims(lax.pad(dy, jnp.zeros((), dy.dtype), shift), behind)
        spread = spread + jnp.where(chosen, part, 0)
    n_covered = (axis.n_windows + axis.overlap - 1) * axis.stride
    spread = spread.reshape(*dy.shape[: axis.number], n_covered, *dy.shape[behind:])
    cut = [(0, 0, 0)] * dy.ndim
    cut[axis.number] = (-axis.before, axis.before + axis.size - n_covered, 0)
    return lax.pad(spread, jnp.zeros((), dy.dtype), cut)


def _divisor(axes: tuple[PooledAxis, ...], count_padding: bool, dtype) -> Float[Array, "..."]:
    """By what the sum of each window is divided."""
    counts = [np.full(a.n_windows, a.window) if count_padding else a.counts for a in axes]
    ndim = len(axes) + 2
    each = (axis.along(n, ndim) for axis, n in zip(axes, counts, strict=True))
    return jnp.asarray(reduce(np.multiply, each), dtype)


def _place_dtype(axis: PooledAxis):
    return jnp.uint8 if axis.window < 2**8 else jnp.int32


@max_pool.validate
def _(x, *, window, stride, padding):
    require_windows(x, window, stride, padding)


@avg_pool.validate
def _(x, *, window, stride, padding, count_padding):
    require_windows(x, window, stride, padding)
    if not isinstance(count_padding, bool):
        raise TypeError(f"option count_padding must be a bool, got {count_padding!r}")


@global_avg_pool.validate
def _(x):
    require_floating(x=x)
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"x is {describe(x)}; between its first axis, the batch, and its "
            "last, the channels, there must be something to average"
        )
