"""Cross-entropies of probabilities, and of the logits of independent binary outputs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.compiler import recomputed
from jaxnn.ops._common.labels import (
    Answers,
    Classes,
    Losses,
    Target,
    as_distribution,
    as_floats,
    as_labels,
    at_label,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_answers,
    require_target,
    row_weights,
    without_ignored,
)
from jaxnn.ops._common.numerics import unit_columns, wide
from jaxnn.ops._common.validation import require_floating


class CrossEntropyResiduals(NamedTuple):
    """Both arguments: each gradient is a function of both."""

    prediction: Classes
    target: Target | Answers


class WeightedResiduals(NamedTuple):
    """The arguments: each gradient is a function of the others."""

    logits: Classes
    target: Answers
    pos_weight: Float[Array, "..."] | None


@op
def cross_entropy(
    probabilities: Classes, target: Target, *, ignore_label: int | None = None
) -> Losses:
    """Cross-entropy of each example, L = −Σₖ tₖ·log pₖ: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        probabilities p, dp: (N, K), used as they are: rows need not sum to 1
        target: integer labels (N,), or a distribution t (N, K) with its gradient dt; it may hold
            booleans
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0, whatever it holds; the
    reduction "weighted_mean" omits it.

    Below ε, the smallest normal number of float32 (1.2e-38; 6.1e-5 in float16), log is continued
    by its tangent, log ε + p/ε − 1, so that a probability of exactly 0 has a finite loss and the
    finite gradient of that loss.

    Backward, from ⟨dL, L̇⟩ with log'(p) = 1/max(p, ε) and L̇ = −Σₖ ṗₖ·tₖ·log'(pₖ) − Σₖ ṫₖ·log pₖ:
        dp = −t/max(p, ε)·dL
        dt = −log(p)·dL

    Saves its arguments, which copies nothing. For logits, `softmax_cross_entropy` is faster and
    loses no digits.

    Args:
        probabilities: p.
        target: labels or distributions.
        ignore_label: the label of the rows to ignore.

    Raises:
        TypeError: probabilities are not floating point.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: R. B. Aeen's summary, stage 1 (the loss derivative, left blank there); S. Shamsi,
    "Neural Nets From Scratch", SHALA 2020, slide "Cross entropy".

    Example:
        >>> print(jaxnn.cross_entropy(jnp.array([[0.1, 0.3, 0.5, 0.1]]), jnp.array([1])))
        [1.2039728]
    """
    t, p = as_distribution(target, probabilities, ignore_label), probabilities
    if ignore_label is not None:
        ignored = (as_labels(target) == ignore_label)[..., None]
        t, p = jnp.where(ignored, 0, t), jnp.where(ignored, 1, p)
    return -jnp.sum(t * _log_and_its_tangent(p), axis=-1)


@cross_entropy.validate
def _(probabilities, target, *, ignore_label):
    require_target(target, ignore=ignore_label, probabilities=probabilities)


@cross_entropy.row_weights
def cross_entropy_row_weights(probabilities, target, *, ignore_label=None):
    """PyTorch's divisor."""
    return row_weights(target, probabilities, None, ignore_label)


@cross_entropy.forward
def cross_entropy_fwd(probabilities, target, *, ignore_label=None):
    """L = −Σₖ tₖ·log pₖ; for labels, its one nonzero term."""
    p = probabilities
    if is_labels(target):
        losses = -_log(at_label(p, target))
        losses = _of_rows_that_count(losses, target, p.shape[-1], ignore_label)
    else:
        losses = -jnp.sum(as_floats(target, p) * _log(p), axis=-1)
    return losses, CrossEntropyResiduals(p, target)


@cross_entropy.backward
def cross_entropy_bwd(residuals, dy, *, ignore_label=None):
    """dp = −t/max(p, ε)·dL, dt = −log(p)·dL."""
    p, target = residuals
    if is_labels(target):
        dp = -_log_slope(at_label(p, target)) * dy
        dp = _of_rows_that_count(dp, target, p.shape[-1], ignore_label)[..., None]
        return jnp.where(one_hot(target, p.shape[-1]), dp, 0 * dp), None
    dp = -as_floats(target, p) * _log_slope(p) * dy[..., None]
    return dp, None if target.dtype == bool else -_log(p) * dy[..., None]


