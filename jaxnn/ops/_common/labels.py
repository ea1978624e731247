"""The target of a classification loss: integer labels, or a distribution for each row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.ops._common.validation import (
    describe,
    require_equal_shapes,
    require_floating,
    require_labels,
)

Classes = Float[Array, "*N K"]
Labels = Integer[Array, "*N"]
Target = Classes | Labels
Losses = Float[Array, "*N"]


def is_labels(target: Target) -> bool:
    """Whether a target holds integer labels rather than a distribution for each row."""
    return jnp.issubdtype(target.dtype, jnp.integer)


def one_hot(labels: Labels, n_classes: int) -> Bool[Array, "*N K"]:
    """Where the class is that of the label; nowhere for a label out of range.

    A comparison with 0 … K − 1 fuses into its users, where a scatter would not.
    """
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    classes = jnp.arange(n_classes, dtype=labels.dtype)
    return labels[..., None] == jnp.expand_dims(classes, range(labels.ndim))


def nan_out_of_range(
    rows: Losses, labels: Labels, n_classes: int, ignore: int | None = None
) -> Losses:
    """The same rows, those of labels out of range NaN: loud, where clamping would be silent."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    valid = (labels >= 0) & (labels < n_classes)
    if ignore is not None:
        valid |= labels == ignore
    return rows * jnp.where(valid, 1, jnp.nan).astype(rows.dtype)


def without_ignored(
    array: Float[Array, "*shape"], labels: Integer[Array, "..."], ignore: int
) -> Float[Array, "*shape"]:
    """The same array, 0 where the label is ignored, even if it was NaN there."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return jnp.where(labels == ignore, 0, array)


def as_distribution(target: Target, like: Classes, ignore: int | None = None) -> Classes:
    """A target as a distribution for each row of `like`, for definitions alone.

    A label becomes a row of the identity; of NaN if it is out of range, and of 0 if it is ignored
    and no class. No forward or backward calls this: it checks how they treat labels.
    """
    if jnp.issubdtype(target.dtype, jnp.floating):
        return target
    n_classes = like.shape[-1]
    labels = target.astype(int)
    known = (labels >= 0) & (labels < n_classes)
    if ignore is not None:
        known |= labels == ignore
    return jnp.where(known[..., None], jax.nn.one_hot(labels, n_classes, dtype=like.dtype), jnp.nan)


def require_target(target: Target, *, ignore: int | None = None, **prediction) -> None:
    """Raise unless the one named prediction is floating point and the target fits it."""
    ((name, array),) = prediction.items()
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {describe(array)}")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} is {describe(array)}, without any class in its last axis")
    if ignore is not None and type(ignore) is not int:
        raise TypeError(f"option ignore_label must be an integer, got {ignore!r}")
    if jnp.issubdtype(target.dtype, jnp.integer):
        require_labels(target, array.shape[:-1], array.shape[-1], ignore)
        return
    if target.shape == array.shape[:-1]:
        raise TypeError(f"labels must be integers, got {describe(target)}")
    require_floating(**prediction, target=target)
    require_equal_shapes(**prediction, target=target)
    if ignore is not None:
        raise ValueError(f"option ignore_label needs integer labels, got {describe(target)}")
