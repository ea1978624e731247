"""Training: the gradient of a loss by hand, update steps, whole epochs, and `fit`."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from tqdm import tqdm

from jaxnn.arguments import describe
from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op

GradientFunction = Callable[..., tuple[jax.Array, Params]]
Data = tuple[ArrayLike, ArrayLike]


def value_and_grad(net: Layer | Op, loss: Op, reduction: str = "mean") -> GradientFunction:
    """The loss of a batch and its gradient with respect to the parameters, both by hand.

    It mirrors `jax.value_and_grad`: the result is a function

        value, grads = f(params, x, target, key=None)

    Backward, with L the loss of each example and N the number of losses in the batch:
        value = (1/N)·Σ L   gives   dL = 1/N    (reduction "mean")
        value = Σ L         gives   dL = 1      (reduction "sum")
    then dL goes to the loss's backward, and what comes back to the network's.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: "mean" or "sum" over the batch.

    Raises:
        TypeError: net is no layer, or loss no op of two arguments.
        ValueError: reduction is something else; later, x, target and params do not fit, the batch
            is empty (with "mean"), or the loss does not give a value for each example.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> params = net.init(jax.random.key(0))
        >>> gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
        >>> value, grads = gradient(params, jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1]))
        >>> jax.tree.map(jnp.shape, grads)
        ({'b': (3,), 'w': (4, 3)}, ())
    """
    net = as_layer(net)
    _require_loss(loss)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"value_and_grad: reduction must be 'mean' or 'sum', got {reduction!r}")

    def gradient(params, x, target, key=None):
        y, net_residuals = net.fwd(params, x, key)
        losses, loss_residuals = loss.fwd(y, target)
        value, dlosses = _reduce(losses, x, reduction, loss.__name__)
        dy, _ = loss.bwd(loss_residuals, dlosses)
        grads, _ = net.bwd(net_residuals, dy)
        return value, grads

    return gradient


def sgd_update(params: Params, grads: Params, learning_rate: float) -> Params:
    """One step of gradient descent, W ← W − η·∂L/∂W, on every leaf.

    Bit for bit the update of `optax.sgd(learning_rate)`.

    Args:
        params: the parameters.
        grads: their gradient, the same tree.
        learning_rate: η.

    Source: the handwritten notes on a linear class, section "update".

    Example:
        >>> print(jaxnn.sgd_update(jnp.array([1.0]), jnp.array([2.0]), 0.25))
        [0.5]
    """
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)


def train_step(
    net: Layer | Op, loss: Op, optimizer: optax.GradientTransformation, reduction: str = "mean"
) -> Callable:
    """One compiled update.

        params, opt_state, value = step(params, opt_state, x, target, key=None)

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`.
        reduction: "mean" or "sum" over the batch.

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    Example:
        >>> net, optimizer = jaxnn.mlp((4, 3)), optax.adam(1e-3)
        >>> params = net.init(jax.random.key(0))
        >>> step = jaxnn.train_step(net, jaxnn.softmax_cross_entropy, optimizer)
        >>> x, labels = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> params, opt_state, value = step(params, optimizer.init(params), x, labels)
    """
    return jax.jit(_update(value_and_grad(net, loss, reduction), optimizer))


def train_epoch(
    net: Layer | Op,
    loss: Op,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    reduction: str = "mean",
) -> Callable:
    """One compiled pass over the data in random order, in minibatches.

        params, opt_state, value = epoch(params, opt_state, x, target, key)

    Shuffling, gathering and updating run on the device without Python between the steps. Every
    example is used once. Where `batch_size` does not divide the data, the last minibatch is
    shorter and its mean is over the examples it has. `value` is the loss of all the examples,
    each taken before the update it caused: their mean, or their sum with reduction "sum".

    The buffers of `params` and `opt_state` are donated: use the returned ones from then on.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`.
        batch_size: examples in each minibatch.
        reduction: "mean" or "sum" over each minibatch.

    Raises:
        TypeError, ValueError: as `value_and_grad`, and where batch_size is not between 1 and the
            number of examples.
    """
    return epoch_of(value_and_grad(net, loss, reduction), optimizer, batch_size, reduction)


def epoch_of(
    gradient: GradientFunction,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    reduction: str = "mean",
) -> Callable:
    """`train_epoch` with a gradient function of one's own.

    Args:
        gradient: `(params, x, target, key) -> (value, grads)`.
        optimizer: any optax gradient transformation.
        batch_size: examples in each minibatch.
        reduction: "mean" or "sum", as the gradient function has it.

    Raises:
        ValueError: batch_size is not between 1 and the number of examples.
    """
    _require_batch_size(batch_size)
    update = _update(gradient, optimizer)

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, opt_state, x, target, key):
        n = _require_examples(x, target)
        _require_batch_size(batch_size, n)
        order, step_key = _order(key, n)

        def step(carry, batch):
            number, rows = batch
            x_rows, target_rows = _take(x, rows), _take(target, rows)
            *carry, value = update(*carry, x_rows, target_rows, step_key(number))
            return tuple(carry), value

        steps, rest = divmod(n, batch_size)
        whole = order[: steps * batch_size].reshape(steps, batch_size)
        carry, values = lax.scan(step, (params, opt_state), (jnp.arange(steps), whole))
        weight = batch_size / n if reduction == "mean" else 1
        total = weight * jnp.sum(values)
        if rest:
            carry, value = step(carry, (steps, order[steps * batch_size :]))
            total = total + (rest / n if reduction == "mean" else 1) * value
        return *carry, total

    return epoch


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
        metric: `(prediction, target) -> one value per example`, such as `accuracy`.
        reduction: "mean" or "sum" of the losses.
        batch_size: how many examples go through the network at once.

    Returns:
        The loss and the metric (`None` without one).

    Raises:
        ValueError: there is no data, or it does not fit.
    """
    _require_batch_size(batch_size)
    x, target = _arrays("data", data)
    return _evaluator(net, loss, metric, reduction, batch_size)(params, x, target)


