"""The focal loss: a binary cross-entropy that down-weights easy outputs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.op import op
from jaxnn.ops._common.compiler import recomputed
from jaxnn.ops._common.labels import Answers, Classes, Losses, as_floats, require_answers
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.validation import require_number


class FocalResiduals(NamedTuple):
    """Both arguments: each gradient is a function of both."""

    logits: Classes
    target: Answers


@op
def focal_loss(
    logits: Classes, target: Answers, *, gamma: float = 2.0, alpha: float | None = None
) -> Losses:
    """Focal loss of σ(logits), one value per example, which down-weights easy outputs.

    L = Σₖ α·tₖ·f(xₖ) + (1 − α)·(1 − tₖ)·f(−xₖ) with f(x) = −(1 − σ(x))^γ·log σ(x); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K independent binary outputs
        logits x, target t and their gradients: (N, K); t may hold integers or booleans, and then
            has no gradient
        L, dL: (N,)

    A target between 0 and 1 weights the losses of a positive and of a negative, as in a
    cross-entropy. Without α both have weight 1. With γ = 0 and no α it is `sigmoid_cross_entropy`.

    Backward, from 1 − σ(x) = σ(−x), (log σ)'(x) = σ(−x) and (σ(−x)^γ)' = −γ·σ(−x)^γ·σ(x):
        f'(x) = −σ(−x)^γ·(σ(−x) − γ·σ(x)·log σ(x))
        dx = (α·t·f'(x) − (1 − α)·(1 − t)·f'(−x))·dL
        dt = (α·f(x) − (1 − α)·f(−x))·dL

    The power is computed as e^(γ·log σ(−x)): a sigmoid that underflows would have the slope 0·∞.

    Saves its arguments: the exponentials are cheaper to recompute than to write and read again.

    Implementation notes:
        f(±x) follow from f(|x|) and f(−|x|), which share one exponential and one logarithm. The
        backward recomputes both; see `recomputed`.

    Args:
        logits: x.
        target: t, usually 0 or 1.
        gamma: γ, how strongly easy outputs are down-weighted, at least 0.
        alpha: the weight α of positive targets, 0 … 1; that of negative ones is 1 − α.

    Raises:
        TypeError: logits are not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of outputs, or an
            option is out of range.

    Reference: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5.

    Example:
        >>> logits, target = jnp.array([[0.0], [9.0]]), jnp.array([[1.0], [1.0]])
        >>> print(jaxnn.focal_loss(logits, target).round(4))
        [0.1733 0.    ]
    """
    target = jnp.asarray(target, logits.dtype)
    log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    of_yes = target * -jnp.exp(gamma * log_q) * log_p
    of_no = (1 - target) * -jnp.exp(gamma * log_p) * log_q
    if alpha is not None:
        of_yes, of_no = alpha * of_yes, (1 - alpha) * of_no
    return jnp.sum(of_yes + of_no, axis=-1)


@focal_loss.validate
def _(logits, target, *, gamma, alpha):
    require_number("gamma", gamma, at_least=0)
    if alpha is not None:
        require_number("alpha", alpha, at_least=0, at_most=1)
    require_answers(target, logits=logits)


@focal_loss.forward
@wide
def focal_loss_fwd(logits, target, *, gamma=2.0, alpha=None):
    """L = Σₖ α·tₖ·f(xₖ) + (1 − α)·(1 − tₖ)·f(−xₖ)."""
    x, t = logits, as_floats(target, logits)
    yes, no = _weighted(t, 1 - t, alpha)
    right, wrong = _losses(x, gamma)
    terms = jnp.where(x > 0, yes * right + no * wrong, no * right + yes * wrong)
    return jnp.sum(terms, axis=-1), FocalResiduals(x, target)


@focal_loss.backward
def focal_loss_bwd(residuals, dy, *, gamma=2.0, alpha=None):
    """dx = (α·t·f'(x) − (1 − α)·(1 − t)·f'(−x))·dL, dt = (α·f(x) − (1 − α)·f(−x))·dL."""
    x, target = recomputed(residuals)
    x, t = at_least_float32(x), at_least_float32(as_floats(target, x))
    dloss = at_least_float32(dy)[..., None]
    yes, no = _weighted(t, 1 - t, alpha)
    right, wrong = _slopes(x, gamma)
    dx = jnp.where(x > 0, no * wrong + yes * right, -no * right - yes * wrong) * dloss
    if not jnp.issubdtype(target.dtype, jnp.floating):
        return dx, None
    yes, no = _weighted(1, 1, alpha)
    right, wrong = _losses(x, gamma)
    dt = jnp.where(x > 0, yes * right - no * wrong, yes * wrong - no * right) * dloss
    return dx, dt


def _weighted(yes, no, alpha):
    """The positive and the negative terms times their weights."""
    return (yes, no) if alpha is None else (alpha * yes, (1 - alpha) * no)


def _losses(x, gamma):
    """f(|x|) and f(−|x|): the losses of a logit with the right sign and with the wrong one."""
    size = jnp.abs(x)
    minus_log_p = jnp.log1p(jnp.exp(-size))
    minus_log_q = size + minus_log_p
    return (
        jnp.exp(-gamma * minus_log_q) * minus_log_p,
        jnp.exp(-gamma * minus_log_p) * minus_log_q,
    )


def _slopes(x, gamma):
    """f'(|x|) and −f'(−|x|)."""
    size = jnp.abs(x)
    odds = jnp.exp(-size)
    minus_log_p = jnp.log1p(odds)
    minus_log_q = size + minus_log_p
    p = 1 / (1 + odds)
    q = odds * p
    right = -jnp.exp(-gamma * minus_log_q) * (q + gamma * p * minus_log_p)
    wrong = jnp.exp(-gamma * minus_log_p) * (p + gamma * q * minus_log_q)
    return right, wrong
