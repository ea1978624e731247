"""Larger images: upsampling by copies or interpolation, and padding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_floating, require_for_each_axis
from jaxnn.ops._common.windows import Lengths, for_each
from jaxnn.ops.shape import Shape, ShapeResiduals

Input = Float[Array, "N *L C"]
Larger = Float[Array, "N *M C"]
Widths = int | tuple[int | tuple[int, int], ...]

METHODS = ("nearest", "linear", "bilinear", "trilinear")
MODES = {
    "constant": "constant",
    "edge": "edge",
    "replicate": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "wrap": "wrap",
    "circular": "wrap",
}


@op
def upsample(x: Input, *, factor: Lengths, method: str = "nearest") -> Larger:
    """Upsampling by a factor f, y = copies of the nearest entries, or interpolated ones.

    Shapes:
        N batch; L one or more spatial axes; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, f·L…, C)

    y[f·i + j], for j = 0 … f − 1, lies at i + t in x, with t = (j + ½)/f − ½: entries are squares,
    and the outer edges of x and y coincide. Along each axis in turn:
        "nearest"   y[f·i + j] = x[i]
        "linear"    y[f·i + j] = (1 − |t|)·x[i] + |t|·x[i ± 1]      + for t > 0, − for t < 0
    where x continues beyond its ends with its first and its last entry.

    Backward, from ⟨dy, ẏ⟩ = ⟨dx, ẋ⟩: entry i of x reaches f entries of y, and for "linear" some of
    its neighbours' as well,
        "nearest"   dx[i] = Σⱼ dy[f·i + j]
        "linear"    dx[i] = Σⱼ (1 − |t|)·dy[f·i + j]
                          + Σ |t|·dy[f·(i − 1) + j] over t > 0 + Σ |t|·dy[f·(i + 1) + j] over t < 0
    and the first and the last entry of dx also get the terms of the copies beyond them.

    Saves no array: the derivative does not depend on x.

    Args:
        x: the input.
        factor: f, an integer for all spatial axes or one for each.
        method: "nearest" or "linear"; "bilinear" for two axes and "trilinear" for three are other
            names of the latter.

    Raises:
        TypeError: x is not floating point, or factor is not an integer.
        ValueError: x has no spatial axis, factor does not fit the axes, or the method is unknown
            or one for another number of axes.

    Reference: the places are those of `jax.image.resize`, and in PyTorch those of
    `torch.nn.Upsample` with align_corners=False.

    Example:
        >>> x = jnp.array([1.0, 5.0]).reshape(1, 2, 1)
        >>> print(jaxnn.upsample(x, factor=2).ravel())
        [1. 1. 5. 5.]
        >>> print(jaxnn.upsample(x, factor=2, method="linear").ravel())
        [1. 2. 4. 5.]
    """
    factors = factor if isinstance(factor, tuple) else (factor,) * (x.ndim - 2)
    for axis, f in enumerate(factors, start=1):
        if method == "nearest":
            x = jnp.repeat(x, f, axis=axis)
            continue
        size = x.shape[axis]
        place = (2 * jnp.arange(f * size) + 1 - f).clip(0, max(2 * f * (size - 1), 0))
        i, share = place // (2 * f), (place % (2 * f)).astype(x.dtype) / (2 * f)
        share = share.reshape([-1 if n == axis else 1 for n in range(x.ndim)])
        left, right = (jnp.take(x, (i + n).clip(0, size - 1), axis, mode="clip") for n in (0, 1))
        share = jnp.broadcast_to(share, left.shape)
        x = jnp.where(share == 0, left, (1 - share) * left + share * right)
    return x


@upsample.validate
def _(x, *, factor, method):
    _require_space(x)
    n_axes = x.ndim - 2
    require_for_each_axis("factor", factor, n_axes)
    if method not in METHODS:
        raise ValueError(f"option method must be 'nearest' or 'linear', got {method!r}")
    if n_axes != {"bilinear": 2, "trilinear": 3}.get(method, n_axes):
        raise ValueError(
            f"option method is {method!r} but x is {describe(x)}, with {n_axes} axes between the "
            "first and the last; 'linear' fits any number"
        )


@upsample.forward
@wide
def upsample_fwd(x, *, factor, method="nearest"):
    """y = the copies, or the interpolated entries, along each axis in turn."""
    factors = for_each(factor, x.shape[1:-1])
    if method == "nearest":
        y = _copied(x, factors)
    else:
        y = x
        for axis, f in enumerate(factors, start=1):
            y = _interpolated(y, axis, f)
    return y, ShapeResiduals(Shape(x.shape))


@upsample.backward
@wide
def upsample_bwd(residuals, dy, *, factor, method="nearest"):
    """dx = the sum of the gradients that the entries of y send back to their sources."""
    shape = residuals.x.sizes
    factors = for_each(factor, shape[1:-1])
    if method == "nearest":
        by_copy = dy.reshape(_split(shape, factors))
        return (jnp.sum(by_copy, range(2, 2 * len(factors) + 1, 2)),)
    dx = dy
    for axis, f in reversed(list(enumerate(factors, start=1))):
        dx = _gathered_back(dx, axis, shape[axis], f)
    return (dx,)


@op
def pad(x: Input, *, widths: Widths, mode: str = "constant", value: float = 0.0) -> Larger:
    """Padding of the spatial axes: a constant, or copies of entries of x.

    Shapes:
        N batch; L one or more spatial axes; C channels
        x, dx: (N, L…, C): (N, W, C) for sequences, (N, H, W, C) for images
        y, dy: (N, before + L + after…, C)

    Along each axis in turn, a b c d becomes
        "constant"               v v v │ a b c d │ v v v
        "edge", "replicate"      a a a │ a b c d │ d d d
        "reflect"                d c b │ a b c d │ c b a
        "symmetric"              c b a │ a b c d │ d c b
        "wrap", "circular"       b c d │ a b c d │ a b c

    Backward: each copy adds its gradient to the entry that it was copied from,
        dx = dy without the padding + the gradients of the copies, each at its origin
    The copies of "reflect" and "symmetric" are reversed first, those of "edge" are summed. A
    constant has no origin.

    Saves no array: the derivative does not depend on x.

    Args:
        x: the input.
        widths: the number of entries before and after: an integer for both sides of all spatial
            axes, or for each axis an integer or a pair (before, after). With "constant" a negative
            number removes entries.
        mode: one of those above.
        value: v, for "constant".

    Raises:
        TypeError: x is not floating point, or value is not a number.
        ValueError: x has no spatial axis, widths do not fit the axes or exceed the entries that x
            has to copy, or the mode is unknown.

    Reference: the modes of `jax.numpy.pad`; "replicate" and "circular" are PyTorch's names.

    Example:
        >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> print(jaxnn.pad(x, widths=((2, 1),), mode="reflect").ravel())
        [3. 2. 1. 2. 3. 2.]
    """
    each = widths if isinstance(widths, tuple) else (widths,) * (x.ndim - 2)
    space = [width if isinstance(width, tuple) else (width, width) for width in each]
    pairs = [(0, 0), *space, (0, 0)]
    mode = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    if mode != "constant":
        return jnp.pad(x, pairs, mode=mode)
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, pairs, strict=True))
    added = [(max(b, 0), max(a, 0)) for b, a in pairs]
    return jnp.pad(x[cut], added, constant_values=value)


@pad.validate
def _(x, *, widths, mode, value):
    _require_space(x)
    if mode not in MODES:
        raise ValueError(f"option mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    _require_widths(x, widths)
    for axis, pair in enumerate(_pairs(widths, x), start=1):
        _require_entries(x, axis, pair, mode)


@pad.forward
def pad_fwd(x, *, widths, mode="constant", value=0.0):
    """y = x with its padding, along each axis in turn."""
    if mode == "constant":
        y = _with_constant(x, _pairs(widths, x), value)
    else:
        y = x
        for axis, (before, after) in enumerate(_pairs(widths, x), start=1):
            y = jnp.concatenate(_with_copies(y, axis, before, after, MODES[mode]), axis)
    return y, ShapeResiduals(Shape(x.shape))


@pad.backward
@wide
def pad_bwd(residuals, dy, *, widths, mode="constant", value=0.0):
    """dx = dy without the padding, plus the gradients of the copies at their origins."""
    dx, pairs = dy, _pairs(widths, dy)
    if mode == "constant":
        return (_with_constant(dy, [(-before, -after) for before, after in pairs]),)
    for axis, (before, after) in enumerate(pairs, start=1):
        dx = _with_gradients_of_copies(dx, axis, before, after, MODES[mode])
    return (dx,)


def _split(shape, factors) -> tuple:
    """The shape of y with an axis for the copies behind each spatial axis."""
    space = [n for pair in zip(shape[1:-1], factors, strict=True) for n in pair]
    return (shape[0], *space, shape[-1])


def _copied(x: Input, factors) -> Larger:
    """Each entry f times, along all spatial axes."""
    split = _split(x.shape, factors)
    each = jnp.expand_dims(x, range(2, 2 * len(factors) + 1, 2))
    larger = [size * f for size, f in zip(x.shape[1:-1], factors, strict=True)]
    return jnp.broadcast_to(each, split).reshape(x.shape[0], *larger, x.shape[-1])


def _places(f: int) -> np.ndarray:
    """The t of the f entries of y that belong to an entry of x."""
    return (2 * np.arange(f) + 1 - f) / (2 * f)


def _interpolated(x: Input, axis: int, f: int) -> Larger:
    """(1 − |t|)·x[i] + |t|·x[i ± 1] for every t, along one axis."""
    if f == 1 or x.shape[axis] == 0:
        return x
    size, behind = x.shape[axis], axis + 1
    t = _places(f).reshape(-1, *(1,) * (x.ndim - behind))

    def part(start, end):
        return lax.slice_in_dim(x, start, end, axis=axis)

    left = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    right = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    here, left, right = (jnp.expand_dims(a, behind) for a in (x, left, right))
    shape = (*x.shape[:behind], f, *x.shape[behind:])
    t = np.broadcast_to(t, (1,) * behind + t.shape)
    beside = jnp.where(t < 0, left, jnp.where(t > 0, right, 0))
    share = jnp.asarray(abs(t), x.dtype)
    y = jnp.broadcast_to((1 - share) * here + share * beside, shape)
    return y.reshape(*x.shape[:axis], size * f, *x.shape[behind:])


def _gathered_back(dy: Larger, axis: int, size, f: int) -> Input:
    """(1 − |t|)·dy to entry i and |t|·dy to its neighbour, summed over all t, along one axis."""
    if f == 1 or size == 0:
        return dy
    by_place = dy.reshape(*dy.shape[:axis], size, f, *dy.shape[axis + 1 :])
    here: Any = 0
    sides: dict[bool, Any] = {True: 0, False: 0}
    for j, t in enumerate(_places(f).tolist()):
        at_j = lax.index_in_dim(by_place, j, axis + 1, keepdims=False)
        here = here + (1 - abs(t)) * at_j
        if t != 0:
            sides[t < 0] = sides[t < 0] + abs(t) * at_j

    def part(array, start, end):
        return lax.slice_in_dim(array, start, end, axis=axis)

    to_left, to_right = sides[True], sides[False]
    from_right = [part(to_left, 1, size), part(to_right, size - 1, size)]
    from_left = [part(to_left, 0, 1), part(to_right, 0, size - 1)]
    return here + jnp.concatenate(from_right, axis) + jnp.concatenate(from_left, axis)


def _pairs(widths: Widths, x: Array) -> list[tuple[int, int]]:
    """The number of entries before and after each spatial axis."""
    each = widths if isinstance(widths, tuple) else (widths,) * (x.ndim - 2)
    return [width if isinstance(width, tuple) else (width, width) for width in each]


def _with_constant(x: Array, pairs, value=0.0) -> Array:
    """x with a constant before and after; a negative number drops entries."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in pairs), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _with_copies(x: Array, axis: int, before: int, after: int, mode: str) -> list[Array]:
    """The padding before x along one axis, x, and the padding after it."""
    size = x.shape[axis]

    def part(start, end):
        return lax.slice_in_dim(x, start, end, axis=axis)

    def repeated(start, number):
        shape = tuple(number if i == axis else n for i, n in enumerate(x.shape))
        return jnp.broadcast_to(part(start, start + 1), shape)

    if mode == "edge":
        sides = repeated(0, before), repeated(size - 1, after)
    elif mode == "wrap":
        sides = part(size - before, size), part(0, after)
    else:
        skip = int(mode == "reflect")
        left, right = part(skip, skip + before), part(size - skip - after, size - skip)
        sides = jnp.flip(left, axis), jnp.flip(right, axis)
    return [sides[0], x, sides[1]]


