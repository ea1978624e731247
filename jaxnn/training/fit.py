"""Training for some epochs, with checks, validation and history."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.padded import values_of, zero_padding
from jaxnn.training.data import (
    Data,
    as_data,
    count,
    require_batch_size,
    require_examples,
    shuffled,
    take,
)
from jaxnn.training.gradient import require_loss
from jaxnn.training.metrics import evaluator
from jaxnn.training.steps import train_epoch, train_step


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
        state: the state then, `None` of a network without.
        history: the `History` up to there.
    """

    def __init__(self, epoch, step, leaf, value, params, state, history):
        self.epoch, self.step, self.leaf = epoch, step, leaf
        self.params, self.state, self.history = params, state, history
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
    state: State = None,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float | optax.Schedule = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    reduction: str = "mean",
    seed: int = 0,
    validation_data: Data | None = None,
    metric: Callable | None = None,
    callback: Callable[..., None] | None = None,
    progress: bool | None = None,
) -> tuple:
    """Train a network for some epochs; the same seed gives the same bits.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters to start from; they are left as they are.
        data: `(x, target)` or `(x, target, weights)`, one row for each example; x and target may be
            trees of arrays, weights multiply the losses.
        state: of a network with state, to start from; by default `net.init_state()`.
        epochs: passes over the data.
        batch_size: examples in each minibatch.
        learning_rate: η of plain SGD, or an optax schedule `step -> η`.
        optimizer: another optax transformation, with its own learning rate, in place of SGD.
        reduction: of the losses of each minibatch, as in `value_and_grad`.
        seed: of the order of the examples and of random layers.
        validation_data: the same of other examples, to measure after each epoch.
        metric: `(prediction, target) -> one value per example`, such as `accuracy`.
        callback: called as `callback(epoch, params)` after each epoch, from 1, with the state in
            third place where there is one.
        progress: a progress bar; by default only on a terminal.

    Returns:
        The trained parameters and the `History`; for a network with state, the parameters, the
        state and the `History`.

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
    net = as_layer(net)
    if net.stateful and state is None:
        state = net.init_state()
    x, target, weights = _prepare("data", net, loss, params, state, data)
    require_batch_size(batch_size, count(x))
    if validation_data is not None:
        validation_data = _prepare("validation_data", net, loss, params, state, validation_data)
    epoch_step = train_epoch(net, loss, optimizer, batch_size, reduction)
    measure = evaluator(net, loss, metric, reduction)

    params, state = jax.tree.map(jnp.asarray, (params, state))
    carry = params, optimizer.init(params), *_given(state)
    history = History([], [], [], [], [])
    bar = tqdm(range(1, epochs + 1), desc="fit", unit="epoch", disable=_hidden(progress))
    for epoch in bar:
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        before = carry
        start = time.perf_counter()
        *carry, value = jax.block_until_ready(
            epoch_step(*jax.tree.map(jnp.copy, before), x, target, key, weights)
        )
        params, _, *rest = carry
        state = rest[0] if rest else None
        history.seconds.append(time.perf_counter() - start)
        if not (jnp.isfinite(value) and _all_finite(params)):
            update = train_step(net, loss, optimizer, reduction)
            given = x, target, weights
            raise _first_non_finite(update, before, given, key, batch_size, epoch, history)
        history.loss.append(float(value))
        shown = {"loss": history.loss[-1]}
        if metric is not None:
            history.metric.append(measure(params, state, x, target, weights)[1])
        if validation_data is not None:
            validation_loss, validation_metric = measure(params, state, *validation_data)
            history.validation_loss.append(validation_loss)
            shown["validation loss"] = validation_loss
            if metric is not None:
                history.validation_metric.append(validation_metric)
        bar.set_postfix({name: f"{number:.4g}" for name, number in shown.items()})
        if callback is not None:
            callback(epoch, params, *_given(state))
    return params, *_given(state), history


def _first_non_finite(update, before, data, key, batch_size, epoch, history):
    """Walk an epoch again, step by step, to the step that left the finite numbers."""
    n = count(data)
    order, step_key = shuffled(key, n)
    for number, start in enumerate(range(0, n, batch_size)):
        rows = order[start : start + batch_size]
        x, target, weights = take(data, rows)
        *after, value = update(*before, x, target, step_key(number), weights)
        if not (jnp.isfinite(value) and _all_finite(after[0])):
            break
        before = after
    leaf = next(
        (
            jax.tree_util.keystr(path)
            for path, array in jax.tree_util.tree_leaves_with_path(after[0])
            if not jnp.isfinite(array).all()
        ),
        None,
    )
    params, _, *rest = before
    state = rest[0] if rest else None
    return NonFiniteError(epoch, number + 1, leaf, value, params, state, history)


@jax.jit
def _all_finite(params):
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _given(state) -> tuple:
    """The state as an argument of its own, or none where a network has none."""
    return () if state is None else (state,)


def _hidden(progress: bool | None) -> bool | None:
    """What tqdm calls `disable`; its `None` hides the bar where there is no terminal."""
    return None if progress is None else not progress


def _prepare(name, net, loss, params, state, data):
    """The data as arrays on the device, after every check that needs their values."""
    x, target, weights = as_data(name, data)
    n = require_examples(x, target, weights)
    for part, tree in (("x", x), ("target", target), ("weights", weights)):
        for array in jax.tree.leaves(zero_padding(tree)):
            if jnp.issubdtype(array.dtype, jnp.floating) and not jnp.isfinite(array).all():
                first = np.argwhere(~np.isfinite(np.asarray(array)))[0].tolist()
                raise ValueError(f"{part} of {name} holds {array[tuple(first)]} at index {first}")
    one = jax.tree.map(lambda array: array[:1], x)
    prediction = values_of(jax.eval_shape(net.apply, params, one, state))
    require_loss(loss)
    loss.check(jax.tree.map(lambda y: jnp.zeros((n, *y.shape[1:]), y.dtype), prediction), target)
    return x, target, weights
