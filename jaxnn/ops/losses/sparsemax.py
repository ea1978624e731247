"""The loss that is to sparsemax as cross-entropy is to softmax."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Classes,
    Losses,
    Target,
    as_distribution,
    as_floats,
    at_label,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_target,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops.activations.sparsemax import above, simplex_threshold, sparsemax


class SparsemaxLossResiduals(NamedTuple):
    """The arguments, and two numbers a row from which the probabilities follow."""

    logits: Classes
    target: Target
    maximum: Float[Array, "*N 1"]
    threshold: Float[Array, "*N 1"]


@op
def sparsemax_loss(logits: Classes, target: Target) -> Losses:
    """Sparsemax loss of each example, L = ⟨p − t, z⟩ − ½·‖p‖² + ½·‖t‖² with p = sparsemax(z).

    It is 0 where p = t and its gradient is p − t, as for cross-entropy and softmax. For a label c
    it is ½·Σ_S (zⱼ² − τ²) + ½ − z_c, with the support S and the threshold τ of `sparsemax`. No 1/K
    and no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        logits z, dz: (N, K)
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt; it may hold booleans
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩; p maximises ⟨p, z⟩ − ½·‖p‖² on the simplex, so its own variation adds
    nothing:
        dz = (p − t)·dL
        dt = (t − z)·dL

    L loses its digits where p is near t. With z = p + τ on the support it is a sum of terms that
    are not negative, where t sums to 1:
        L = ½·‖p − t‖² + Σₖ tₖ·max(0, τ − zₖ) + τ·(1 − Σt)
    and 1 − p is the threshold t of `sparsemax`'s notes at the largest logit, without a subtraction.

    Saves its arguments and, for each row, the maximum and the threshold, from which p follows.

    Args:
        logits: z.
        target: labels or distributions.

    Raises:
        TypeError: logits are not floating point.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: A. Martins and R. Astudillo, "From Softmax to Sparsemax", 2016, section 3; M.
    Blondel, A. Martins and V. Niculae, "Learning with Fenchel-Young Losses", 2020, for
    distributions.

    Example:
        >>> logits = jnp.array([[0.5, 0.25, -1.0], [9.0, 3.0, 1.0]])
        >>> print(jaxnn.sparsemax_loss(logits, jnp.array([0, 1])))
        [0.140625 6.      ]
    """
    t = as_distribution(target, logits)
    p = sparsemax.definition(logits)
    z = jnp.where(jnp.isneginf(logits) & (t == 0), 0, logits)
    return jnp.sum((p - t) * (z - 0.5 * (p + t)), axis=-1)


@sparsemax_loss.validate
def _(logits, target):
    require_target(target, logits=logits)


@sparsemax_loss.forward
@wide
def sparsemax_loss_fwd(logits, target):
    """L = ½·‖p − t‖² + Σₖ tₖ·max(0, τ − zₖ) + τ·(1 − Σt)."""
    maximum, u, threshold = simplex_threshold(logits, -1)
    difference = _difference(logits, target, maximum, threshold)
    losses = 0.5 * jnp.sum(difference * difference, axis=-1)
    below = jnp.maximum(threshold - u, 0)
    if is_labels(target):
        losses = losses + at_label(below, target)
        losses = nan_out_of_range(losses, target, logits.shape[-1])
    else:
        t = as_floats(target, logits)
        losses = losses + jnp.sum(t * jnp.where(t == 0, 0, below), axis=-1)
        lacking = 1 - jnp.sum(t, axis=-1)
        losses = losses + (maximum + threshold - 1)[..., 0] * lacking
    return losses, SparsemaxLossResiduals(logits, target, maximum, threshold)


@sparsemax_loss.backward
@wide
def sparsemax_loss_bwd(residuals, dy):
    """dz = (p − t)·dL, dt = (t − z)·dL."""
    logits, target, maximum, threshold = residuals
    dloss = dy[..., None]
    difference = _difference(logits, target, maximum, threshold)
    if is_labels(target):
        dloss = nan_out_of_range(dy, target, logits.shape[-1])[..., None]
        return difference * dloss, None
    t = as_floats(target, logits)
    z = jnp.where((t == 0) & (logits < jnp.finfo(logits.dtype).min), 0, logits)
    return difference * dloss, (t - z) * dloss if target is t else None


def _difference(logits, target, maximum, threshold):
    """p − t, at the largest logit as (1 − t) − (1 − p)."""
    p = above((logits - maximum) + 1, threshold)
    is_largest = logits == maximum
    if is_labels(target):
        is_label = one_hot(target, logits.shape[-1])
        return jnp.where(is_label, jnp.where(is_largest, -threshold, p - 1), p)
    t = as_floats(target, logits)
    return jnp.where(is_largest, (1 - t) - threshold, p - t)
