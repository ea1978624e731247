"""Measuring a network on a data set, and its predictions."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_arrays, as_real_arrays, leaves
from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.padded import values_of, zero_padding
from jaxnn.training.data import Data, batches, count, require_batch_size
from jaxnn.training.gradient import require_loss, without_padding
from jaxnn.training.programs import remembered
from jaxnn.training.reduction import (
    reduce,
    require_losses,
    require_reduction,
    row_weights,
    weights_of_losses,
)
from jaxnn.training.state import Training

Metrics = Callable | Mapping[str, Callable]
RESERVED = ("loss", "seconds")


def evaluate(
    net: Layer | Op,
    loss: Op,
    params: Params | Training,
    data: Data,
    *,
    state: State = None,
    metrics: Metrics | None = None,
    reduction: str = "mean",
    batch_size: int = 4096,
) -> dict[str, float]:
    """The loss of a data set, and the means of metrics over its examples.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters; or a `Training`, whose parameters and state are used.
        data: `(x, target)`, `(x, target, weights)`, or an iterable of such minibatches.
        state: the state of a network that has one.
        metrics: a function `(prediction, target) -> one value per example`, such as `accuracy`, or
            a dict of such functions. The mean of each, weighted if there are weights, is over the
            examples that the loss does not ignore and for which the metric is not NaN.
        reduction: the reduction of the losses, as in `value_and_grad`.
        batch_size: the number of examples in each forward pass.

    Returns:
        A dict: "loss", and each metric by its name, which is that of the function unless a dict
        gives another.

    Raises:
        TypeError, ValueError: there is no data, or it does not fit.

    Example:
        >>> x, labels = jnp.eye(3), jnp.array([0, 1, 1])
        >>> net, params = jaxnn.Linear(3, 3), {"w": 2 * jnp.eye(3), "b": jnp.zeros(3)}
        >>> measured = jaxnn.evaluate(
        ...     net, jaxnn.softmax_cross_entropy, params, (x, labels), metrics=jaxnn.accuracy
        ... )
        >>> {name: round(number, 3) for name, number in measured.items()}
        {'loss': 0.906, 'accuracy': 0.667}
    """
    require_batch_size(batch_size)
    measure, net = evaluator(net, loss, metrics, reduction), as_layer(net)
    params, state = params_and_state("evaluate", net, params, state)

    def checked():
        for batch in batches("data", data, batch_size):
            require_prediction(net, loss, params, state, *batch[:2])
            yield batch

    return measure(params, checked(), state)


def predict(
    net: Layer | Op,
    params: Params | Training,
    x,
    *,
    state: State = None,
    batch_size: int = 4096,
):
    """The outputs of a network in inference, computed batch by batch.

    Args:
        net: a layer, or an op of one argument.
        params: the parameters; or a `Training`, whose parameters and state are used.
        x: the inputs, an array or a tree of them with one row for each example.
        state: the state of a network that has one.
        batch_size: the number of examples in each forward pass.

    Returns:
        The outputs, an array or a tree of them with one row for each example.

    Raises:
        TypeError, ValueError: x is empty, or does not fit the network.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> jaxnn.predict(net, net.init(jax.random.key(0)), jnp.ones((10, 4)), batch_size=4).shape
        (10, 3)
    """
    require_batch_size(batch_size)
    net = as_layer(net)
    params, state = params_and_state("predict", net, params, state)
    x = as_arrays("predict: x", x)
    if not jax.tree.leaves(x) or () in {leaf.shape for leaf in jax.tree.leaves(x)}:
        raise ValueError("predict: x must have a first axis, that of the examples")
    if count(x) == 0:
        raise ValueError("predict: there are no examples")

    outputs = _outputs(net)
    parts = [
        outputs(params, state, jax.tree.map(lambda leaf, i=i: leaf[i : i + batch_size], x))
        for i in range(0, count(x), batch_size)
    ]
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *y: jnp.concatenate(y), *parts)


def params_and_state(
    caller: str, net: Layer, params: Params | Training, state: State
) -> tuple[Params, State]:
    """The parameters and state of a `Training`, or the given ones, as arrays."""
    if not isinstance(params, Training):
        require_no_state(caller, net, state)
        return as_real_arrays(f"{caller}: params", params), as_arrays(f"{caller}: state", state)
    if state is not None:
        raise ValueError("a Training holds its state; do not pass state as well")
    return params.params, params.state


def require_no_state(caller: str, net: Layer, state: State) -> None:
    """Raise if a network without state is given one."""
    if not net.stateful and leaves(f"{caller}: state", state):
        raise ValueError(f"{caller}: the network has no state, but state has arrays")


def named(metrics: Metrics | None) -> dict[str, Callable]:
    """Each metric by its name."""
    if metrics is None:
        return {}
    if callable(metrics):
        name = getattr(metrics, "__name__", None)
        if name is None or name == "<lambda>":
            name = "metric"
        metrics = {name: metrics}
    if not isinstance(metrics, Mapping) or not all(map(callable, metrics.values())):
        raise TypeError(
            "metrics must be a function (prediction, target), such as jaxnn.accuracy, or a dict of "
            f"such functions, got {metrics!r}"
        )
    for name in metrics:
        if not isinstance(name, str) or name in RESERVED or name.startswith("validation_"):
            raise ValueError(
                f"metrics: {name!r} cannot be a name, since the history has entries 'loss', "
                "'seconds' and 'validation_…'"
            )
    return dict(metrics)


def evaluator(net, loss, metrics, reduction) -> Callable:
    """`(params, minibatches, state) -> {"loss": …}`, compiled for each size of minibatch."""
    metrics = named(metrics)
    require_loss(loss)
    require_reduction("evaluate", reduction)
    fractions = _fractions(as_layer(net), loss, tuple(metrics.items()), reduction)

    def measure(params, minibatches, state):
        sums: dict[str, list] = {}
        for x, target, weights in minibatches:
            for figure, pair in fractions(params, state, x, target, weights).items():
                sums.setdefault(figure, []).append(pair)
        measured = {}
        for figure in ("loss", *metrics):
            total, divisor = (sum(map(float, part)) for part in zip(*sums[figure], strict=True))
            is_sum = reduction == "sum" and figure == "loss"
            measured[figure] = total if is_sum else _ratio(total, divisor)
        return measured

    return measure


@remembered
def _outputs(net) -> Callable:
    return jax.jit(lambda params, state, x: net.apply(params, zero_padding(x), state))


@remembered
def _fractions(net, loss, metrics, reduction) -> Callable:
    """`(params, state, x, target, weights)` to a numerator and a denominator of each figure."""

    @jax.jit
    def fractions(params, state, x, target, weights):
        prediction, weights = without_padding(net.apply(params, zero_padding(x), state), weights)
        losses = loss(prediction, target)
        require_losses(losses, x, loss.__name__)
        reduced = reduce(losses, prediction, target, weights, loss, reduction)
        found = {"loss": (reduced.total, reduced.divisor)}
        counts = row_weights(loss, prediction, target, losses) != 0
        for name, metric in metrics:
            values = metric(prediction, target)
            require_losses(values, x, name)
            found[name] = _counted(values, counts, weights)
        return found

    return fractions


def require_prediction(net, loss, params, state, x, target) -> None:
    """Raise unless the loss takes the network's prediction, with concrete labels in range."""
    one = jax.tree.map(lambda array: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype), x)
    prediction = values_of(jax.eval_shape(net.apply, params, one, state))
    n = count(x)
    loss.check(jax.tree.map(lambda y: jnp.zeros((n, *y.shape[1:]), y.dtype), prediction), target)


def _counted(values, counts, weights):
    """The sum of a metric over the examples that count, and of their weights."""
    if counts.shape != values.shape:  # such as one value for a sequence
        counts = jnp.ones(values.shape, bool)
    counts = (counts & ~jnp.isnan(values)).astype(values.dtype)
    if weights is not None:
        counts = counts * weights_of_losses(weights, values)
    return jnp.sum(jnp.where(counts == 0, 0, counts * values)), jnp.sum(counts)


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0