@op
def binary_cross_entropy(probabilities: Classes, target: Answers) -> Losses:
    """Binary cross-entropy of each example, L = −Σₖ (tₖ·log pₖ + (1 − tₖ)·log(1 − pₖ)).

    No 1/K and no 1/N: the losses of K independent binary outputs are summed.

    Shapes:
        N batch, any number of axes or none; K outputs of one example
        probabilities p, target t and their gradients: (N, K); t may hold integers or booleans,
            and then has no gradient
        L, dL: (N,)

    Below ε, the smallest normal number of float32 (1.2e-38; 6.1e-5 in float16), log is continued
    by its tangent, log ε + p/ε − 1, so that a probability of exactly 0 or 1 has a finite loss and
    the finite gradient of that loss.

    Backward, from ⟨dL, L̇⟩ with log'(p) = 1/max(p, ε):
        ∂L/∂pₖ = −tₖ·log'(pₖ) + (1 − tₖ)·log'(1 − pₖ)        ( = (p − t)/(p·(1 − p)) inside)
        ∂L/∂tₖ = log(1 − pₖ) − log pₖ
        dp = ∂L/∂p·dL
        dt = ∂L/∂t·dL

    Saves its arguments: a logarithm is cheaper to recompute than to write and read again.

    Implementation notes:
        The tangent terms are 0 inside. The forward adds them with a `where` that is the last step
        before the sum, so the compiler computes a term in one pass and stores no array of
        logarithms. The backward recomputes both logarithms; see `recomputed`.

    Raises:
        TypeError: probabilities are not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of outputs.

    Reference: NYU CSCI-GA 2572, Homework 1, question 1.3(b), there with a factor 1/K.

    Example:
        >>> print(jaxnn.binary_cross_entropy(jnp.array([[0.25]]), jnp.array([[1.0]])))
        [1.3862944]
    """
    p, t = probabilities, jnp.asarray(target, probabilities.dtype)
    yes, no = _log_and_its_tangent(p), _log_and_its_tangent(1 - p)
    return -jnp.sum(t * yes + (1 - t) * no, axis=-1)


@binary_cross_entropy.validate
def _(probabilities, target):
    require_answers(target, probabilities=probabilities)


@binary_cross_entropy.forward
def binary_cross_entropy_fwd(probabilities, target):
    """L = −Σₖ (tₖ·log pₖ + (1 − tₖ)·log(1 − pₖ))."""
    p, t = probabilities, as_floats(target, probabilities)
    q = 1 - p
    inside = t * _log_inside(p) + (1 - t) * _log_inside(q)
    tangents = t * _beyond(p) + (1 - t) * _beyond(q)
    terms = jnp.where(jnp.minimum(p, q) < _smallest(p), inside + tangents, inside)
    return -jnp.sum(terms, axis=-1), CrossEntropyResiduals(p, target)


@binary_cross_entropy.backward
def binary_cross_entropy_bwd(residuals, dy):
    """dp = ((1 − t)/max(1 − p, ε) − t/max(p, ε))·dL, dt = (log(1 − p) − log p)·dL."""
    p, target = recomputed(residuals)
    t, dloss = as_floats(target, p), dy[..., None]
    dp = ((1 - t) * _log_slope(1 - p) - t * _log_slope(p)) * dloss
    return dp, (_log(1 - p) - _log(p)) * dloss if target is t else None


@op
def sigmoid_cross_entropy(
    logits: Classes, target: Answers, pos_weight: Float[Array, "..."] | None = None
) -> Losses:
    """Binary cross-entropy of σ(logits), one value per example, from the logits themselves.

    L = −Σₖ (wₖ·tₖ·log σ(xₖ) + (1 − tₖ)·log σ(−xₖ)), where w weights positive targets, 1 by default;
    no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K outputs of one example
        logits x, target t and their gradients: (N, K); t may hold integers or booleans, and then
            has no gradient
        pos_weight w, dw: (K,), or any shape that broadcasts to (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with (log σ)'(x) = σ(−x) and (log σ(−x))' = −σ(x):
        ∂L/∂xₖ = −wₖ·tₖ·σ(−xₖ) + (1 − tₖ)·σ(xₖ)     ( = σ(xₖ) − tₖ with w = 1, not cancelling)
        ∂L/∂tₖ = log σ(−xₖ) − wₖ·log σ(xₖ)          ( = −xₖ with w = 1)
        ∂L/∂wₖ = −tₖ·log σ(xₖ)
        dx = ∂L/∂x·dL
        dt = ∂L/∂t·dL
        dw = ∂L/∂w·dL, summed over the axes along which w is broadcast

    Saves its arguments: a sigmoid is cheaper to recompute than to write and read again.

    Implementation notes:
        −log σ(±x) = max(0, ∓x) + log(1 + e^(−|x|)), so the forward takes one exponential.

    Args:
        logits: x.
        target: t, usually 0 or 1.
        pos_weight: optional w.

    Raises:
        TypeError: logits or pos_weight are not floating point, or the target is complex.
        ValueError: the shapes of logits and target differ, pos_weight does not broadcast to them,
            or there is no axis of outputs.

    Reference: NYU CSCI-GA 2572, Homework 1, question 1.3(b), composed with the sigmoid; the weight
    is that of `torch.nn.BCEWithLogitsLoss`.

    Example:
        >>> logits, target = jnp.array([[1000.0], [-1000.0]]), jnp.array([[1.0], [1.0]])
        >>> print(jaxnn.sigmoid_cross_entropy(logits, target))
        [   0. 1000.]
        >>> print(jaxnn.sigmoid_cross_entropy(logits, target, jnp.array([3.0])))
        [   0. 3000.]
    """
    x, t = logits, jnp.asarray(target, logits.dtype)
    yes = t if pos_weight is None else t * jnp.broadcast_to(pos_weight, t.shape)
    return -jnp.sum(yes * jax.nn.log_sigmoid(x) + (1 - t) * jax.nn.log_sigmoid(-x), axis=-1)


