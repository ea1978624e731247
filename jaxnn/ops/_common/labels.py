"""The target of a classification loss: integer labels, or a distribution for each row."""

import math
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import (
    describe,
    require_axes,
    require_equal_shapes,
    require_floating,
    require_labels,
    require_last_axis,
)

Classes = Float[Array, "*N K"]
Labels = Integer[Array, "*N"]
Shares = Bool[Array, "*N K"]
Target = Classes | Labels | Shares
Answers = Classes | Shares | Integer[Array, "*N K"]
Losses = Float[Array, "*N"]
LAST = (-1,)


def is_labels(target: Target) -> bool:
    """Whether a target holds integer labels rather than a distribution for each row."""
    return jnp.issubdtype(target.dtype, jnp.integer)


@cache
def class_axes(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The option `axis` as a tuple of numbers that are not negative, in its own order."""
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def as_floats(target: Array, like: Float[Array, "..."]) -> Float[Array, "..."]:
    """The target, with booleans and integers converted to the dtype of `like`."""
    is_float = jnp.issubdtype(target.dtype, jnp.floating)
    return target if is_float else target.astype(like.dtype)


def one_hot(
    labels: Integer[Array, "..."],
    sizes: int | tuple[int, ...],
    axes: tuple[int, ...] = LAST,
) -> Bool[Array, "..."]:
    """True at the class of the label; nowhere for a label out of range.

    A comparison with 0 … K − 1 fuses into its users, where a scatter would not.

    Args:
        labels: one for each row; over several axes, flat indices in C order.
        sizes: the number of classes along each of the axes.
        axes: the axes of the result that hold the classes.
    """
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    labels = jnp.expand_dims(as_index(labels), axes)
    terms: list[Array] = []
    stride = 1
    for axis, size in reversed(list(zip(class_axes(axes, labels.ndim), sizes, strict=True))):
        others = [a for a in range(labels.ndim) if a != axis]
        along = jnp.expand_dims(jnp.arange(size, dtype=labels.dtype), others)
        terms.append(along if not terms else stride * along)
        stride *= size
    return jnp.equal(labels, sum(terms[1:], terms[0]))


def at_label(
    rows: Float[Array, "..."], labels: Integer[Array, "..."], axes: tuple[int, ...] = LAST
) -> Float[Array, "..."]:
    """The entry at each row's label; an arbitrary one where the label is out of range."""
    if len(axes) == 1:
        places = jnp.expand_dims(as_index(labels), axes)
        return jnp.take_along_axis(rows, places, axis=axes[0], mode="clip").squeeze(axes)
    is_label = one_hot(labels, tuple(rows.shape[a] for a in axes), axes)
    return jnp.sum(jnp.where(is_label, rows, 0), axis=axes)


def nan_out_of_range(
    rows: Losses, labels: Labels, n_classes: int, ignore: int | None = None
) -> Losses:
    """The rows, NaN where the label is out of range: clamping would hide the mistake."""
    labels = as_index(labels)
    valid = (labels >= 0) & (labels < n_classes)
    if ignore is not None:
        valid |= labels == ignore
    return rows * jnp.where(valid, 1, jnp.nan).astype(rows.dtype)


def without_ignored(
    array: Float[Array, "*shape"], labels: Integer[Array, "..."], ignore: int
) -> Float[Array, "*shape"]:
    """The array, 0 where the label is ignored, even if it was NaN there."""
    return jnp.where(as_index(labels) == ignore, 0, array)


def places_of(labels: Labels, n_classes: int) -> Labels:
    """The labels; one that is out of range becomes the index after the last class."""
    labels = as_index(labels)
    return jnp.where((labels >= 0) & (labels < n_classes), labels, n_classes).astype(jnp.int32)


def added_at_labels(rows: Losses, labels: Labels, n_classes: int) -> Float[Array, "K"]:  # noqa: F821
    """The sum of the rows of each class; rows with a label out of range are dropped."""
    places = places_of(labels, n_classes)
    return jnp.zeros_like(rows, shape=(n_classes,)).at[places].add(rows, mode="drop")


def weights_of_labels(
    class_weights: Float[Array, "..."], labels: Integer[Array, "..."]
) -> Float[Array, "..."]:
    """The weight of the class of each row, in at least float32."""
    return at_least_float32(class_weights).reshape(-1).at[as_index(labels)].get(mode="clip")


def row_weights(
    target: Array,
    like: Float[Array, "..."],
    class_weights: Float[Array, "..."] | None = None,
    ignore: int | None = None,
    axis: int | tuple[int, ...] = -1,
) -> Float[Array, "..."]:
    """The weight of each row in a weighted mean, which divides by their sum, as in PyTorch.

    It is 0 for an ignored label, else the weight of the class of the label; 1 for a distribution.

    Args:
        target: labels or distributions.
        like: the prediction, whose dtype the weights have.
        class_weights: the weights of the classes, 1 by default.
        ignore: the label of the rows to ignore.
        axis: the axes of the classes.
    """
    axes = class_axes(axis, like.ndim)
    counts = jnp.ones([size for a, size in enumerate(like.shape) if a not in axes], like.dtype)
    if not is_labels(target):
        return counts
    if class_weights is not None:
        counts = weights_of_labels(class_weights, target).astype(like.dtype)
    return counts if ignore is None else without_ignored(counts, target, ignore)


def as_index(labels: Integer[Array, "..."]) -> Integer[Array, "..."]:
    """Labels as int32, or wider: narrow integers compare and add modulo their range.

    An unsigned label too large for int32 stays out of range and does not become negative.
    """
    if labels.dtype.itemsize < 4:
        return labels.astype(jnp.int32)
    if jnp.issubdtype(labels.dtype, jnp.unsignedinteger):
        return jnp.minimum(labels, jnp.iinfo(jnp.int32).max).astype(jnp.int32)
    return labels


def as_distribution(
    target: Array,
    like: Float[Array, "..."],
    ignore: int | None = None,
    axis: int | tuple[int, ...] = -1,
) -> Float[Array, "..."]:
    """A target as a distribution for each row of `like`, for definitions only.

    A label becomes a row of the identity; one out of range becomes a row of NaN, and an ignored one
    that is not a class a row of 0. No forward or backward calls this, so it checks their treatment
    of labels.
    """
    if not jnp.issubdtype(target.dtype, jnp.integer):
        return jnp.asarray(target, like.dtype)
    axes = axis if isinstance(axis, tuple) else (axis,)
    sizes = [like.shape[a] for a in axes]
    labels = as_labels(target)
    known = (labels >= 0) & (labels < math.prod(sizes))
    if ignore is not None:
        known |= labels == ignore
    flat = jax.nn.one_hot(labels, math.prod(sizes), dtype=like.dtype)
    rows = jnp.where(known[..., None], flat, jnp.nan).reshape(*labels.shape, *sizes)
    return jnp.moveaxis(rows, range(labels.ndim, rows.ndim), axes)


def as_labels(target: Integer[Array, "..."]) -> Integer[Array, "..."]:
    """Labels in a dtype that holds them and negative numbers, for definitions only."""
    unsigned = jnp.issubdtype(target.dtype, jnp.unsignedinteger)
    if unsigned and target.dtype.itemsize >= jnp.dtype(int).itemsize:
        target = jnp.where(target > jnp.iinfo(jnp.int32).max, jnp.iinfo(jnp.int32).max, target)
    return target.astype(int)


def require_target(
    target: Target,
    *,
    ignore: int | None = None,
    axis: int | tuple[int, ...] = -1,
    **prediction,
) -> None:
    """Raise unless the one named prediction is floating point and the target fits it."""
    ((name, array),) = prediction.items()
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {describe(array)}")
    if array.ndim == 0:
        raise ValueError(f"{name} is {describe(array)}, with no class in its last axis")
    require_axes(array, axis)
    axes = class_axes(axis, array.ndim)
    n_classes = math.prod(array.shape[a] for a in axes)
    if n_classes == 0:
        place = "last axis" if axes == (array.ndim - 1,) else f"axis {axis}"
        raise ValueError(f"{name} is {describe(array)}, with no class in its {place}")
    rows = tuple(size for a, size in enumerate(array.shape) if a not in axes)
    if jnp.issubdtype(target.dtype, jnp.integer):
        require_labels(target, rows, n_classes, ignore)
        return
    if target.shape == rows:
        raise TypeError(f"labels must be integers, got {describe(target)}")
    require_real(target)
    require_equal_shapes(**prediction, target=target)
    if ignore is not None:
        raise ValueError(f"option ignore_label needs integer labels, got {describe(target)}")


def require_class_weights(class_weights, sizes: int | tuple[int, ...]) -> None:
    """Raise unless there is one weight for each class, if any are given."""
    if class_weights is None:
        return
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    if not jnp.issubdtype(class_weights.dtype, jnp.floating):
        raise TypeError(f"class_weights must be floating point, got {describe(class_weights)}")
    if class_weights.shape != sizes:
        raise ValueError(
            f"class_weights has shape {class_weights.shape}; with {math.prod(sizes)} classes "
            f"it must be {sizes}"
        )


def require_real(target: Array) -> None:
    """Raise if the target holds complex numbers or random keys."""
    if not any(jnp.issubdtype(target.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise TypeError(
            f"target must be real numbers, integers or booleans, got {describe(target)}"
        )


def require_answers(target: Array, **prediction) -> None:
    """Raise unless the target holds a number, integer or boolean for each component."""
    require_floating(**prediction)
    require_real(target)
    require_equal_shapes(**prediction, target=target)
    require_last_axis(**prediction)
