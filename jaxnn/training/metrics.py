"""Metrics: functions of a prediction and a target, with one value for each example."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.arrays import as_array
from jaxnn.ops._common.validation import describe
from jaxnn.options import as_option_of


def accuracy(
    prediction: jax.Array,
    target: jax.Array,
    *,
    axis: int = -1,
    ignore_label: int | None = None,
) -> jax.Array:
    """1 for each example whose largest output is that of its class, else 0.

    Shapes (N batch, K classes):
        prediction: (N, K), logits or probabilities
        target: labels (N,), or a distribution (N, K) whose largest entry is the class
        result: (N,)

    Args:
        prediction: the outputs.
        target: the classes.
        axis: the axis of the classes.
        ignore_label: optional, the label of rows to ignore: their result is NaN, and `jnp.nanmean`
            omits it. `fit` and `evaluate` omit these rows, and those that the loss ignores.

    Raises:
        TypeError: the labels or ignore_label are not integers, or the prediction holds no
            floating-point numbers.
        ValueError: the shapes do not fit.

    Example:
        >>> print(jaxnn.accuracy(jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])))
        [1. 0.]
    """
    prediction, labels = _with_labels("accuracy", prediction, target, axis, ignore_label)
    right = (jnp.argmax(prediction, axis) == labels).astype(prediction.dtype)
    return right if ignore_label is None else jnp.where(labels == ignore_label, jnp.nan, right)


def top_k_accuracy(
    prediction: jax.Array,
    target: jax.Array,
    *,
    k: int = 5,
    axis: int = -1,
    ignore_label: int | None = None,
) -> jax.Array:
    """1 for each example whose class has one of the k largest outputs, else 0.

    Of equal outputs the one of the lower class counts as larger, as in `accuracy`.

    Shapes (N batch, K classes):
        prediction: (N, K), logits or probabilities
        target: labels (N,), or a distribution (N, K) whose largest entry is the class
        result: (N,)

    Args:
        prediction: the outputs.
        target: the classes.
        k: the number of outputs that count, at most K.
        axis: the axis of the classes.
        ignore_label: optional, as in `accuracy`.

    Raises:
        TypeError, ValueError: as for `accuracy`, and if k is not between 1 and K.

    Example:
        >>> logits = jnp.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
        >>> print(jaxnn.top_k_accuracy(logits, jnp.array([1, 2]), k=2))
        [1. 0.]
    """
    prediction, labels = _with_labels("top_k_accuracy", prediction, target, axis, ignore_label)
    classes = prediction.shape[axis]
    if type(k) is not int or not 1 <= k <= classes:
        raise ValueError(
            f"top_k_accuracy: k must be between 1 and the {classes} classes, got {k!r}"
        )
    scores = jnp.moveaxis(prediction, axis, -1)
    column = labels.clip(0, classes - 1)[..., None]
    own = jnp.take_along_axis(scores, column, -1)
    earlier = lax.broadcasted_iota(int, scores.shape, scores.ndim - 1) < column
    rank = jnp.sum((scores > own) | ((scores == own) & earlier), axis=-1)
    valid = (labels >= 0) & (labels < classes)
    right = ((rank < k) & valid & ~jnp.isnan(own[..., 0])).astype(prediction.dtype)
    return right if ignore_label is None else jnp.where(labels == ignore_label, jnp.nan, right)


def confusion_matrix(
    prediction: jax.Array,
    target: jax.Array,
    *,
    axis: int = -1,
    ignore_label: int | None = None,
) -> jax.Array:
    """The number of examples of each class whose largest output is at each class.

    Shapes (N batch, K classes):
        prediction: (N, K), logits or probabilities
        target: labels (N,), or a distribution (N, K) whose largest entry is the class
        result: (K, K) integers; a row for each true class, a column for each predicted one

    Args:
        prediction: the outputs, such as those of `predict`.
        target: the classes; examples with any other label are not counted.
        axis: the axis of the classes.
        ignore_label: optional, the label of rows to omit.

    Raises:
        TypeError, ValueError: as for `accuracy`.

    Example:
        >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
        >>> print(jaxnn.confusion_matrix(logits, jnp.array([0, 1, 1])))
        [[1 0]
         [1 1]]
    """
    prediction, labels = _with_labels("confusion_matrix", prediction, target, axis, ignore_label)
    classes = prediction.shape[axis]
    counted = (labels >= 0) & (labels < classes)
    if ignore_label is not None:
        counted &= labels != ignore_label
    cell = labels * classes + jnp.argmax(prediction, axis)
    cell = jnp.where(counted, cell, classes**2)  # beyond the last cell, where it is dropped
    counts = jnp.zeros(classes**2, int).at[cell.ravel()].add(1, mode="drop")
    return counts.reshape(classes, classes)


def _with_labels(name, prediction, target, axis, ignore_label):
    """The prediction as an array, and the class of each example as an integer."""
    prediction = as_array(f"{name}: prediction", prediction)
    target = as_array(f"{name}: target", target)
    as_option_of(name, "ignore_label", ignore_label, int | None)
    if not jnp.issubdtype(prediction.dtype, jnp.floating):
        raise TypeError(f"{name}: prediction must be floating point, got {describe(prediction)}")
    if type(axis) is not int or not -prediction.ndim <= axis < prediction.ndim:
        raise ValueError(
            f"{name}: axis must be one of the {prediction.ndim} axes of prediction, got {axis!r}"
        )
    if not prediction.shape[axis]:
        raise ValueError(f"{name}: prediction has no class: its shape is {prediction.shape}")
    if target.shape == prediction.shape and jnp.issubdtype(target.dtype, jnp.floating):
        return prediction, jnp.argmax(target, axis=axis)
    expected = tuple(size for i, size in enumerate(prediction.shape) if i != axis % prediction.ndim)
    if target.shape not in (expected, prediction.shape):
        raise ValueError(
            f"{name}: prediction has shape {prediction.shape} and target {target.shape}; the "
            f"target must be labels, shape {expected}, or have the shape of the prediction"
        )
    if target.shape == prediction.shape:
        return prediction, jnp.argmax(target, axis=axis)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TypeError(f"{name}: labels must be integers, got {describe(target)}")
    return prediction, target.astype(int)