class History(NamedTuple):
    """What `fit` measured, one entry an epoch; lists of what was not asked for are empty.

    `loss` is taken while the parameters change, `metric` and the two of the validation data
    after the epoch. `seconds` is the time of the epoch alone, without compilation from the second
    on.
    """

    loss: list[float]
    metric: list[float]
    validation_loss: list[float]
    validation_metric: list[float]
    seconds: list[float]


class NonFiniteError(FloatingPointError):
    """Training met an infinity or a NaN.

    Attributes:
        epoch: the epoch it happened in, from 1.
        step: the step in that epoch, from 1.
        leaf: the path of the first parameter leaf whose gradient or update is not finite, or
            `None` where the loss alone is not.
        params: the last finite parameters, from just before that step.
        history: the `History` up to there.
    """

    def __init__(self, epoch, step, leaf, value, params, history):
        self.epoch, self.step, self.leaf = epoch, step, leaf
        self.params, self.history = params, history
        where = f"params{leaf} is the first leaf at fault" if leaf else "every gradient is finite"
        super().__init__(
            f"training met a non-finite number in epoch {epoch}, step {step}: the loss is {value}, "
            f"{where}; the last finite parameters are in the .params of this error"
        )


def fit(
    net: Layer | Op,
    loss: Op,
    params: Params,
    data: Data,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float | optax.Schedule = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    reduction: str = "mean",
    seed: int = 0,
    validation_data: Data | None = None,
    metric: Callable | None = None,
    callback: Callable[[int, Params], None] | None = None,
    progress: bool | None = None,
) -> tuple[Params, History]:
    """Train a network for some epochs; the same seed gives the same bits.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters to start from; they are left as they are.
        data: `(x, target)`, one row for each example.
        epochs: passes over the data.
        batch_size: examples in each minibatch.
        learning_rate: η of plain SGD, or an optax schedule `step -> η`.
        optimizer: another optax transformation, with its own learning rate, in place of SGD.
        reduction: "mean" or "sum" over each minibatch.
        seed: of the order of the examples and of random layers.
        validation_data: `(x, target)` to measure after each epoch.
        metric: `(prediction, target) -> one value per example`, such as `accuracy`.
        callback: called as `callback(epoch, params)` after each epoch, from 1.
        progress: a progress bar; by default only on a terminal.

    Returns:
        The trained parameters and the `History`.

    Raises:
        TypeError, ValueError: an argument does not fit, the data is empty or holds a NaN or an
            infinity, or a label is out of range.
        NonFiniteError: the loss or a parameter left the finite numbers.

    Example:
        >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
        >>> net = jaxnn.mlp((1, 16, 1), activation=jaxnn.tanh)
        >>> params, history = jaxnn.fit(
        ...     net, jaxnn.squared_error, net.init(jax.random.key(0)), (x, x**2), epochs=200
        ... )
        >>> history.loss[-1] < 0.01
        True
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"fit: epochs must be an integer of at least 0, got {epochs!r}")
    if optimizer is None:
        optimizer = optax.sgd(learning_rate)
    x, target = _prepare("data", net, loss, params, data)
    _require_batch_size(batch_size, len(x))
    if validation_data is not None:
        validation_data = _prepare("validation_data", net, loss, params, validation_data)
    epoch_step = train_epoch(net, loss, optimizer, batch_size, reduction)
    measure = _evaluator(net, loss, metric, reduction)

    params = jax.tree.map(jnp.asarray, params)
    opt_state = optimizer.init(params)
    history = History([], [], [], [], [])
    bar = tqdm(range(1, epochs + 1), desc="fit", unit="epoch", disable=_hidden(progress))
    for epoch in bar:
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        before = params, opt_state
        start = time.perf_counter()
        params, opt_state, value = jax.block_until_ready(
            epoch_step(*jax.tree.map(jnp.copy, before), x, target, key)
        )
        history.seconds.append(time.perf_counter() - start)
        if not (jnp.isfinite(value) and _all_finite(params)):
            update = train_step(net, loss, optimizer, reduction)
            raise _first_non_finite(update, before, x, target, key, batch_size, epoch, history)
        history.loss.append(float(value))
        shown = {"loss": history.loss[-1]}
        if metric is not None:
            history.metric.append(measure(params, x, target)[1])
        if validation_data is not None:
            validation_loss, validation_metric = measure(params, *validation_data)
            history.validation_loss.append(validation_loss)
            shown["validation loss"] = validation_loss
            if metric is not None:
                history.validation_metric.append(validation_metric)
        bar.set_postfix({name: f"{number:.4g}" for name, number in shown.items()})
        if callback is not None:
            callback(epoch, params)
    return params, history


def _reduce(losses, x, reduction, loss_name):
    """The mean or the sum of the losses of a batch, and its gradient with respect to each."""
    if losses.ndim == 0 or losses.shape[0] != x.shape[0]:
        raise ValueError(
            f"{loss_name} gave losses of shape {losses.shape} for a batch of {x.shape[0]} "
            "examples: the last axis of the prediction holds the components of one example, so a "
            "single number per example has shape (N, 1)"
        )
    if reduction == "sum":
        return jnp.sum(losses), jnp.ones_like(losses)
    if losses.size == 0:
        raise ValueError(f"{loss_name}: the mean over an empty batch is not defined")
    return jnp.mean(losses), jnp.full_like(losses, 1 / losses.size)


def _update(gradient: GradientFunction, optimizer: optax.GradientTransformation) -> Callable:
    def update(params, opt_state, x, target, key=None):
        value, grads = gradient(params, x, target, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return update


def _order(key, n):
    """A random order of n examples, and the key of each step."""
    order_key, steps_key = jax.random.split(key)
    return jax.random.permutation(order_key, n), partial(jax.random.fold_in, steps_key)


def _take(array, rows):
    return array.at[rows].get(mode="promise_in_bounds", unique_indices=True)


def _evaluator(net, loss, metric, reduction, batch_size=4096):
    """`(params, x, target) -> (loss, metric)`, compiled once for each size of batch."""
    net = as_layer(net)
    _require_loss(loss)

    @jax.jit
    def sums(params, x, target):
        prediction = net.apply(params, x)
        losses = loss(prediction, target)
        values = jnp.zeros(1) if metric is None else metric(prediction, target)
        _reduce(losses, x, reduction, loss.__name__)
        return jnp.sum(losses), losses.size, jnp.sum(values), values.size

    def measure(params, x, target):
        n = _require_examples(x, target)
        parts = [
            sums(params, x[i : i + batch_size], target[i : i + batch_size])
            for i in range(0, n, batch_size)
        ]
        total, count, metric_total, metric_count = (
            sum(map(float, p)) for p in zip(*parts, strict=True)
        )
        value = total if reduction == "sum" else total / count
        return value, None if metric is None else metric_total / metric_count

    return measure


def _first_non_finite(update, before, x, target, key, batch_size, epoch, history):
    """Walk an epoch again, step by step, to the step that left the finite numbers."""
    n = len(x)
    order, step_key = _order(key, n)
    params, opt_state = before
    for number, start in enumerate(range(0, n, batch_size)):
        rows = order[start : start + batch_size]
        new_params, opt_state, value = update(
            params, opt_state, x[rows], target[rows], step_key(number)
        )
        if not (jnp.isfinite(value) and _all_finite(new_params)):
            break
        params = new_params
    leaf = next(
        (
            jax.tree_util.keystr(path)
            for path, array in jax.tree_util.tree_leaves_with_path(new_params)
            if not jnp.isfinite(array).all()
        ),
        None,
    )
    return NonFiniteError(epoch, number + 1, leaf, value, params, history)


@jax.jit
def _all_finite(params):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _hidden(progress: bool | None) -> bool | None:
    """What tqdm calls `disable`; its `None` hides the bar where there is no terminal."""
    return None if progress is None else not progress


def _arrays(name, data) -> tuple[jax.Array, jax.Array]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (x, target)")
    return jnp.asarray(data[0]), jnp.asarray(data[1])


def _prepare(name, net, loss, params, data):
    """The data as arrays on the device, after every check that needs their values."""
    x, target = _arrays(name, data)
    n = _require_examples(x, target)
    for part, array in (("x", x), ("target", target)):
        if jnp.issubdtype(array.dtype, jnp.floating) and not jnp.isfinite(array).all():
            first = np.argwhere(~np.isfinite(np.asarray(array)))[0].tolist()
            raise ValueError(f"{part} of {name} holds {array[tuple(first)]} at index {first}")
    prediction = jax.eval_shape(as_layer(net).apply, params, x[:1])
    _require_loss(loss)
    loss.check(jnp.zeros((n, *prediction.shape[1:]), prediction.dtype), target)
    return x, target


def _require_loss(loss):
    if not isinstance(loss, Op) or len(loss.arguments) != 2:
        raise TypeError(
            f"loss must be an op (prediction, target), such as jaxnn.squared_error, got {loss!r}"
        )


def _require_examples(x, target) -> int:
    if x.ndim == 0 or target.ndim == 0 or x.shape[0] != target.shape[0]:
        raise ValueError(
            f"x is {describe(x)} and target is {describe(target)}: their first axes must be the "
            "same number of examples"
        )
    if x.shape[0] == 0:
        raise ValueError(f"there are no examples: x is {describe(x)}")
    return x.shape[0]


def _require_batch_size(batch_size, n=None):
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    if n is not None and batch_size > n:
        raise ValueError(f"batch_size is {batch_size} but there are only {n} examples")
