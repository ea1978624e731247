"""The loss of a batch and its gradient, by the hand-written backward passes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op

GradientFunction = Callable[..., tuple[jax.Array, Params]]


def value_and_grad(net: Layer | Op, loss: Op, reduction: str = "mean") -> GradientFunction:
    """The loss of a batch and its gradient with respect to the parameters, both by hand.

    It mirrors `jax.value_and_grad`: the result is a function

        value, grads = f(params, x, target, key=None)

    and for a network with state, such as one with `BatchNorm`,

        value, grads, state = f(params, state, x, target, key=None)

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
    gradient = stateful_gradient(net, loss, reduction)
    if as_layer(net).stateful:
        return gradient

    def stateless(params, x, target, key=None):
        value, grads, _ = gradient(params, (), x, target, key)
        return value, grads

    return stateless


def stateful_gradient(net, loss, reduction) -> Callable:
    """`value_and_grad` that takes and returns the state, `()` where a network has none."""
    net = as_layer(net)
    require_loss(loss)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"value_and_grad: reduction must be 'mean' or 'sum', got {reduction!r}")

    stateful = net.stateful

    def gradient(params, state, x, target, key=None):
        y, net_residuals = net.fwd(params, x, key)
        losses, loss_residuals = loss.fwd(y, target)
        value, dlosses = reduce_losses(losses, x, reduction, loss.__name__)
        dy, *_ = loss.bwd(loss_residuals, dlosses)
        grads, _ = net.bwd(net_residuals, dy)
        return value, grads, net.update_state(state, net_residuals) if stateful else state

    return gradient


def require_loss(loss: Op) -> None:
    """A loss is an op of two arguments."""
    if not isinstance(loss, Op) or len(loss.required) != 2:
        raise TypeError(
            f"loss must be an op (prediction, target), such as jaxnn.squared_error, got {loss!r}"
        )


def reduce_losses(losses, x, reduction, loss_name):
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
