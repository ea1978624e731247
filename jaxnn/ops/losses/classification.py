"""Losses against a class: the multiclass hinge, and minus the log-probability of the class."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Classes,
    Labels,
    Losses,
    Shares,
    Target,
    added_at_labels,
    as_distribution,
    as_floats,
    as_labels,
    at_label,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_class_weights,
    require_target,
    row_weights,
    weights_of_labels,
    without_ignored,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_number

NoRows = Float[Array, "0 K"]  # an array without numbers, for its number of columns
ClassWeights = Float[Array, "K"]


class HingeResiduals(NamedTuple):
    """The two classes of each row with a gradient, and its size: 0 where the margin is met."""

    labels: Labels
    rival: Integer[Array, "*N"]
    slope: Losses
    like: NoRows


class AllRivalsResiduals(NamedTuple):
    """The arguments: every rival has its own slope."""

    scores: Classes
    labels: Labels


class LabelResiduals(NamedTuple):
    """The labels, and with class weights the weights and the entry l_c of each row."""

    labels: Labels
    class_weights: ClassWeights | None
    of_label: Losses | None
    like: NoRows


class DistributionResiduals(NamedTuple):
    """The arguments: each gradient is a product of the others."""

    log_probabilities: Classes
    target: Classes | Shares
    class_weights: ClassWeights | None


@op
def multiclass_hinge(
    scores: Classes,
    labels: Labels,
    *,
    margin: float = 1.0,
    rivals: str = "strongest",
    power: int = 1,
) -> Losses:
    """Multiclass hinge loss of each example, L = max(0, m + maxₖ≠c xₖ − x_c).

    By default only the maximum over the wrong classes counts, the strongest rival of class c. With
    `rivals="all"` it is the sum over them, L = Σₖ≠c max(0, m + xₖ − x_c), without a factor 1/K.
    With `power=2` every max(0, ·) is squared, without a factor ½. Without a rival (K = 1) the loss
    is 0.

    Shapes:
        N batch, any number of axes or none; K classes
        scores x, dx: (N, K)
        labels c: (N,), integers 0 … K − 1
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with r the first of the strongest rivals, or with every rival r:
        L̇ = ẋ_r − ẋ_c where m + x_r − x_c is above 0, else 0, and 0 at 0 by convention, so
        dx_r = dL,   dx_c = −dL where L > 0;   all else is 0
    With every rival, dx_c is the sum of these. With power 2 each is multiplied by
    2·(m + x_r − x_c).

    Saves two classes and a slope for each row, not the scores; with every rival, the arguments.

    Implementation notes:
        The maximum is taken over the scores with the least finite number in place c: −∞ would
        raise under `jax_debug_infs`. r is the first class that attains it, found as a minimum of
        indices in float32, which is exact up to 2²⁴: that is several times faster than an argmax.

    Args:
        scores: x.
        labels: c.
        margin: m, at least 0.
        rivals: "strongest", only the rival with the largest score, or "all".
        power: 1 or 2, the exponent of max(0, ·).

    Raises:
        TypeError: scores are not floating point, or labels are not integers.
        ValueError: the shapes do not fit, the margin is negative, rivals or power has an unknown
            value, or a label is out of range (under `jit`, where labels are not known, such a row
            gives NaN).

    Reference: K. Crammer and Y. Singer, "On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines", 2001; J. Weston and C. Watkins, "Support Vector Machines for
    Multi-class Pattern Recognition", 1999, for all rivals, which `torch.nn.MultiMarginLoss` divides
    by K.

    Example:
        >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 0.0]])
        >>> print(jaxnn.multiclass_hinge(scores, jnp.array([0, 0])))
        [0.5 0. ]
        >>> print(jaxnn.multiclass_hinge(scores, jnp.array([2, 2]), rivals="all"))
        [1.5 6. ]
    """
    t = as_distribution(labels, scores)
    of_label = jnp.sum(jnp.where(t == 0, 0, t * scores), axis=-1, keepdims=True)
    if rivals == "all":
        missing = jnp.where(t == 1, 0, margin + scores - of_label)
        return jnp.sum(jnp.where(missing <= 0, 0, missing) ** power, axis=-1)
    others = jnp.where(t == 0, scores, -jnp.inf)
    rival = jnp.argmax(others, axis=-1, keepdims=True)
    of_rival = jnp.take_along_axis(others, rival, axis=-1)
    missing = (margin + of_rival - of_label)[..., 0]
    return jnp.where(missing <= 0, 0, missing) ** power


@multiclass_hinge.validate
def _(scores, labels, *, margin, rivals, power):
    require_number("margin", margin, at_least=0)
    if rivals not in ("strongest", "all"):
        raise ValueError(f"option rivals must be 'strongest' or 'all', got {rivals!r}")
    if power not in (1, 2):
        raise ValueError(f"option power must be 1 or 2, got {power!r}")
    if not is_labels(labels):
        raise TypeError(f"labels must be integers, got {describe(labels)}")
    require_target(labels, scores=scores)


@multiclass_hinge.forward
@wide
def multiclass_hinge_fwd(scores, labels, *, margin=1.0, rivals="strongest", power=1):
    """L = max(0, m + x_r − x_c), the strongest rival r, and whether L > 0."""
    n_classes, lowest = scores.shape[-1], float(jnp.finfo(scores.dtype).min)
    if rivals == "all":
        missing = jnp.sum(_missing(scores, labels, margin) ** power, axis=-1)
        losses = nan_out_of_range(missing, labels, n_classes)
        return losses, AllRivalsResiduals(scores, labels)
    others = jnp.where(one_hot(labels, n_classes), lowest, scores)
    of_rival = jnp.max(others, axis=-1)
    missing = margin + of_rival - at_label(scores, labels)
    missing = nan_out_of_range(jnp.where(missing <= 0, 0, missing), labels, n_classes)
    numbers = jnp.arange(n_classes, dtype=jnp.float32 if n_classes <= 2**24 else jnp.int32)
    attaining = jnp.where(
        others == of_rival[..., None], jnp.broadcast_to(numbers, others.shape), n_classes
    )
    rival = jnp.min(attaining, axis=-1).astype(jnp.int32)
    slope = jnp.sign(missing) if power == 1 else 2 * missing
    return missing**power, HingeResiduals(labels, rival, slope, _no_rows(scores))


@multiclass_hinge.backward
@wide
def multiclass_hinge_bwd(residuals, dy, *, margin=1.0, rivals="strongest", power=1):
    """dx = dL at the rival, −dL at the label, where the margin is missed."""
    if isinstance(residuals, AllRivalsResiduals):
        scores, labels = residuals
        missing = _missing(scores, labels, margin)
        slope = jnp.sign(missing) if power == 1 else 2 * missing
        dx = slope * nan_out_of_range(dy, labels, scores.shape[-1])[..., None]
        of_label = jnp.sum(dx, axis=-1, keepdims=True)
        return jnp.where(one_hot(labels, scores.shape[-1]), -of_label, dx), None
    labels, rival, slope, like = residuals
    n_classes = like.shape[-1]
    d = (slope * dy)[..., None]
    elsewhere = jnp.where(one_hot(rival, n_classes), d, 0 * d)
    return jnp.where(one_hot(labels, n_classes), -d, elsewhere), None


@op
def negative_log_likelihood(
    log_probabilities: Classes,
    target: Target,
    class_weights: ClassWeights | None = None,
    *,
    ignore_label: int | None = None,
) -> Losses:
    """Negative log-likelihood of each example, L = −Σₖ vₖ·tₖ·log pₖ, from log-probabilities.

    No 1/K and no 1/N. With `log_softmax` before it, this is `softmax_cross_entropy`.

    Shapes:
        N batch, any number of axes or none; K classes
        log_probabilities l = log p, dl: (N, K), used as they are: rows need not be normalised
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1; it may hold booleans
        class_weights v, dv: (K,), 1 by default
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0, whatever it holds; the
    reduction "weighted_mean" omits it. A class with l = −∞ and no share in the target, or with
    weight 0, is omitted from the sum.

    Backward, from ⟨dL, L̇⟩ with L̇ = −Σₖ (vₖ·tₖ·l̇ₖ + vₖ·lₖ·ṫₖ + tₖ·lₖ·v̇ₖ):
        dl = −v ⊙ t·dL
        dt = −v ⊙ l·dL
        dv = −Σₙ t ⊙ l·dL

    Saves the labels, and with class weights the entry at each row's label; with a distribution, the
    arguments.

    Args:
        log_probabilities: l.
        target: labels or distributions.
        class_weights: optional v.
        ignore_label: the label of the rows to ignore.

    Raises:
        TypeError: log_probabilities or class_weights are not floating point.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: C. Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.108. The
    weights are those of `torch.nn.NLLLoss`.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.1, 0.3, 0.5, 0.1]]))
        >>> print(jaxnn.negative_log_likelihood(log_p, jnp.array([1])))
        [1.2039728]
    """
    t, log_p = as_distribution(target, log_probabilities, ignore_label), log_probabilities
    if ignore_label is not None:
        ignored = (as_labels(target) == ignore_label)[..., None]
        t, log_p = jnp.where(ignored, 0, t), jnp.where(ignored, 0, log_p)
    if class_weights is not None:
        t = t * jnp.broadcast_to(class_weights, t.shape)
    omitted = (t == 0) & jnp.isneginf(log_p)
    return -jnp.sum(t * jnp.where(omitted, 0, log_p), axis=-1)


@negative_log_likelihood.validate
def _(log_probabilities, target, class_weights, *, ignore_label):
    require_target(target, ignore=ignore_label, log_probabilities=log_probabilities)
    require_class_weights(class_weights, log_probabilities.shape[-1])


@negative_log_likelihood.row_weights
def negative_log_likelihood_row_weights(
    log_probabilities, target, class_weights=None, *, ignore_label=None
):
    """PyTorch's divisor."""
    return row_weights(target, log_probabilities, class_weights, ignore_label)


