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
    is_labels,
    nan_out_of_range,
    one_hot,
    require_target,
)
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import require_number

NoRows = Float[Array, "0 K"]  # an array without numbers, for its dtype and its number of columns


class RivalKept(NamedTuple):
    """Where the gradient goes, and whether it does: 1 where the margin is missed, else 0."""

    labels: Labels
    rival: Integer[Array, "*N"]
    slope: Losses
    like: NoRows


class LabelsKept(NamedTuple):
    """The labels: no probability enters the derivative."""

    labels: Labels
    like: NoRows


class DistributionKept(NamedTuple):
    """Both arguments: each is the derivative with respect to the other."""

    log_probabilities: Classes
    target: Classes


@op
def multiclass_hinge(scores: Classes, labels: Labels, *, margin: float = 1.0) -> Losses:
    """Multiclass hinge loss of each example, L = max(0, m + maxₖ≠c xₖ − x_c).

    The maximum over the wrong classes, not their sum: only the strongest rival of the class c
    counts. Without a rival (K = 1) the loss is 0.

    Shapes (N batch, any number of axes; K classes):
        scores x, dx: (N, K)
        labels c: (N,), integers 0 … K − 1
        L, dL: (N,)

    Backward, with r the first of the strongest rivals:
        L = m + x_r − x_c where that is above 0, else 0, with slope 0 at 0 by convention, so
        dx_r = dL,   dx_c = −dL where L > 0;   all else is 0

    r is the least number among the classes whose score is the maximum, found as a float32, which
    counts to 2²⁴: the compiler finds it several times faster than by an argmax.

    Keeps two classes and a slope for each row, and none of the scores.

    Args:
        scores: x.
        labels: c.
        margin: m, at least 0.

    Raises:
        TypeError: scores are not floating point, or labels are not integers.
        ValueError: the shapes do not fit; the margin is negative; a label is out of range (under
            `jit`, where labels are not known, such a row gives NaN).

    Source: K. Crammer and Y. Singer, "On the Algorithmic Implementation of Multiclass Kernel-based
    Vector Machines", 2001.

    Example:
        >>> scores = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 0.0]])
        >>> print(jaxnn.multiclass_hinge(scores, jnp.array([0, 0])))
        [0.5 0. ]
    """
    n_classes = scores.shape[-1]
    is_label = one_hot(labels, n_classes)
    others = jnp.where(is_label, -jnp.inf, scores)
    is_rival = one_hot(jnp.argmax(others, axis=-1), n_classes)
    of_rival = jnp.sum(jnp.where(is_rival, others, 0), axis=-1)
    of_label = jnp.sum(jnp.where(is_label, scores, 0), axis=-1)
    missing = margin + of_rival - of_label
    losses = jnp.where(missing <= 0, 0, missing)
    return nan_out_of_range(losses, labels, n_classes)


@multiclass_hinge.forward
def multiclass_hinge_fwd(scores, labels, *, margin=1.0):
    """L = max(0, m + x_r − x_c), the strongest rival r, and whether L > 0."""
    n_classes = scores.shape[-1]
    others = jnp.where(one_hot(labels, n_classes), -jnp.inf, scores)
    of_rival = jnp.max(others, axis=-1)
    numbers = jnp.arange(n_classes, dtype=jnp.float32 if n_classes <= 2**24 else jnp.int32)
    rivals = jnp.where(
        others == of_rival[..., None], jnp.broadcast_to(numbers, others.shape), n_classes
    )
    rival = jnp.min(rivals, axis=-1).astype(jnp.int32)
    missing = margin + at_least_float32(of_rival) - at_least_float32(_of_label(scores, labels))
    losses = nan_out_of_range(jnp.where(missing <= 0, 0, missing), labels, n_classes)
    kept = RivalKept(labels, rival, jnp.sign(losses), _no_rows(scores))
    return losses.astype(scores.dtype), kept


@multiclass_hinge.backward
def multiclass_hinge_bwd(residuals, dy, *, margin=1.0):
    """dx = dL at the rival, −dL at the label, where the margin is missed."""
    labels, rival, slope, like = residuals
    n_classes = like.shape[-1]
    d = (slope * at_least_float32(dy)).astype(like.dtype)[..., None]
    elsewhere = jnp.where(one_hot(rival, n_classes), d, 0 * d)
    return jnp.where(one_hot(labels, n_classes), -d, elsewhere), None