@sigmoid_cross_entropy.validate
def _(logits, target, pos_weight):
    require_answers(target, logits=logits)
    if pos_weight is None:
        return
    require_floating(pos_weight=pos_weight)
    sizes = logits.shape[logits.ndim - pos_weight.ndim :]
    if pos_weight.ndim > logits.ndim or any(
        size not in (1, of_logits) for size, of_logits in zip(pos_weight.shape, sizes, strict=True)
    ):
        raise ValueError(
            f"pos_weight has shape {pos_weight.shape}, which does not broadcast to that of the "
            f"logits, {logits.shape}"
        )


@sigmoid_cross_entropy.forward
@wide
def sigmoid_cross_entropy_fwd(logits, target, pos_weight=None):
    """L = Σₖ w·t·max(0, −x) + (1 − t)·max(0, x) + (w·t + 1 − t)·log(1 + e^(−|x|))."""
    x, t = logits, as_floats(target, logits)
    yes = t if pos_weight is None else t * jnp.broadcast_to(pos_weight, t.shape)
    hinge = jnp.where(x > 0, (1 - t) * x, -yes * x)
    soft = jnp.log1p(jnp.exp(-jnp.abs(x)))
    if pos_weight is not None:
        soft = (yes + (1 - t)) * soft
    return jnp.sum(hinge + soft, axis=-1), WeightedResiduals(x, target, pos_weight)


@sigmoid_cross_entropy.backward
@wide
def sigmoid_cross_entropy_bwd(residuals, dy):
    """dx = ((1 − t)·σ(x) − w·t·σ(−x))·dL, dt = (log σ(−x) − w·log σ(x))·dL."""
    x, target, pos_weight = residuals
    t, dloss = as_floats(target, x), dy[..., None]
    if pos_weight is None:
        dx = ((1 - t) * jax.nn.sigmoid(x) - t * jax.nn.sigmoid(-x)) * dloss
        return dx, -x * dloss if target is t else None, None
    w = jnp.broadcast_to(pos_weight, t.shape)
    dx = ((1 - t) * jax.nn.sigmoid(x) - w * t * jax.nn.sigmoid(-x)) * dloss
    soft = jnp.log1p(jnp.exp(-jnp.abs(x)))
    of_yes, of_no = jnp.maximum(-x, 0) + soft, jnp.maximum(x, 0) + soft
    dt = (w * of_yes - of_no) * dloss if target is t else None
    return dx, dt, _summed_to(t * of_yes * dloss, pos_weight.shape)


@sigmoid_cross_entropy.hessian_root
@wide
def sigmoid_cross_entropy_hessian_root(residuals):
    """∂²L/∂x² = diag(v·σ(1 − σ)) with v = t·w + 1 − t, w the weight of positive targets."""
    logits, target, pos_weight = residuals
    t = target.astype(logits.dtype)
    v = 1 if pos_weight is None else t * jnp.broadcast_to(pos_weight, t.shape) + (1 - t)
    deviation = jnp.sqrt(v * jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits))
    columns = unit_columns(logits)
    return columns * jnp.broadcast_to(deviation, columns.shape)


def _summed_to(array, shape):
    """The sum over the axes along which an array of this shape was broadcast."""
    extra = array.ndim - len(shape)
    total = jnp.sum(array, range(extra))
    stretched = [a for a, size in enumerate(shape) if size == 1]
    return jnp.sum(total, stretched, keepdims=True)


def _log_and_its_tangent(p):
    """log p, and its tangent below ε, for the definitions."""
    smallest = max(float(jnp.finfo(p.dtype).tiny), float(jnp.finfo(jnp.float32).tiny))
    below = p < smallest
    tangent = math.log(smallest) + p / smallest - 1
    return jnp.where(below, tangent, jnp.log(jnp.where(below, 1, p)))


def _of_rows_that_count(rows, labels, n_classes, ignore_label):
    """The rows, NaN where the label is out of range and 0 where it is ignored."""
    rows = nan_out_of_range(rows, labels, n_classes, ignore_label)
    return rows if ignore_label is None else without_ignored(rows, labels, ignore_label)


def _log(p):
    """log p, continued below ε by its tangent there."""
    return _log_inside(p) + _beyond(p)


def _log_inside(p):
    """log p, and log ε below ε."""
    return jnp.log(jnp.maximum(p, _smallest(p)))


def _beyond(p):
    """The distance of the tangent at ε below log ε; 0 from ε on."""
    smallest = _smallest(p)
    return jnp.minimum(p, smallest) / smallest - 1


def _log_slope(p):
    """The derivative of `_log`: 1/p, and constant below ε."""
    return 1 / jnp.maximum(p, _smallest(p))


def _smallest(p) -> float:
    """ε, the smallest normal number of float32, or of float16."""
    return float(max(jnp.finfo(p.dtype).tiny, jnp.finfo(jnp.float32).tiny))
