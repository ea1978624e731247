"""Losses against a class: the multiclass hinge, and minus the log-probability of the class."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Classes,
    Labels,
    Losses,
    Target,
    as_distribution,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_target,
    without_ignored,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_number

NoRows = Float[Array, "0 K"]  # an array without numbers, for its number of columns


class HingeResiduals(NamedTuple):
    """Where the gradient goes, and whether it does: 1 where the margin is missed, else 0."""

    labels: Labels
    rival: Integer[Array, "*N"]
    slope: Losses
    like: NoRows


class LabelResiduals(NamedTuple):
    """The labels: no probability enters the derivative."""

    labels: Labels
    like: NoRows


class DistributionResiduals(NamedTuple):
    """Both arguments: each is the derivative with respect to the other."""

    log_probabilities: Classes
    target: Classes


@op
def multiclass_hinge(scores: Classes, labels: Labels, *, margin: float = 1.0) -> Losses:
    """Multiclass hinge loss of each example, L = max(0, m + maxₖ≠c xₖ − x_c).

    The maximum over the wrong classes, not their sum: only the strongest rival of the class c
    counts. Without a rival (K = 1) the loss is 0.

    Shapes:
        N batch, any number of axes or none; K classes
        scores x, dx: (N, K)
        labels c: (N,), integers 0 … K − 1
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with r the first of the strongest rivals:
        L̇ = ẋ_r − ẋ_c where m + x_r − x_c is above 0, else 0, and 0 at 0 by convention, so
        dx_r = dL,   dx_c = −dL where L > 0;   all else is 0

    Saves two classes and a slope for each row, and none of the scores.

    Implementation notes:
        The maximum is taken over the scores with the least finite number in place c: −∞ would
        raise under `jax_debug_infs`. r is the least number among the classes that attain it, found
        as a float32, which counts to 2²⁴: the compiler finds it several times faster than by an
        argmax.

    Args:
        scores: x.
        labels: c.
        margin: m, at least 0.

    Raises:
        TypeError: scores are not floating point, or labels are not integers.
        ValueError: the shapes do not fit, the margin is negative, or a label is out of range (under
            `jit`, where labels are not known, such a row gives NaN).

    Reference: K. Crammer and Y. Singer, "On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines", 2001.

    Example:
        >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 0.0]])
        >>> print(jaxnn.multiclass_hinge(scores, jnp.array([0, 0])))
        [0.5 0. ]
    """
    t = as_distribution(labels, scores)
    others = jnp.where(t == 0, scores, -jnp.inf)
    rival = jnp.argmax(others, axis=-1, keepdims=True)
    of_rival = jnp.take_along_axis(others, rival, axis=-1)[..., 0]
    of_label = jnp.sum(jnp.where(t == 0, 0, t * scores), axis=-1)
    missing = margin + of_rival - of_label
    return jnp.where(missing <= 0, 0, missing)


@multiclass_hinge.validate
def _(scores, labels, *, margin):
    require_number("margin", margin, at_least=0)
    if not is_labels(labels):
        raise TypeError(f"labels must be integers, got {describe(labels)}")
    require_target(labels, scores=scores)


@multiclass_hinge.forward
@wide
def multiclass_hinge_fwd(scores, labels, *, margin=1.0):
    """L = max(0, m + x_r − x_c), the strongest rival r, and whether L > 0."""
    n_classes, lowest = scores.shape[-1], float(jnp.finfo(scores.dtype).min)
    others = jnp.where(one_hot(labels, n_classes), lowest, scores)
    of_rival = jnp.max(others, axis=-1)
    missing = margin + of_rival - _of_label(scores, labels)
    losses = nan_out_of_range(jnp.where(missing <= 0, 0, missing), labels, n_classes)
    numbers = jnp.arange(n_classes, dtype=jnp.float32 if n_classes <= 2**24 else jnp.int32)
    attaining = jnp.where(
        others == of_rival[..., None], jnp.broadcast_to(numbers, others.shape), n_classes
    )
    rival = jnp.min(attaining, axis=-1).astype(jnp.int32)
    return losses, HingeResiduals(labels, rival, jnp.sign(losses), _no_rows(scores))


@multiclass_hinge.backward
@wide
def multiclass_hinge_bwd(residuals, dy, *, margin=1.0):
    """dx = dL at the rival, −dL at the label, where the margin is missed."""
    labels, rival, slope, like = residuals
    n_classes = like.shape[-1]
    d = (slope * dy)[..., None]
    elsewhere = jnp.where(one_hot(rival, n_classes), d, 0 * d)
    return jnp.where(one_hot(labels, n_classes), -d, elsewhere), None


@op
def negative_log_likelihood(
    log_probabilities: Classes, target: Target, *, ignore_label: int | None = None
) -> Losses:
    """Negative log-likelihood of each example, L = −Σₖ tₖ·log pₖ, from log-probabilities.

    No 1/K and no 1/N. With `log_softmax` before it, this is `softmax_cross_entropy`.

    Shapes:
        N batch, any number of axes or none; K classes
        log_probabilities l = log p, dl: (N, K), used as they are: rows need not be normalised
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0; it still counts in a later mean
    over the batch. A class with l = −∞ and no share in the target is omitted from the sum.

    Backward, from ⟨dL, L̇⟩ = ⟨dl, l̇⟩ + ⟨dt, ṫ⟩ with L̇ = −Σₖ tₖ·l̇ₖ − Σₖ ṫₖ·lₖ:
        dl = −t·dL
        dt = −l·dL

    Saves the labels alone; with a distribution, both arguments.

    Args:
        log_probabilities: l.
        target: labels or distributions.
        ignore_label: the label of the rows to ignore.

    Raises:
        TypeError: log_probabilities are not floating point, or a distribution has another dtype.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: C. Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.108.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.1, 0.3, 0.5, 0.1]]))
        >>> print(jaxnn.negative_log_likelihood(log_p, jnp.array([1])))
        [1.2039728]
    """
    t = as_distribution(target, log_probabilities, ignore_label)
    omitted = (t == 0) & jnp.isneginf(log_probabilities)
    losses = -jnp.sum(t * jnp.where(omitted, 0, log_probabilities), axis=-1)
    if ignore_label is not None:
        losses = jnp.where(target.astype(int) == ignore_label, 0, losses)
    return losses


@negative_log_likelihood.validate
def _(log_probabilities, target, *, ignore_label):
    require_target(target, ignore=ignore_label, log_probabilities=log_probabilities)


@negative_log_likelihood.forward
@wide
def negative_log_likelihood_fwd(log_probabilities, target, *, ignore_label=None):
    """L = −Σₖ tₖ·lₖ; of labels, the one term that is not 0."""
    if is_labels(target):
        n_classes = log_probabilities.shape[-1]
        losses = -_of_label(log_probabilities, target)
        losses = _of_rows_that_count(losses, target, n_classes, ignore_label)
        return losses, LabelResiduals(target, _no_rows(log_probabilities))
    losses = -jnp.sum(target * _without_omitted(log_probabilities, target), axis=-1)
    return losses, DistributionResiduals(log_probabilities, target)


@negative_log_likelihood.backward
@wide
def negative_log_likelihood_bwd(residuals, dy, *, ignore_label=None):
    """dl = −t·dL, dt = −l·dL."""
    if isinstance(residuals, DistributionResiduals):
        log_p, t = residuals
        return -t * dy[..., None], -_without_omitted(log_p, t) * dy[..., None]
    labels, like = residuals
    n_classes = like.shape[-1]
    d = _of_rows_that_count(-dy, labels, n_classes, ignore_label)[..., None]
    return jnp.where(one_hot(labels, n_classes), d, 0 * d), None


def _of_label(rows, labels):
    """The entry of the label of each row; of any class where the label is out of range."""
    return jnp.take_along_axis(rows, labels[..., None], axis=-1, mode="clip")[..., 0]


def _no_rows(rows):
    return jnp.zeros((0, rows.shape[-1]), rows.dtype)


def _of_rows_that_count(rows, labels, n_classes, ignore_label):
    """NaN in the rows of labels out of range, and 0 in those to be ignored."""
    rows = nan_out_of_range(rows, labels, n_classes, ignore_label)
    return rows if ignore_label is None else without_ignored(rows, labels, ignore_label)


def _without_omitted(log_p, t):
    """A class of probability 0 that has no share in the target adds 0, not NaN."""
    return jnp.where((t == 0) & (log_p < jnp.finfo(log_p.dtype).min), 0, log_p)
