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
    is_labels,
    nan_out_of_range,
    one_hot,
    require_target,
)
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import require_number

Row = Float[Array, "*N 1"]


class LabelResiduals(NamedTuple):
    """The arguments, and three sums a row from which probabilities come back."""

    logits: Classes
    labels: Labels
    maximum: Row
    others: Row
    total: Row


class DistributionResiduals(NamedTuple):
    """The arguments, and two numbers a row from which probabilities come back."""

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

    Shapes (N batch, any number of axes; K classes):
        logits x, dx: (N, K)
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1
        L, dL: (N,)

    With label smoothing s, t is replaced by (1 − s)·t + s/K. A row whose label is `ignore_label`
    has loss 0 and gradient 0; it still counts in a later mean over the batch. A class with logit
    −∞ and no share in the target is left out of the sum.

    Backward, from ∂log pₖ/∂xⱼ = δⱼₖ − pⱼ:
        ∂L/∂xⱼ = −Σₖ tₖ·(δⱼₖ − pⱼ) = pⱼ·Σₖ tₖ − tⱼ,   p − t where t sums to 1
        ∂L/∂tⱼ = −(1 − s)·log pⱼ
    p − t loses its digits when p → t = 1. So 1 − p is never computed by that subtraction:
      * labels: with eⱼ = e^(xⱼ − max x), and R the sum of eⱼ over the classes other than the
        label c, the total is R + e_c and 1 − p_c = R/(R + e_c):
            dx = (e, with −R in place c)/(R + e_c)·dL
      * distributions: with 1 + r the total, 1 − p = r/(1 + r) at the largest logit:
            dx = (p ⊙ (Σt − t) − t ⊙ (1 − p))·dL,   dt = −(1 − s)·log(p)·dL

    Keeps its arguments and, of each row, the maximum and the sums above, which give back p and
    1 − p with one exponential and no further sum. They are kept apart, in at least float32: in
    max x + log(1 + r) a large logit would round r away.

    Args:
        logits: x.
        target: labels or distributions.
        label_smoothing: s, 0 … 1.
        ignore_label: the integer label of rows to leave out.

    Raises:
        TypeError: logits are not floating point, or a distribution has another dtype.
        ValueError: the shapes do not fit; an option is out of range; a label is out of range
            (under `jit`, where labels are not known, such a row gives NaN).

    Source: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "Cross entropy" to "ŷ − y",
    there for Σt = 1; C. Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [1e4, 0.0]])
        >>> print(jaxnn.softmax_cross_entropy(logits, jnp.array([0, 1])))
        [6.931472e-01 1.000000e+04]
    """
    n_classes = logits.shape[-1]
    t = one_hot(target, n_classes).astype(logits.dtype) if is_labels(target) else target
    if label_smoothing:
        t = (1 - label_smoothing) * t + label_smoothing / n_classes
    losses = jnp.sum(t * _without_excluded(t, -jax.nn.log_softmax(logits)), axis=-1)
    if is_labels(target):
        losses = nan_out_of_range(losses, target, n_classes, ignore_label)
        losses = _without_ignored(losses, target, ignore_label)
    return losses


@softmax_cross_entropy.forward
def softmax_cross_entropy_fwd(logits, target, *, label_smoothing=0.0, ignore_label=None):
    """L = −Σₖ tₖ·log pₖ, in at least float32."""
    if is_labels(target):
        return _labels_fwd(logits, target, label_smoothing, ignore_label)
    return _distribution_fwd(logits, target, label_smoothing)


@softmax_cross_entropy.backward
def softmax_cross_entropy_bwd(residuals, dy, *, label_smoothing=0.0, ignore_label=None):
    """dx = (p ⊙ (Σt − t) − t ⊙ (1 − p))·dL, dt = −(1 − s)·log(p)·dL."""
    if isinstance(residuals, LabelResiduals):
        return _labels_bwd(residuals, dy, label_smoothing, ignore_label)
    return _distribution_bwd(residuals, dy, label_smoothing)


def _labels_fwd(logits, labels, s, ignore_label):
    """L = (1 − s)·(log Σe − x_c) + s·(log Σe − mean x), with x measured from its maximum."""
    n_classes = logits.shape[-1]
    x = at_least_float32(logits)
    maximum = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    others = jnp.sum(_exponentials(x, maximum, labels), axis=-1, keepdims=True)
    of_label = jnp.take_along_axis(x, labels[..., None], axis=-1, mode="clip") - maximum
    total = others + jnp.exp(of_label)
    log_total = jnp.log1p(others + jnp.expm1(of_label))
    losses = (log_total - of_label)[..., 0]
    if s:
        uniform = log_total[..., 0] - jnp.mean(x - maximum, axis=-1)
        losses = (1 - s) * losses + s * uniform
    losses = nan_out_of_range(losses, labels, n_classes, ignore_label)
    losses = _without_ignored(losses, labels, ignore_label)
    return losses.astype(logits.dtype), LabelResiduals(logits, labels, maximum, others, total)


def _labels_bwd(residuals, dy, s, ignore_label):
    """dx = ((e, with s·Σe − R in place c)/Σe − s/K)·dL."""
    logits, labels, maximum, others, total = residuals
    n_classes = logits.shape[-1]
    dloss = nan_out_of_range(at_least_float32(dy), labels, n_classes, ignore_label)[..., None]
    e = _exponentials(at_least_float32(logits), maximum, labels)
    dx = jnp.where(one_hot(labels, n_classes), s * total - others, e) * (dloss / total)
    if s:
        dx = dx - (s / n_classes) * dloss
    dx = _without_ignored(dx, labels[..., None], ignore_label)
    return dx.astype(logits.dtype), None


def _exponentials(x, maximum, labels):
    """e^(x − max x), and 0 for the label: the same in both passes, so that it is computed once."""
    return jnp.where(one_hot(labels, x.shape[-1]), 0, jnp.exp(x - maximum))


def _distribution_fwd(logits, target, s):
    """L = Σₖ tₖ·(log(1 + r) − (xₖ − max x))."""
    x = at_least_float32(logits)
    maximum, rest = _maximum_and_rest(x)
    t = _smoothed(target, s)
    minus_log_p = _without_excluded(t, jnp.log1p(rest) - (x - maximum))
    losses = jnp.sum(t * minus_log_p, axis=-1)
    return losses.astype(logits.dtype), DistributionResiduals(logits, target, maximum, rest)


def _distribution_bwd(residuals, dy, s):
    """dx = (p ⊙ (Σt − t) − t ⊙ (1 − p))·dL, dt = −(1 − s)·log(p)·dL."""
    logits, target, maximum, rest = residuals
    shifted = at_least_float32(logits) - maximum
    t, dloss = _smoothed(target, s), at_least_float32(dy)[..., None]
    p = jnp.exp(shifted) / (1 + rest)
    complement = jnp.where(shifted == 0, rest / (1 + rest), 1 - p)
    dx = (p * (jnp.sum(t, axis=-1, keepdims=True) - t) - t * complement) * dloss
    dt = (1 - s) * _without_excluded(t, jnp.log1p(rest) - shifted) * dloss
    return dx.astype(logits.dtype), dt.astype(target.dtype)


def _maximum_and_rest(x: Classes) -> tuple[Row, Row]:
    """m = max x, and r for which Σ e^(x − m) = 1 + r: the sum over all but one of the maxima."""
    m = jnp.max(x, axis=-1, keepdims=True)
    attained = x == m
    others = jnp.sum(jnp.where(attained, 0, jnp.exp(x - m)), axis=-1, keepdims=True)
    return m, others + (jnp.sum(attained, axis=-1, keepdims=True, dtype=x.dtype) - 1)


def _smoothed(target, s):
    t = at_least_float32(target)
    return (1 - s) * t + s / t.shape[-1] if s else t


def _without_ignored(array, labels, ignore_label):
    """0 in the rows whose label is to be ignored."""
    return array if ignore_label is None else jnp.where(labels != ignore_label, array, 0)


def _without_excluded(t, minus_log_p):
    """A class that a logit of −∞ excludes and that has no share in the target adds 0, not NaN."""
    return jnp.where((t == 0) & jnp.isposinf(minus_log_p), 0, minus_log_p)


@softmax_cross_entropy.validate
def _(logits, target, *, label_smoothing, ignore_label):
    require_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    if ignore_label is not None and type(ignore_label) is not int:
        raise TypeError(f"option ignore_label must be an integer, got {ignore_label!r}")
    require_target(target, ignore=ignore_label, logits=logits)
