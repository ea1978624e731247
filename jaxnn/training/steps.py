"""Update steps and whole epochs."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxnn.arrays import as_array, as_arrays, as_real_arrays, as_scalar, require_key
from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.per_example import clipped_fraction_and_grad
from jaxnn.training.data import count, require_batch_size, require_examples, shuffled
from jaxnn.training.gradient import GradientFunction, fraction_and_grad
from jaxnn.training.placement import placements, take, warn_of_idle_devices, without_aliases
from jaxnn.training.reduction import Reduced, ratio, require_reduction

Optimizer: TypeAlias = optax.GradientTransformation | optax.MultiSteps


def sgd_update(params: Params, grads: Params, learning_rate: float) -> Params:
    """One step of gradient descent, W ← W − η·∂L/∂W, on every leaf.

    Bit for bit the update of `optax.sgd(learning_rate)`.

    Args:
        params: the parameters.
        grads: their gradient, the same tree, shapes and dtypes.
        learning_rate: η.

    Raises:
        TypeError: an array holds something other than real numbers, or η is not a finite number.
        ValueError: the trees, or the shapes or dtypes of two leaves, differ.

    Reference: the handwritten notes on a linear class, section "update".

    Example:
        >>> print(jaxnn.sgd_update(jnp.array([1.0]), jnp.array([2.0]), 0.25))
        [0.5]
    """
    params = as_real_arrays("sgd_update: params", params)
    grads = as_real_arrays("sgd_update: grads", grads)
    rate = as_scalar("sgd_update: learning_rate", learning_rate)
    if len({jax.tree.structure(tree) for tree in (params, grads)}) > 1:
        raise ValueError(
            f"sgd_update: params and grads must be the same tree, got "
            f"{jax.tree.structure(params)!s:.200} and {jax.tree.structure(grads)!s:.200}"
        )

    def updated(path, p, g):
        if p.shape != g.shape or p.dtype != g.dtype:
            at = jax.tree_util.keystr(path)
            raise ValueError(
                f"sgd_update: params{at} is {p.dtype}{list(p.shape)} and its gradient "
                f"{g.dtype}{list(g.shape)}"
            )
        return p - rate.astype(p.dtype) * g

    return jax.tree_util.tree_map_with_path(updated, params, grads)


def train_step(
    net: Layer | Op,
    loss: Op,
    optimizer: Optimizer,
    reduction: str = "mean",
    *,
    clip: float | None = None,
) -> Callable:
    """One compiled update.

        params, opt_state, value = step(params, opt_state, x, target, key=None, weights=None)

    A network with state takes it and returns it after opt_state.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`. One that
            needs the loss, the gradient or a function of the parameters receives them.
        reduction: the reduction of the losses of the batch, as in `value_and_grad`.
        clip: optional, the largest norm of one example's gradient; each is clipped to it before the
            sum, as in `jaxnn.per_example.value_and_clipped_grad`.

    Raises:
        TypeError, ValueError: as for `value_and_grad`, or optimizer is not an optax gradient
            transformation; with clip, as for `value_and_clipped_grad`.

    Example:
        >>> net, optimizer = jaxnn.mlp((4, 3)), optax.adam(1e-3)
        >>> params = net.init(jax.random.key(0))
        >>> step = jaxnn.train_step(net, jaxnn.softmax_cross_entropy, optimizer)
        >>> x, labels = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> params, opt_state, value = step(params, optimizer.init(params), x, labels)
    """
    update = updates_of(gradient_of(net, loss, reduction, clip), optimizer)

    def step(params, opt_state, state, x, target, key, weights):
        *carry, reduced = update(params, opt_state, state, x, target, key, weights)
        return *carry, reduced.value

    def arguments(params, opt_state, state, x, target, key, weights):
        if key is not None:
            require_key("train_step", key)
        return params, opt_state, state, x, target, key, weights

    stateful = as_layer(net).stateful
    return _with_or_without_state("train_step", jax.jit(step), arguments, stateful)


def train_epoch(
    net: Layer | Op,
    loss: Op,
    optimizer: Optimizer,
    batch_size: int,
    reduction: str = "mean",
    *,
    clip: float | None = None,
) -> Callable:
    """One compiled pass over the data in random order, in minibatches.

        params, opt_state, value = epoch(params, opt_state, x, target, key, weights=None)

    Shuffling, gathering and updating run on the device without Python between the steps. Every
    example is used once. If `batch_size` does not divide the data, the last minibatch is shorter
    and its mean is over the examples it has. `value` is the loss of all the examples, each computed
    before the update that uses it, reduced as if they were one batch.

    A network with state takes it and returns it after opt_state. The buffers of all three are
    donated: use the returned ones afterwards.

    If the examples are sharded over devices, so is each minibatch: every device computes its part,
    and one all-reduce adds up the gradients.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        optimizer: any optax gradient transformation; `opt_state = optimizer.init(params)`.
        batch_size: examples in each minibatch.
        reduction: the reduction of the losses of each minibatch, as in `value_and_grad`.
        clip: optional, the largest norm of one example's gradient; each is clipped to it before the
            sum, as in `jaxnn.per_example.value_and_clipped_grad`.

    Raises:
        TypeError, ValueError: as for `train_step`, and if batch_size is not between 1 and the
            number of examples.
    """
    gradient, stateful = gradient_of(net, loss, reduction, clip), as_layer(net).stateful
    return _compiled_epoch(gradient, optimizer, batch_size, reduction, stateful)


def epoch_of(
    gradient: GradientFunction,
    optimizer: Optimizer,
    batch_size: int,
    reduction: str = "mean",
    *,
    stateful: bool = False,
) -> Callable:
    """Like `train_epoch`, with a custom gradient function.

    Args:
        gradient: `(params, x, target, key) -> (value, grads)`; stateful,
            `(params, state, x, target, key) -> (value, grads, state)`. With weights, those of the
            minibatch are its last argument.
        optimizer: any optax gradient transformation.
        batch_size: examples in each minibatch.
        reduction: that of the gradient function: with "sum" the values of the minibatches are
            added up, otherwise averaged in proportion to their numbers of examples.
        stateful: whether the gradient function, and with it the epoch, takes and returns a state.

    Raises:
        TypeError: optimizer is not a gradient transformation.
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

    return _compiled_epoch(fraction, optimizer, batch_size, reduction, stateful)


def gradient_of(net, loss, reduction, clip) -> Callable:
    """The gradient function of a step: `fraction_and_grad`, or that of clipped gradients."""
    if clip is None:
        return fraction_and_grad(net, loss, reduction)
    return clipped_fraction_and_grad(net, loss, reduction, clip)


def updates_of(gradient, optimizer) -> Callable:
    """One update, from the gradient function of `fraction_and_grad` and an optimizer.

        params, opt_state, state, reduced = update(
            params, opt_state, state, x, target, key, weights
        )

    An optimizer that needs the loss (`value`), the gradient (`grad`) or a function of the
    parameters (`value_fn`) receives them; the gradient of that function is the hand-written one.
    """
    require_optimizer(optimizer)
    if hasattr(optimizer, "gradient_transformation"):  # such as optax.MultiSteps
        optimizer = optimizer.gradient_transformation()
    optimizer = optax.with_extra_args_support(optimizer)

    def update(params, opt_state, state, x, target, key, weights):
        def loss_and_grads(params):
            reduced, grads, _ = gradient(params, state, x, target, key, weights)
            return reduced.value, grads

        value_fn = jax.custom_vjp(lambda params: loss_and_grads(params)[0])
        value_fn.defvjp(
            loss_and_grads,
            lambda grads, dy: (jax.tree.map(lambda g: g * dy.astype(g.dtype), grads),),
        )
        reduced, grads, after = gradient(params, state, x, target, key, weights)
        try:
            updates, opt_state = optimizer.update(
                grads, opt_state, params, value=reduced.value, grad=grads, value_fn=value_fn
            )
        except Exception:
            require_tree_of(optimizer, opt_state, params)
            raise
        return optax.apply_updates(params, updates), opt_state, after, reduced

    return update


def require_tree_of(optimizer, opt_state, params) -> None:
    """Raise unless the state of an optimizer has its initial tree."""
    start = jax.eval_shape(optimizer.init, params)
    if len({jax.tree.structure(tree) for tree in (opt_state, start)}) > 1:
        raise ValueError(
            "opt_state must be the state of this optimizer, such as optimizer.init(params), got "
            f"{jax.tree.structure(opt_state)!s:.200}"
        ) from None


def require_optimizer(optimizer) -> None:
    """Raise unless an optimizer has the two functions of an optax gradient transformation."""
    if isinstance(optimizer, type) or not (
        callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))
    ):
        raise TypeError(
            "optimizer must be an optax gradient transformation, such as optax.adam(1e-3), got "
            f"{optimizer!r}"
        )


class Carry(NamedTuple):
    """The values that one step passes to the next.

    Attributes:
        params: the parameters.
        opt_state: the state of the optimizer.
        state: the state of the network; `()` if it has none.
        total: the numerator of the loss of the steps so far.
        divisor: its denominator.
    """

    params: Params
    opt_state: Any
    state: State
    total: jax.Array
    divisor: jax.Array

    def after(self, update: Callable, batch: tuple, key) -> "Carry":
        """After one more step with this minibatch."""
        x, target, weights = batch
        params, opt_state, state, reduced = update(
            self.params, self.opt_state, self.state, x, target, key, weights
        )
        return Carry(
            params,
            opt_state,
            state,
            self.total + reduced.total.astype(float),
            self.divisor + reduced.divisor.astype(float),
        )


def steps_of_epoch(update, data, order, steps_key, batch_size, placed, carry, start, stop):
    """The steps `start` … `stop` of an epoch, counted from 0, over examples on the device.

    The bits of a step do not depend on where the run of steps begins and ends.

    Args:
        update: one update, as `updates_of` gives it.
        data: `(x, target, weights)`.
        order: the order of the examples in this epoch.
        steps_key: the key from which that of each step is folded.
        batch_size: the number of examples in each minibatch; the last one may be shorter.
        placed: the `placements` of the data.
        carry: the `Carry` before the steps.
        start: the first step.
        stop: the step after the last one.
    """
    whole, rest = divmod(order.size, batch_size)

    def step(number, rows, carry):
        batch = take(data, rows, placed)
        return carry.after(update, batch, jax.random.fold_in(steps_key, number))

    def whole_step(number, carry):
        rows = lax.dynamic_slice_in_dim(order, number * batch_size, batch_size)
        return step(number, rows, carry)

    def short_step(carry):
        return step(whole, order[whole * batch_size :], carry)

    if isinstance(stop, int):
        carry = lax.fori_loop(start, min(stop, whole), whole_step, carry)
        return short_step(carry) if stop > whole else carry
    carry = lax.fori_loop(start, jnp.minimum(stop, whole), whole_step, carry)
    return lax.cond(stop > whole, short_step, lambda carry: carry, carry) if rest else carry


def _compiled_epoch(gradient, optimizer, batch_size, reduction, stateful) -> Callable:
    require_batch_size(batch_size)
    update = updates_of(gradient, optimizer)

    def epoch(carry, x, target, order, steps_key, weights, placed):
        n = order.size
        data, zero = (x, target, weights), jnp.zeros((), float)
        carry = steps_of_epoch(
            update,
            data,
            order,
            steps_key,
            batch_size,
            placed,
            Carry(*carry, zero, zero),
            0,
            -(-n // batch_size),
        )
        total = carry.total
        return *carry[:3], total if reduction == "sum" else ratio(total, carry.divisor)

    def arguments(params, opt_state, state, x, target, key, weights):
        require_key("train_epoch", key)
        n = require_examples(x, target, weights)
        require_batch_size(batch_size, n)
        placed = placements((x, target, weights))
        warn_of_idle_devices(placed, batch_size)
        carry = without_aliases((params, opt_state, state))
        return carry, x, target, *shuffled(key, n), weights, placed

    compiled = jax.jit(epoch, donate_argnums=0, static_argnames="placed")
    return _with_or_without_state("train_epoch", compiled, arguments, stateful)


def _with_or_without_state(caller, compiled, arguments, stateful) -> Callable:
    """The function that a user calls, with a state only if the network has one.

    Args:
        caller: its name, for messages.
        compiled: a compiled function of `arguments`, whose third result is the state.
        arguments: from the user's arguments to those of the compiled function.
        stateful: whether the network has a state.
    """

    def prepared(params, opt_state, state, x, target, key, weights):
        params = as_real_arrays(f"{caller}: params", params)
        if weights is not None:
            weights = as_array(f"{caller}: weights", weights)
        x, target = as_arrays(f"{caller}: x", x), as_arrays(f"{caller}: target", target)
        return arguments(params, opt_state, state, x, target, key, weights)

    def with_state(params, opt_state, state, x, target, key=None, weights=None):
        return compiled(*prepared(params, opt_state, state, x, target, key, weights))

    def without_state(params, opt_state, x, target, key=None, weights=None):
        params, opt_state, _, value = with_state(params, opt_state, (), x, target, key, weights)
        return params, opt_state, value

    def lower(params, opt_state, *rest):
        """The program for these arguments, as `jax.jit` lowers it."""
        state, x, target, *rest = rest if stateful else ((), *rest)
        key, weights = (*rest, None, None)[:2]
        return compiled.lower(*prepared(params, opt_state, state, x, target, key, weights))

    run: Any = with_state if stateful else without_state
    run.lower = lower
    return run