@op
def negative_log_likelihood(
    log_probabilities: Classes, target: Target, *, ignore_label: int | None = None
) -> Losses:
    """Negative log-likelihood of each example, L = −Σₖ tₖ·log pₖ, from log-probabilities.

    No 1/K and no 1/N. With `log_softmax` before it, this is `softmax_cross_entropy`.

    Shapes (N batch, any number of axes; K classes):
        log_probabilities l = log p, dl: (N, K), used as they are: rows need not be normalised
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0; it still counts in a later mean
    over the batch. A class with l = −∞ and no share in the target is left out of the sum.

    Backward, of a function linear in both:
        dl = −t·dL,   dt = −l·dL

    Keeps the labels alone, or with a distribution both arguments.

    Args:
        log_probabilities: l.
        target: labels or distributions.
        ignore_label: the integer label of rows to leave out.

    Raises:
        TypeError: log_probabilities are not floating point, or a distribution has another dtype.
        ValueError: the shapes do not fit; a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.108.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.1, 0.3, 0.5, 0.1]]))
        >>> print(jaxnn.negative_log_likelihood(log_p, jnp.array([1])))
        [1.2039728]
    """
    if not is_labels(target):
        return -jnp.sum(target * _without_excluded(log_probabilities, target), axis=-1)
    losses = -_of_label(log_probabilities, target)
    losses = nan_out_of_range(losses, target, log_probabilities.shape[-1], ignore_label)
    return _without_ignored(losses, target, ignore_label)


@negative_log_likelihood.forward
def negative_log_likelihood_fwd(log_probabilities, target, *, ignore_label=None):
    """L = −Σₖ tₖ·lₖ, summed in at least float32; of labels, the one term that is not 0."""
    if is_labels(target):
        losses = negative_log_likelihood.definition(
            log_probabilities, target, ignore_label=ignore_label
        )
        return losses, LabelsKept(target, _no_rows(log_probabilities))
    log_p, t = at_least_float32(log_probabilities), at_least_float32(target)
    losses = -jnp.sum(t * _without_excluded(log_p, t), axis=-1)
    return losses.astype(target.dtype), DistributionKept(log_probabilities, target)


@negative_log_likelihood.backward
def negative_log_likelihood_bwd(residuals, dy, *, ignore_label=None):
    """dl = −t·dL, dt = −l·dL."""
    if isinstance(residuals, DistributionKept):
        log_p, t = residuals
        return -t * dy[..., None], -_without_excluded(log_p, t) * dy[..., None]
    labels, like = residuals
    n_classes = like.shape[-1]
    d = -nan_out_of_range(dy, labels, n_classes, ignore_label)
    d = _without_ignored(d, labels, ignore_label)[..., None]
    return jnp.where(one_hot(labels, n_classes), d, 0 * d), None


def _of_label(rows, labels):
    """The entry of the label of each row; of any class where the label is out of range."""
    return jnp.take_along_axis(rows, labels[..., None], axis=-1, mode="clip")[..., 0]


def _no_rows(rows):
    return jnp.zeros((0, rows.shape[-1]), rows.dtype)


def _without_ignored(losses, labels, ignore_label):
    """0 in the rows whose label is to be ignored."""
    return losses if ignore_label is None else jnp.where(labels != ignore_label, losses, 0)


def _without_excluded(log_p, t):
    """A class of probability 0 that has no share in the target adds 0, not NaN."""
    return jnp.where((t == 0) & jnp.isneginf(log_p), 0, log_p)


@multiclass_hinge.validate
def _(scores, labels, *, margin):
    require_number("margin", margin, at_least=0)
    if not is_labels(labels):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    require_target(labels, scores=scores)


@negative_log_likelihood.validate
def _(log_probabilities, target, *, ignore_label):
    if ignore_label is not None and type(ignore_label) is not int:
        raise TypeError(f"option ignore_label must be an integer, got {ignore_label!r}")
    require_target(target, ignore=ignore_label, log_probabilities=log_probabilities)
