"""Update steps and whole epochs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op
from jaxnn.training.data import count, require_batch_size, require_examples, shuffled, take
from jaxnn.training.gradient import GradientFunction, fraction_and_grad
from jaxnn.training.reduction import Reduced, ratio, require_reduction


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

        params, opt_state, value = step(params, opt_state, x, target, key=None, weights=None)

    A network with state takes it and returns it after opt_state.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`.
        reduction: of the losses of the batch, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    Example:
        >>> net, optimizer = jaxnn.mlp((4, 3)), optax.adam(1e-3)
        >>> params = net.init(jax.random.key(0))
        >>> step = jaxnn.train_step(net, jaxnn.softmax_cross_entropy, optimizer)
        >>> x, labels = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> params, opt_state, value = step(params, optimizer.init(params), x, labels)
    """
    update = _update(fraction_and_grad(net, loss, reduction), optimizer)

    def step(params, opt_state, state, x, target, key=None, weights=None):
        *carry, reduced = update(params, opt_state, state, x, target, key, weights)
        return *carry, reduced.value

    return jax.jit(step if as_layer(net).stateful else _stateless(step))


def train_epoch(
    net: Layer | Op,
    loss: Op,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    reduction: str = "mean",
) -> Callable:
    """One compiled pass over the data in random order, in minibatches.

        params, opt_state, value = epoch(params, opt_state, x, target, key, weights=None)

    Shuffling, gathering and updating run on the device without Python between the steps. Every
    example is used once. Where `batch_size` does not divide the data, the last minibatch is
    shorter and its mean is over the examples it has. `value` is the loss of all the examples,
    each taken before the update it caused, reduced as if they were one batch.

    A network with state takes it and returns it after opt_state. The buffers of all three are
    donated: use the returned ones from then on.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`.
        batch_size: examples in each minibatch.
        reduction: of the losses of each minibatch, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`, and where batch_size is not between 1 and the
            number of examples.
    """
    gradient, stateful = fraction_and_grad(net, loss, reduction), as_layer(net).stateful
    return _compiled(_epoch(gradient, optimizer, batch_size, reduction), stateful)


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
            `(params, state, x, target, key) -> (value, grads, state)`. An epoch that is given
            weights hands those of the minibatch on in last place.
        optimizer: any optax gradient transformation.
        batch_size: examples in each minibatch.
        reduction: as the gradient function has it: with "sum" the values of the minibatches are
            added up, otherwise averaged by their numbers of examples.
        stateful: whether the gradient function, and with it the epoch, takes and returns a state.

    Raises:
        ValueError: batch_size is not between 1 and the number of examples.
    """
    require_reduction("epoch_of", reduction)

    def fraction(params, state, x, target, key, weights):
        given = (key,) if weights is None else (key, weights)
        if stateful:
            value, grads, state = gradient(params, state, x, target, *given)
        else:
            value, grads = gradient(params, x, target, *given)
        divisor = jnp.full_like(value, 1 if reduction == "sum" else count(x))
        return Reduced(value * divisor, divisor, value), grads, state

    return _compiled(_epoch(fraction, optimizer, batch_size, reduction), stateful)


def _compiled(epoch, stateful) -> Callable:
    if stateful:
        return jax.jit(epoch, donate_argnums=(0, 1, 2))
    return jax.jit(_stateless(epoch), donate_argnums=(0, 1))


def _update(gradient, optimizer) -> Callable:
    def update(params, opt_state, state, x, target, key, weights):
        reduced, grads, state = gradient(params, state, x, target, key, weights)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, state, reduced

    return update


def _epoch(gradient, optimizer, batch_size, reduction) -> Callable:
    require_batch_size(batch_size)
    update = _update(gradient, optimizer)

    def epoch(params, opt_state, state, x, target, key, weights=None):
        n = require_examples(x, target, weights)
        require_batch_size(batch_size, n)
        order, step_key = shuffled(key, n)

        def step(carry, batch):
            number, rows = batch
            *carry, reduced = update(
                *carry,
                *take((x, target), rows),
                step_key(number),
                None if weights is None else take(weights, rows),
            )
            return tuple(carry), (reduced.total, reduced.divisor)

        steps, rest = divmod(n, batch_size)
        whole = order[: steps * batch_size].reshape(steps, batch_size)
        carry, sums = lax.scan(step, (params, opt_state, state), (jnp.arange(steps), whole))
        total, divisor = map(jnp.sum, sums)
        if rest:
            carry, (more, counted) = step(carry, (steps, order[steps * batch_size :]))
            total, divisor = total + more, divisor + counted
        return *carry, total if reduction == "sum" else ratio(total, divisor)

    return epoch


def _stateless(function) -> Callable:
    """An update or an epoch of a network without state: none goes in and none comes out."""

    def stateless(params, opt_state, x, target, key=None, weights=None):
        params, opt_state, _, value = function(params, opt_state, (), x, target, key, weights)
        return params, opt_state, value

    return stateless
