"""Softmax and cross-entropy in one: the loss of a classifier, from its logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Classes,
    Labels,
    Losses,
    Target,
    as_distribution,
    nan_out_of_range,
    one_hot,
    require_target,
    without_ignored,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_number

Row = Float[Array, "*N 1"]


class LabelResiduals(NamedTuple):
    """The arguments, and three numbers a row from which the probabilities follow.

    They are the maximum of x, and the sums R and R + e_c of exponentials measured from it.
    """

    logits: Classes
    labels: Labels
    maximum: Row
    others: Row
    total: Row


class DistributionResiduals(NamedTuple):
    """The arguments, and two numbers a row from which the probabilities follow.

    They are the maximum of x, and r, where 1 + r is the sum of exponentials measured from it.
    """

    logits: Classes
    target: Classes
    maximum: Row
    rest: Row


@op
def softmax_cross_entropy(
    logits: Classes,
    target: Target,
    *,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
) -> Losses:
    """Cross-entropy of softmax(logits), one value per example, from the logits themselves.

    L = −Σₖ tₖ·log pₖ with p = softmax(x); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        logits x, dx: (N, K)
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1
        L, dL:  (N,)

    With label smoothing s, t is replaced by (1 − s)·t + s/K. A row whose label is `ignore_label`
    has loss 0 and gradient 0; it still counts in a later mean over the batch. A class with logit
    −∞ and no share in the target is omitted from the sum.

    Backward, from ⟨dL, L̇⟩ with ∂log pₖ/∂xⱼ = δⱼₖ − pⱼ:
        ∂L/∂xⱼ = −Σₖ tₖ·(δⱼₖ − pⱼ) = pⱼ·Σₖ tₖ − tⱼ,   p − t where t sums to 1
        ∂L/∂tⱼ = −(1 − s)·log pⱼ
    p − t loses its digits when p → t = 1. So 1 − p is never computed by that subtraction:
      * labels: with eⱼ = e^(xⱼ − max x), and R the sum of eⱼ over the classes other than the
        label c, the total is R + e_c and 1 − p_c = R/(R + e_c):
            dx = (e, with −R in place c)/(R + e_c)·dL
      * distributions: with 1 + r the total, 1 − p = r/(1 + r) at the largest logit:
            dx = (p ⊙ (Σt − t) − t ⊙ (1 − p))·dL
            dt = −(1 − s)·log(p)·dL

    Saves its arguments and, for each row, the maximum and the sums above, from which p and 1 − p
    follow with one exponential and no further sum. They are saved apart, in at least float32: in
    max x + log(1 + r) a large logit would round r away.

    Implementation notes:
        Both passes write e, with 0 in place c, the same way, so that the compiler computes it once
        where it sees both. A label out of range makes e_c NaN, and with it loss and gradient.

    Args:
        logits: x.
        target: labels or distributions.
        label_smoothing: s, 0 … 1.
        ignore_label: the label of the rows to ignore.

    Raises:
        TypeError: logits are not floating point, or a distribution has another dtype.
        ValueError: the shapes do not fit, or an option or a label is out of range (under `jit`,
            where labels are not known, such a row gives NaN).

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "Cross entropy" to
    "ŷ − y", there for Σt = 1; C. Szegedy et al., "Rethinking the Inception Architecture", 2016,
    section 7.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [1e4, 0.0]])
        >>> print(jaxnn.softmax_cross_entropy(logits, jnp.array([0, 1])))
        [6.931472e-01 1.000000e+04]
    """
    t = as_distribution(target, logits, ignore_label)
    if label_smoothing:
        t = (1 - label_smoothing) * t + label_smoothing / logits.shape[-1]
    minus_log_p = -jax.nn.log_softmax(logits)
    omitted = (t == 0) & jnp.isposinf(minus_log_p)
    losses = jnp.sum(t * jnp.where(omitted, 0, minus_log_p), axis=-1)
    if ignore_label is not None:
        losses = jnp.where(target.astype(int) == ignore_label, 0, losses)
    return losses


@softmax_cross_entropy.validate
def _(logits, target, *, label_smoothing, ignore_label):
    if label_smoothing != 0:
        require_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    require_target(target, ignore=ignore_label, logits=logits)


@softmax_cross_entropy.forward
@wide
def softmax_cross_entropy_fwd(logits, target, *, label_smoothing=0.0, ignore_label=None):
    """L = (1 − s)·(log Σe − x_c) + s·(log Σe − mean x), with x measured from its maximum."""
    if jnp.issubdtype(target.dtype, jnp.floating):
        return _distribution_fwd(logits, target, label_smoothing)
    s, labels, n_classes = label_smoothing, target, logits.shape[-1]
    maximum = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    e = jnp.where(one_hot(labels, n_classes), 0, jnp.exp(logits - maximum))
    others = jnp.sum(e, axis=-1, keepdims=True)
    of_label = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")[..., 0]
    of_label = nan_out_of_range(of_label, labels, n_classes, ignore_label)[..., None] - maximum
    total = others + jnp.exp(of_label)
    log_total = jnp.log1p(others + jnp.expm1(of_label))
    losses = (log_total - of_label)[..., 0]
    if s:
        uniform = log_total[..., 0] - jnp.mean(logits - maximum, axis=-1)
        losses = (1 - s) * losses + s * uniform
    if ignore_label is not None:
        losses = without_ignored(losses, labels, ignore_label)
    return losses, LabelResiduals(logits, labels, maximum, others, total)


@softmax_cross_entropy.backward
@wide
def softmax_cross_entropy_bwd(residuals, dy, *, label_smoothing=0.0, ignore_label=None):
    """dx = ((e, with s·Σe − R in place c)/Σe − s/K)·dL."""
    if isinstance(residuals, DistributionResiduals):
        return _distribution_bwd(residuals, dy, label_smoothing)
    logits, labels, maximum, others, total = residuals
    s, n_classes, dloss = label_smoothing, logits.shape[-1], dy[..., None]
    is_label = one_hot(labels, n_classes)
    e = jnp.where(is_label, 0, jnp.exp(logits - maximum))
    dx = jnp.where(is_label, s * total - others, e) * (dloss / total)
    if s:
        dx = dx - (s / n_classes) * dloss
    if ignore_label is not None:
        dx = without_ignored(dx, labels[..., None], ignore_label)
    return dx, None


def _distribution_fwd(logits, target, s):
    """L = Σₖ tₖ·(log(1 + r) − (xₖ − max x))."""
    maximum, rest = _maximum_and_rest(logits)
    t = _smoothed(target, s)
    losses = jnp.sum(t * _minus_log_p(t, rest, logits - maximum), axis=-1)
    return losses, DistributionResiduals(logits, target, maximum, rest)


def _distribution_bwd(residuals, dy, s):
    """dx = (p ⊙ (Σt − t) − t ⊙ (1 − p))·dL, dt = −(1 − s)·log(p)·dL."""
    logits, target, maximum, rest = residuals
    shifted, t, dloss = logits - maximum, _smoothed(target, s), dy[..., None]
    p = jnp.exp(shifted) / (1 + rest)
    complement = jnp.where(shifted == 0, rest / (1 + rest), 1 - p)
    dx = (p * (jnp.sum(t, axis=-1, keepdims=True) - t) - t * complement) * dloss
    return dx, (1 - s) * _minus_log_p(t, rest, shifted) * dloss


def _maximum_and_rest(x: Classes) -> tuple[Row, Row]:
    """m = max x, and r for which Σ e^(x − m) = 1 + r: the sum over all but one of the maxima."""
    m = jnp.max(x, axis=-1, keepdims=True)
    attained = x == m
    others = jnp.sum(jnp.where(attained, 0, jnp.exp(x - m)), axis=-1, keepdims=True)
    return m, others + (jnp.sum(attained, axis=-1, keepdims=True, dtype=x.dtype) - 1)


def _smoothed(t, s):
    return (1 - s) * t + s / t.shape[-1] if s else t


def _minus_log_p(t, rest, shifted):
    """log(1 + r) − (x − max x), and 0 for a class that x = −∞ excludes and that has no share."""
    minus_log_p = jnp.log1p(rest) - shifted
    infinite = minus_log_p > jnp.finfo(minus_log_p.dtype).max
    return jnp.where((t == 0) & infinite, 0, minus_log_p)
