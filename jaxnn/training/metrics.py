"""Measuring a network on a data set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.training.data import Data, as_pair, require_batch_size, require_examples
from jaxnn.training.gradient import reduce_losses, require_loss


def accuracy(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """1 for each example whose largest output is that of its class, else 0.

    Shapes (N batch, K classes):
        prediction: (N, K), logits or probabilities
        target: labels (N,), or a distribution (N, K) whose largest entry is the class
        result: (N,)

    Example:
        >>> print(jaxnn.accuracy(jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])))
        [1. 0.]
    """
    labels = target if target.ndim < prediction.ndim else jnp.argmax(target, axis=-1)
    return (jnp.argmax(prediction, axis=-1) == labels).astype(prediction.dtype)


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
        data: `(x, target)`.
        state: of a network with state.
        metric: `(prediction, target) -> one value per example`, such as `accuracy`.
        reduction: "mean" or "sum" of the losses.
        batch_size: how many examples go through the network at once.

    Returns:
        The loss and the metric (`None` without one).

    Raises:
        ValueError: there is no data, or it does not fit.
    """
    require_batch_size(batch_size)
    x, target = as_pair("data", data)
    return evaluator(net, loss, metric, reduction, batch_size)(params, state, x, target)


def evaluator(net, loss, metric, reduction, batch_size=4096):
    """`(params, state, x, target) -> (loss, metric)`, compiled once for each size of batch."""
    net = as_layer(net)
    require_loss(loss)

    @jax.jit
    def sums(params, state, x, target):
        prediction = net.apply(params, x, state)
        losses = loss(prediction, target)
        values = jnp.zeros(1) if metric is None else metric(prediction, target)
        reduce_losses(losses, x, reduction, loss.__name__)
        return jnp.sum(losses), losses.size, jnp.sum(values), values.size

    def measure(params, state, x, target):
        n = require_examples(x, target)
        parts = [
            sums(params, state, x[i : i + batch_size], target[i : i + batch_size])
            for i in range(0, n, batch_size)
        ]
        total, count, metric_total, metric_count = (
            sum(map(float, p)) for p in zip(*parts, strict=True)
        )
        value = total if reduction == "sum" else total / count
        return value, None if metric is None else metric_total / metric_count

    return measure