@negative_log_likelihood.forward
@wide
def negative_log_likelihood_fwd(
    log_probabilities, target, class_weights=None, *, ignore_label=None
):
    """L = −Σₖ vₖ·tₖ·lₖ; for labels, its one nonzero term."""
    n_classes = log_probabilities.shape[-1]
    if is_labels(target):
        of_label, kept = at_label(log_probabilities, target), None
        losses = -of_label
        if class_weights is not None:
            weights, kept = weights_of_labels(class_weights, target), of_label
            losses = -weights * _without_omitted(of_label, weights)
        losses = _of_rows_that_count(losses, target, n_classes, ignore_label)
        return losses, LabelResiduals(target, class_weights, kept, _no_rows(log_probabilities))
    t = _weighted(as_floats(target, log_probabilities), class_weights)
    losses = -jnp.sum(t * _without_omitted(log_probabilities, t), axis=-1)
    return losses, DistributionResiduals(log_probabilities, target, class_weights)


@negative_log_likelihood.backward
@wide
def negative_log_likelihood_bwd(residuals, dy, *, ignore_label=None):
    """dl = −v ⊙ t·dL, dt = −v ⊙ l·dL, dv = −Σₙ t ⊙ l·dL."""
    dweights = None
    if isinstance(residuals, DistributionResiduals):
        log_p, target, class_weights = residuals
        t, dloss = as_floats(target, log_p), dy[..., None]
        weighted = _weighted(t, class_weights)
        log_p = _without_omitted(log_p, weighted)
        if class_weights is not None:
            dweights = -jnp.sum(t * log_p * dloss, range(t.ndim - 1))
        dt = -_weighted(log_p, class_weights) * dloss if target is t else None
        return -weighted * dloss, dt, dweights
    labels, class_weights, of_label, like = residuals
    n_classes = like.shape[-1]
    dlosses = _of_rows_that_count(dy, labels, n_classes, ignore_label)
    d = -dlosses
    if class_weights is not None:
        weights = weights_of_labels(class_weights, labels)
        of_label = _of_rows_that_count(of_label, labels, n_classes, ignore_label)
        of_label = _without_omitted(of_label, weights)
        d, dweights = weights * d, added_at_labels(of_label * d, labels, n_classes)
    d = d[..., None]
    return jnp.where(one_hot(labels, n_classes), d, 0 * d), None, dweights


def _missing(scores, labels, margin):
    """The amount by which each rival misses the margin, and 0 for the label."""
    of_label = at_label(scores, labels)[..., None]
    missing = margin + scores - of_label
    is_met = one_hot(labels, scores.shape[-1]) | (missing <= 0)
    return jnp.where(is_met, 0, missing)


def _no_rows(rows):
    return jnp.zeros((0, rows.shape[-1]), rows.dtype)


def _of_rows_that_count(rows, labels, n_classes, ignore_label):
    """The rows, NaN where the label is out of range and 0 where it is ignored."""
    rows = nan_out_of_range(rows, labels, n_classes, ignore_label)
    return rows if ignore_label is None else without_ignored(rows, labels, ignore_label)


def _weighted(t, class_weights):
    return t if class_weights is None else t * jnp.broadcast_to(class_weights, t.shape)


def _without_omitted(log_p, t):
    """A class of probability 0 that has no share in the target adds 0, not NaN."""
    return jnp.where((t == 0) & (log_p < jnp.finfo(log_p.dtype).min), 0, log_p)
