"""From one loss for each example to the loss of a batch: the reductions, stated once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.arguments import bind
from jaxnn.arrays import as_array, require_real
from jaxnn.op import Op
from jaxnn.ops._common.numerics import at_least_float32

REDUCTIONS = ("mean", "sum", "weighted_mean", "element_mean")


class Reduced(NamedTuple):
    """The loss of a batch as a fraction, so that batches can be added up.

    Attributes:
        total: Σₙ sₙ·Lₙ with the weight s of each example, in at least float32.
        divisor: the number that divides the total.
        dlosses: the gradient of total/divisor with respect to each loss.
    """

    total: jax.Array
    divisor: jax.Array
    dlosses: jax.Array

    @property
    def value(self) -> jax.Array:
        """The loss of the batch; 0 where no example counts."""
        return ratio(self.total, self.divisor).astype(self.dlosses.dtype)


def ratio(total, divisor):
    """total/divisor, or 0 where the divisor is 0."""
    return jnp.where(divisor == 0, 0, total / jnp.where(divisor == 0, 1, divisor))


def require_reduction(caller: str, reduction: str) -> None:
    """Raise unless reduction is one of the four."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        listed = ", ".join(map(repr, REDUCTIONS[:-1]))
        raise ValueError(
            f"{caller}: reduction must be {listed} or {REDUCTIONS[-1]!r}, got {reduction!r:.80}"
        )


def reduce(losses, prediction, target, weights, loss: Op, reduction: str) -> Reduced:
    """Reduce the losses of a batch.

    Args:
        losses: one for each example, or one for each of its positions.
        prediction: the prediction that the loss was given, an array or a tree of them.
        target: the target, likewise.
        weights: `None`, or the weight of each example or of each loss.
        loss: the op.
        reduction: one of `REDUCTIONS`.

    Raises:
        ValueError: the weights do not fit, or the mean is over an empty batch.
    """
    weighted = losses
    if weights is not None:
        weights = weights_of_losses(weights, losses)
        weighted = jnp.where(weights == 0, 0, weights * losses)
    total = jnp.sum(at_least_float32(weighted))
    if reduction == "sum":
        divisor = jnp.ones_like(total)
    elif losses.size == 0:
        raise ValueError(f"{loss.__name__}: the mean over an empty batch is not defined")
    elif reduction == "weighted_mean":
        counts = row_weights(loss, prediction, target, losses)
        divisor = jnp.sum(at_least_float32(counts if weights is None else weights * counts))
    else:
        counted = losses if reduction == "mean" else jax.tree.leaves(prediction)[0]
        divisor = jnp.full_like(total, counted.size)
    each = ratio(jnp.ones_like(divisor), divisor).astype(losses.dtype)
    dlosses = jnp.broadcast_to(each, losses.shape) if weights is None else each * weights
    return Reduced(total, divisor, dlosses)


def row_weights(loss: Op, prediction, target, losses):
    """The weight of each loss in a weighted mean: 1, unless the op declares otherwise."""
    if loss.rules.row_weights is None:
        return jnp.ones_like(losses)
    args, options = bind(loss, (prediction, target), {})
    return loss.rules.row_weights(*args, **options).astype(losses.dtype)


def weights_of_losses(weights, losses):
    """Weights in the shape and dtype of the losses; those of examples apply to all positions."""
    weights = as_array("weights", weights)
    require_real("weights", weights)
    if weights.shape != losses.shape[: weights.ndim] or weights.ndim == 0:
        raise ValueError(
            f"weights have shape {weights.shape} and the losses {losses.shape}: there must be one "
            "for each example, or for each loss"
        )
    weights = weights.reshape(weights.shape + (1,) * (losses.ndim - weights.ndim))
    return jnp.broadcast_to(weights.astype(losses.dtype), losses.shape)


def require_losses(losses, x, name: str) -> None:
    """Raise unless a loss gives a value for each example of x."""
    (n, *_) = jax.tree.leaves(x)[0].shape
    if losses.ndim == 0 or losses.shape[0] != n:
        raise ValueError(
            f"{name} gave losses of shape {losses.shape} for a batch of {n} examples: the last "
            "axis of the prediction holds the components of one example, so a single number per "
            "example has shape (N, 1)"
        )
