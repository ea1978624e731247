"""Update steps and whole epochs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op
from jaxnn.training.data import require_batch_size, require_examples, shuffled, take
from jaxnn.training.gradient import GradientFunction, stateful_gradient, value_and_grad


def sgd_update(params: Params, grads: Params, learning_rate: float) -> Params:
    """One step of gradient descent, W ← W − η·∂L/∂W, on every leaf.

    Bit for bit the update of `optax.sgd(learning_rate)`.

    Args:
        params: the parameters.
        grads: their gradient, the same tree.
        learning_rate: η.

    Reference: the handwritten notes on a linear class, section "update".

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

    A network with state takes it and returns it after opt_state.

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
    update = _update(stateful_gradient(net, loss, reduction), optimizer)
    return jax.jit(update if as_layer(net).stateful else _stateless(update))


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

    A network with state takes it and returns it after opt_state. The buffers of all three are
    donated: use the returned ones from then on.

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
    gradient, stateful = value_and_grad(net, loss, reduction), as_layer(net).stateful
    return epoch_of(gradient, optimizer, batch_size, reduction, stateful=stateful)


def epoch_of(
    gradient: GradientFunction,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    reduction: str = "mean",
    *,
    stateful: bool = False,
) -> Callable:
    """Like `train_epoch`, with a custom gradient function.

    Args:
        gradient: `(params, x, target, key) -> (value, grads)`; stateful,
            `(params, state, x, target, key) -> (value, grads, state)`.
        optimizer: any optax gradient transformation.
        batch_size: examples in each minibatch.
        reduction: "mean" or "sum", as the gradient function has it.
        stateful: whether the gradient function, and with it the epoch, takes and returns a state.

    Raises:
        ValueError: batch_size is not between 1 and the number of examples.
    """
    if stateful:
        epoch = _epoch(gradient, optimizer, batch_size, reduction)
        return jax.jit(epoch, donate_argnums=(0, 1, 2))

    def with_state(params, state, x, target, key):
        return *gradient(params, x, target, key), state

    epoch = _epoch(with_state, optimizer, batch_size, reduction)
    return jax.jit(_stateless(epoch), donate_argnums=(0, 1))


def _update(gradient, optimizer) -> Callable:
    def update(params, opt_state, state, x, target, key=None):
        value, grads, state = gradient(params, state, x, target, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, state, value

    return update


def _epoch(gradient, optimizer, batch_size, reduction) -> Callable:
    require_batch_size(batch_size)
    update = _update(gradient, optimizer)

    def epoch(params, opt_state, state, x, target, key):
        n = require_examples(x, target)
        require_batch_size(batch_size, n)
        order, step_key = shuffled(key, n)

        def step(carry, batch):
            number, rows = batch
            x_rows, target_rows = take(x, rows), take(target, rows)
            *carry, value = update(*carry, x_rows, target_rows, step_key(number))
            return tuple(carry), value

        steps, rest = divmod(n, batch_size)
        whole = order[: steps * batch_size].reshape(steps, batch_size)
        carry, values = lax.scan(step, (params, opt_state, state), (jnp.arange(steps), whole))
        weight = batch_size / n if reduction == "mean" else 1
        total = weight * jnp.sum(values)
        if rest:
            carry, value = step(carry, (steps, order[steps * batch_size :]))
            total = total + (rest / n if reduction == "mean" else 1) * value
        return *carry, total

    return epoch


def _stateless(function) -> Callable:
    """An update or an epoch of a network without state: none goes in and none comes out."""

    def stateless(params, opt_state, x, target, key=None):
        params, opt_state, _, value = function(params, opt_state, (), x, target, key)
        return params, opt_state, value

    return stateless