def _with_gradients_of_copies(dy: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """dy without its padding along one axis, and the gradients of the copies at their origins.

    They are added in place, which touches only the origins.
    """
    size = dy.shape[axis] - before - after

    def part(start, end):
        return lax.slice_in_dim(dy, start, end, axis=axis)

    dx, left, right = (
        part(before, before + size),
        part(0, before),
        part(before + size, dy.shape[axis]),
    )
    if mode == "edge":
        left, right = (jnp.sum(side, axis, keepdims=True) for side in (left, right))
        origins = 0, size - 1
    elif mode == "wrap":
        origins = size - before, 0
    else:
        skip = int(mode == "reflect")
        left, right = (jnp.flip(side, axis) for side in (left, right))
        origins = skip, size - skip - after
    for side, start, width in zip((left, right), origins, (before, after), strict=True):
        if width:
            place = (slice(None),) * axis + (slice(start, start + side.shape[axis]),)
            dx = dx.at[place].add(side)
    return dx


def _require_space(x) -> None:
    """Raise unless x is floating point and has spatial axes."""
    require_floating(x=x)
    if x.ndim < 3:
        raise ValueError(
            f"x is {describe(x)}; it must have at least three axes: the batch first, the "
            "channels last, and the spatial axes in between"
        )


def _require_widths(x, widths) -> None:
    """Raise unless widths is an integer, or an integer or a pair for each axis."""
    n_axes = x.ndim - 2
    each = widths if isinstance(widths, tuple) else (widths,) * n_axes
    pairs = [width if isinstance(width, tuple) else (width, width) for width in each]
    if len(pairs) != n_axes or not all(
        len(pair) == 2 and all(type(width) is int for width in pair) for pair in pairs
    ):
        raise ValueError(
            f"option widths must be an integer, or a tuple of {n_axes} integers or pairs (before, "
            f"after), one for each axis between the first and the last, got {widths!r}"
        )


def _require_entries(x, axis: int, pair: tuple[int, int], mode: str) -> None:
    """Raise unless x has the entries that the padding of an axis copies or removes."""
    size = x.shape[axis]
    if not isinstance(size, int):
        return  # a symbolic dimension
    if mode == "constant":
        if size + min(pair[0], 0) + min(pair[1], 0) < 0:
            raise ValueError(
                f"option widths removes {pair} of the {size} entries along axis {axis} of x"
            )
        return
    if min(pair) < 0:
        raise ValueError(f"option widths must not be negative with mode {mode!r}, got {pair}")
    most = {"edge": max(pair) if size else 0, "reflect": size - 1}.get(MODES[mode], size)
    if max(pair) > most:
        raise ValueError(
            f"option widths is {pair} along axis {axis}, where x is {describe(x)}: with mode "
            f"{mode!r} it can be at most {max(most, 0)}"
        )
