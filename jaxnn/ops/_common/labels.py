"""What a classification loss is given as its target: integer labels, or a distribution a row."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.ops._common.validation import (
    describe,
    require_equal_shapes,
    require_floating,
    require_labels,
    require_last_axis,
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

    A comparison with 0 … K − 1 fuses into what uses it, where a scatter would not.
    """
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    classes = jnp.arange(n_classes, dtype=labels.dtype)
    return labels[..., None] == jnp.expand_dims(classes, range(labels.ndim))


def nan_out_of_range(
    rows: Losses, labels: Labels, n_classes: int, ignore: int | None = None
) -> Losses:
    """Rows of labels out of range become NaN: loud, where clamping would be silent."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    valid = (labels >= 0) & (labels < n_classes)
    if ignore is not None:
        valid |= labels == ignore
    return rows * jnp.where(valid, 1, jnp.nan).astype(rows.dtype)


def require_target(target: Target, *, ignore: int | None = None, **prediction) -> None:
    """The one named prediction is floating point and the target fits it."""
    ((name, array),) = prediction.items()
    require_floating(**prediction)
    require_last_axis(**prediction)
    if array.shape[-1] == 0:
        raise ValueError(f"{name} is {describe(array)}, without any class")
    if is_labels(target):
        require_labels(target, array.shape[:-1], array.shape[-1], ignore)
        return
    if target.shape == array.shape[:-1]:
        raise TypeError(f"labels must be integers, got {describe(target)}")
    require_floating(**prediction, target=target)
    require_equal_shapes(**prediction, target=target)
    if ignore is not None:
        raise ValueError(f"option ignore_label needs integer labels, got {describe(target)}")


def bytes_of(*arrays) -> int:
    """The bytes of arrays, or of what has their shapes and dtypes."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
