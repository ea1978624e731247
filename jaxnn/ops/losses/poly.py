"""Poly-1: cross-entropy with another weight on the first term of its expansion."""

import jax.numpy as jnp

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Classes,
    Losses,
    Target,
    as_distribution,
    as_floats,
    is_labels,
    require_target,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_number
from jaxnn.ops.losses.softmax_cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
)


@op
def poly_loss(logits: Classes, target: Target, *, epsilon: float = 1.0) -> Losses:
    """Poly-1 loss of each example, L = −Σₖ tₖ·log pₖ + ε·Σₖ tₖ·(1 − pₖ) with p = softmax(x).

    −log p = (1 − p) + (1 − p)²/2 + … , and ε changes the coefficient of the first term. No 1/K and
    no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        logits x, dx: (N, K)
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1; it may hold booleans
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with ∂pₖ/∂xⱼ = pₖ·(δⱼₖ − pⱼ), besides the gradient of cross-entropy:
        ∂/∂xⱼ Σₖ tₖ·(1 − pₖ) = −pⱼ·(tⱼ − Σₖ tₖ·pₖ)
        ∂/∂tⱼ Σₖ tₖ·(1 − pₖ) = 1 − pⱼ
    For a label c the first is p_c·(p − t), so the whole is dx = (1 + ε·p_c)·(p − t)·dL, the
    gradient of cross-entropy with another dL.

    Saves the residuals of `softmax_cross_entropy`, from which p and 1 − p follow without
    cancellation.

    Args:
        logits: x.
        target: labels or distributions.
        epsilon: ε.

    Raises:
        TypeError: logits are not floating point, or epsilon is not a number.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: Z. Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions", 2022, equation 5; `optax.poly_loss_cross_entropy`, whose ε is 2 by default.

    Example:
        >>> print(jaxnn.poly_loss(jnp.array([[0.0, 0.0], [1e4, 0.0]]), jnp.array([0, 1])))
        [1.1931472e+00 1.0001000e+04]
    """
    t = as_distribution(target, logits)
    missing = jnp.sum(t * (1 - _probabilities(logits)), axis=-1)
    return softmax_cross_entropy.definition(logits, t) + epsilon * missing


@poly_loss.validate
def _(logits, target, *, epsilon):
    require_number("epsilon", epsilon)
    require_target(target, logits=logits)


@poly_loss.forward
@wide
def poly_loss_fwd(logits, target, *, epsilon=1.0):
    """L = cross-entropy + ε·Σₖ tₖ·(1 − pₖ)."""
    losses, residuals = softmax_cross_entropy_fwd(logits, target)
    if is_labels(target):
        missing, _ = _missing_and_p(residuals)
    else:
        _, complement = _p_and_complement(residuals)
        missing = jnp.sum(as_floats(target, logits) * complement, axis=-1)
    return losses + epsilon * missing, residuals


@poly_loss.backward
@wide
def poly_loss_bwd(residuals, dy, *, epsilon=1.0):
    """dx = (1 + ε·p_c)·(p − t)·dL; for a distribution, that of CE − ε·p ⊙ (t − t·p)·dL."""
    if is_labels(residuals[1]):
        _, p = _missing_and_p(residuals)
        dx, *_ = softmax_cross_entropy_bwd(residuals, (1 + epsilon * p) * dy)
        return dx, None
    dx, dt, *_ = softmax_cross_entropy_bwd(residuals, dy)
    p, complement = _p_and_complement(residuals)
    t, dloss = as_floats(residuals.target, p), epsilon * dy[..., None]
    of_others = jnp.sum(t * p, axis=-1, keepdims=True) - t * p
    dx = dx - p * (t * complement - of_others) * dloss
    return dx, None if dt is None else dt + complement * dloss


def _probabilities(logits):
    """The softmax, for the definition."""
    e = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def _missing_and_p(residuals):
    """1 − p_c and p_c of the label of each row."""
    of_label = jnp.exp(residuals.of_label)
    total = residuals.others + of_label
    return (residuals.others / total)[..., 0], (of_label / total)[..., 0]


def _p_and_complement(residuals):
    """p, and 1 − p without a subtraction at the largest logit."""
    shifted, rest = residuals.logits - residuals.maximum, residuals.rest
    p = jnp.exp(shifted) / (1 + rest)
    return p, jnp.where(shifted == 0, rest / (1 + rest), 1 - p)
