"""Measuring a network on a data set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.padded import zero_padding
from jaxnn.training.data import Data, as_data, require_batch_size, require_examples
from jaxnn.training.gradient import require_loss, without_padding
from jaxnn.training.reduction import (
    reduce,
    require_losses,
    require_reduction,
    row_weights,
    weights_of_losses,
)


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
            omits it. `fit` and `evaluate` omit the rows that the loss ignores by themselves.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> print(jaxnn.accuracy(jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])))
        [1. 0.]
    """
    found = jnp.argmax(prediction, axis=axis)
    labels = target if target.ndim < prediction.ndim else jnp.argmax(target, axis=axis)
    if labels.shape != found.shape:
        raise ValueError(
            f"accuracy: prediction has shape {prediction.shape} and target {target.shape}; the "
            f"target must be labels, shape {found.shape}, or have the shape of the prediction"
        )
    labels = labels.astype(int)
    right = (found == labels).astype(prediction.dtype)
    return right if ignore_label is None else jnp.where(labels == ignore_label, jnp.nan, right)


def evaluate(
    net: Layer | Op,
    loss: Op,
    params: Params,
    data: Data,
    *,
    state: State = None,
    metric: Callable | None = None,
    reduction: str = "mean",
    batch_size: int = 4096,
) -> tuple[float, float | None]:
    """The loss of a data set, and the mean of a metric over its examples.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters.
        data: `(x, target)` or `(x, target, weights)`.
        state: of a network with state.
        metric: `(prediction, target) -> one value per example`, such as `accuracy`. Its mean is
            over the examples that count: those that the loss does not ignore, and with weights in
            proportion to them.
        reduction: of the losses, as in `value_and_grad`.
        batch_size: how many examples go through the network at once.

    Returns:
        The loss and the metric (`None` without one).

    Raises:
        ValueError: there is no data, or it does not fit.
    """
    require_batch_size(batch_size)
    x, target, weights = as_data("data", data)
    measure = evaluator(net, loss, metric, reduction, batch_size)
    return measure(params, state, x, target, weights)


def evaluator(net, loss, metric, reduction, batch_size=4096):
    """`(params, state, x, target, weights) -> (loss, metric)`, compiled for each size of batch."""
    net = as_layer(net)
    require_loss(loss)
    require_reduction("evaluate", reduction)

    @jax.jit
    def sums(params, state, x, target, weights):
        prediction, weights = without_padding(net.apply(params, zero_padding(x), state), weights)
        losses = loss(prediction, target)
        require_losses(losses, x, loss.__name__)
        reduced = reduce(losses, prediction, target, weights, loss, reduction)
        if metric is None:
            return reduced.total, reduced.divisor, 0.0, 1.0
        values = metric(prediction, target)
        require_losses(values, x, getattr(metric, "__name__", "the metric"))
        counts = row_weights(loss, prediction, target, losses) != 0
        if counts.shape != values.shape:  # such as one value for a sequence
            counts = jnp.ones(values.shape, bool)
        counts = counts.astype(values.dtype)
        if weights is not None:
            counts = counts * weights_of_losses(weights, values)
        counted = jnp.where(counts == 0, 0, counts * values)
        return reduced.total, reduced.divisor, jnp.sum(counted), jnp.sum(counts)

    def measure(params, state, x, target, weights=None):
        n = require_examples(x, target, weights)
        parts = []
        for start in range(0, n, batch_size):
            rows = slice(start, start + batch_size)
            batch = jax.tree.map(lambda array, rows=rows: array[rows], (x, target, weights))
            parts.append(sums(params, state, *batch))
        total, divisor, metric_total, counted = (
            sum(map(float, part)) for part in zip(*parts, strict=True)
        )
        value = total if reduction == "sum" else _mean(total, divisor)
        return value, None if metric is None else _mean(metric_total, counted)

    return measure


def _mean(total: float, count: float) -> float:
    return total / count if count else 0.0
