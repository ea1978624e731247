"""The loss of a batch and its gradient, by the hand-written backward passes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_array, wrapped_like
from jaxnn.autodiff import AutodiffOp
from jaxnn.layer import Layer, Params, as_layer
from jaxnn.op import Op
from jaxnn.padded import Padded, zero_padding
from jaxnn.training.reduction import reduce, require_losses, require_reduction

GradientFunction = Callable[..., tuple[jax.Array, Params]]


def value_and_grad(net: Layer | Op, loss: Op, reduction: str = "mean") -> GradientFunction:
    """The loss of a batch and its gradient with respect to the parameters, both by hand.

    It mirrors `jax.value_and_grad`: the result is a function

        value, grads = f(params, x, target, key=None, weights=None)

    and for a network with state, such as one with `BatchNorm`,

        value, grads, state = f(params, state, x, target, key=None, weights=None)

    `x`, `target` and the prediction may be trees of arrays. Optional weights s multiply the losses:
    one for each example, or one for each loss where an example has several.

    Backward, with L each of the N losses in the batch, of K components each:
        "mean"           value = (1/N)·Σ s·L             dL = s/N
        "sum"            value = Σ s·L                   dL = s
        "weighted_mean"  value = Σ s·L / Σ s·w           dL = s/Σ s·w
        "element_mean"   value = (1/(N·K))·Σ s·L         dL = s/(N·K)
    The loss's backward takes dL, and the network's takes its result. The weight w of a row in the
    mean is 0 for a row that the loss ignores (`ignore_label`) and that of its class if there are
    class weights, as in PyTorch's "mean"; otherwise 1. If all w are 0, value and gradient are 0.
    The mean over N·K is the default of PyTorch and optax for regression.

    If the prediction is `Padded`, positions beyond the lengths have the weight 0.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        reduction: "mean", "sum", "weighted_mean" or "element_mean".

    Raises:
        TypeError: net is not a layer, or loss is not an op of two arguments.
        ValueError: reduction is unknown; later, x, target, weights and params do not fit, the batch
            is empty (with a mean), or the loss does not give a value for each example.

    Example:
        >>> net = jaxnn.mlp((4, 3))
        >>> params = net.init(jax.random.key(0))
        >>> gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
        >>> value, grads = gradient(params, jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1]))
        >>> jax.tree.map(jnp.shape, grads)
        ({'b': (3,), 'w': (4, 3)}, ())
    """
    gradient = fraction_and_grad(net, loss, reduction)

    def stateful(params, state, x, target, key=None, weights=None):
        reduced, grads, state = gradient(params, state, x, target, key, weights)
        return reduced.value, grads, state

    def stateless(params, x, target, key=None, weights=None):
        reduced, grads, _ = gradient(params, (), x, target, key, weights)
        return reduced.value, grads

    return stateful if as_layer(net).stateful else stateless


def fraction_and_grad(net, loss, reduction) -> Callable:
    """`value_and_grad` with the value as `Reduced`, and the state in third place.

    The state is `()` if the network has none.
    """
    net = as_layer(net)
    require_loss(loss)
    require_reduction("value_and_grad", reduction)
    stateful = net.stateful

    def gradient(params, state, x, target, key=None, weights=None):
        if not isinstance(x, jax.Array):
            x = zero_padding(x)
        y, net_residuals = net.fwd(params, x, key)
        prediction, weights = without_padding(y, weights)
        losses, loss_residuals = loss.fwd(prediction, target)
        require_losses(losses, x, loss.__name__)
        reduced = reduce(losses, prediction, target, weights, loss, reduction)
        dy, *_ = loss.bwd(loss_residuals, reduced.dlosses)
        grads, _ = net.bwd(net_residuals, dy)
        if jax.tree.structure(grads) != jax.tree.structure(params):
            grads = wrapped_like(params, grads)
        return reduced, grads, net.update_state(state, net_residuals) if stateful else state

    return gradient


def require_loss(loss: Op) -> None:
    """Raise unless a loss is an op of two arguments."""
    of_two = isinstance(loss, Op) and len(loss.arguments) >= 2 >= len(loss.required)
    if not of_two or (len(loss.required) == 1 and not isinstance(loss, AutodiffOp)):
        raise TypeError(
            "loss must be an op (prediction, target), such as jaxnn.squared_error, or "
            f"jaxnn.autodiff of a function, got {loss!r}"
        )


def without_padding(y, weights):
    """The prediction, and weights that are 0 beyond the lengths of a `Padded` one."""
    if not isinstance(y, Padded):
        return y, weights
    if y.lengths is not None:
        valid = y.valid
        if weights is None:
            weights = valid.astype(y.values.dtype)
        else:
            weights = as_array("weights", weights)
            by_position = weights[:, None] if weights.ndim == 1 else weights
            weights = jnp.where(valid, by_position, 0)
    return y.values, weights
