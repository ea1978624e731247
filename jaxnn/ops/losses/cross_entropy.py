"""Cross-entropies of probabilities, and of the logits of independent yes-or-no outputs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.op import op
from jaxnn.ops._common.compiler import recomputed
from jaxnn.ops._common.labels import (
    Classes,
    Losses,
    Target,
    as_distribution,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_target,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_alike


class CrossEntropyResiduals(NamedTuple):
    """Both arguments: each gradient is a function of the one and of the other."""

    prediction: Classes
    target: Target


@op
def cross_entropy(probabilities: Classes, target: Target) -> Losses:
    """Cross-entropy of each example, L = −Σₖ tₖ·log pₖ: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        probabilities p, dp: (N, K), used as they are: rows need not sum to 1
        target: integer labels (N,), or a distribution t (N, K) with its gradient dt
        L, dL:  (N,)

    Below ε, the smallest normal number of float32 (1.2e-38; 6.1e-5 in float16), log is continued
    by its tangent, log ε + p/ε − 1, so that a probability of exactly 0 has a finite loss and the
    finite gradient of that loss.

    Backward, from ⟨dL, L̇⟩ with log'(p) = 1/max(p, ε) and L̇ = −Σₖ ṗₖ·tₖ·log'(pₖ) − Σₖ ṫₖ·log pₖ:
        dp = −t/max(p, ε)·dL
        dt = −log(p)·dL

    Saves its arguments, which copies nothing. For logits, `softmax_cross_entropy` is faster and
    loses no digits.

    Raises:
        TypeError: probabilities are not floating point, or a distribution has another dtype.
        ValueError: the shapes do not fit, or a label is out of range (under `jit`, where labels are
            not known, such a row gives NaN).

    Reference: R. B. Aeen's summary, stage 1 (the loss derivative, left blank there); S. Shamsi,
    "Neural Nets From Scratch", SHALA 2020, slide "Cross entropy".

    Example:
        >>> print(jaxnn.cross_entropy(jnp.array([[0.1, 0.3, 0.5, 0.1]]), jnp.array([1])))
        [1.2039728]
    """
    t = as_distribution(target, probabilities)
    return -jnp.sum(t * _log_and_its_tangent(probabilities), axis=-1)


@cross_entropy.validate
def _(probabilities, target):
    require_target(target, probabilities=probabilities)


@cross_entropy.forward
def cross_entropy_fwd(probabilities, target):
    """L = −Σₖ tₖ·log pₖ; of labels, the one term that is not 0."""
    p = probabilities
    if is_labels(target):
        losses = nan_out_of_range(-_log(_of_label(p, target)), target, p.shape[-1])
    else:
        losses = -jnp.sum(target * _log(p), axis=-1)
    return losses, CrossEntropyResiduals(p, target)


@cross_entropy.backward
def cross_entropy_bwd(residuals, dy):
    """dp = −t/max(p, ε)·dL, dt = −log(p)·dL."""
    p, target = residuals
    if is_labels(target):
        dp = -_log_slope(_of_label(p, target)) * nan_out_of_range(dy, target, p.shape[-1])
        return jnp.where(one_hot(target, p.shape[-1]), dp[..., None], 0 * dp[..., None]), None
    return -target * _log_slope(p) * dy[..., None], -_log(p) * dy[..., None]


@op
def binary_cross_entropy(probabilities: Classes, target: Classes) -> Losses:
    """Binary cross-entropy of each example, L = −Σₖ (tₖ·log pₖ + (1 − tₖ)·log(1 − pₖ)).

    No 1/K and no 1/N: K independent yes-or-no outputs are summed.

    Shapes:
        N batch, any number of axes or none; K outputs of one example
        probabilities p, target t and their gradients: (N, K)
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
        The tangents' terms are 0 inside. The forward adds them by a choice that is the last step
        before the sum, which makes the compiler compute a term in one pass and store no array of
        logarithms. The backward recomputes both logarithms, see `recomputed`.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of outputs.

    Reference: NYU CSCI-GA 2572, Homework 1, question 1.3(b), there with a factor 1/K.

    Example:
        >>> print(jaxnn.binary_cross_entropy(jnp.array([[0.25]]), jnp.array([[1.0]])))
        [1.3862944]
    """
    p, t = probabilities, target
    yes, no = _log_and_its_tangent(p), _log_and_its_tangent(1 - p)
    return -jnp.sum(t * yes + (1 - t) * no, axis=-1)


@binary_cross_entropy.validate
def _(probabilities, target):
    require_alike(probabilities=probabilities, target=target)


@binary_cross_entropy.forward
def binary_cross_entropy_fwd(probabilities, target):
    """L = −Σₖ (tₖ·log pₖ + (1 − tₖ)·log(1 − pₖ))."""
    p, t = probabilities, target
    q = 1 - p
    inside = t * _log_inside(p) + (1 - t) * _log_inside(q)
    tangents = t * _beyond(p) + (1 - t) * _beyond(q)
    terms = jnp.where(jnp.minimum(p, q) < _smallest(p), inside + tangents, inside)
    return -jnp.sum(terms, axis=-1), CrossEntropyResiduals(p, t)


@binary_cross_entropy.backward
def binary_cross_entropy_bwd(residuals, dy):
    """dp = ((1 − t)/max(1 − p, ε) − t/max(p, ε))·dL, dt = (log(1 − p) − log p)·dL."""
    p, t = recomputed(residuals)
    dloss = dy[..., None]
    dp = ((1 - t) * _log_slope(1 - p) - t * _log_slope(p)) * dloss
    return dp, (_log(1 - p) - _log(p)) * dloss


@op
def sigmoid_cross_entropy(logits: Classes, target: Classes) -> Losses:
    """Binary cross-entropy of σ(logits), one value per example, from the logits themselves.

    L = −Σₖ (tₖ·log σ(xₖ) + (1 − tₖ)·log σ(−xₖ)); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K outputs of one example
        logits x, target t and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with (log σ)'(x) = σ(−x) and (log σ(−x))' = −σ(x):
        ∂L/∂xₖ = −tₖ·σ(−xₖ) + (1 − tₖ)·σ(xₖ)        ( = σ(xₖ) − tₖ, without its cancellation)
        ∂L/∂tₖ = log σ(−xₖ) − log σ(xₖ) = −xₖ
        dx = ∂L/∂x·dL
        dt = −x·dL

    Saves its arguments: a sigmoid is cheaper to recompute than to write and read again.

    Implementation notes:
        −log σ(±x) = max(0, ∓x) + log(1 + e^(−|x|)), so the forward takes one exponential.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of outputs.

    Reference: NYU CSCI-GA 2572, Homework 1, question 1.3(b), composed with the sigmoid.

    Example:
        >>> logits, target = jnp.array([[1000.0], [-1000.0]]), jnp.array([[1.0], [1.0]])
        >>> print(jaxnn.sigmoid_cross_entropy(logits, target))
        [   0. 1000.]
    """
    x, t = logits, target
    return -jnp.sum(t * jax.nn.log_sigmoid(x) + (1 - t) * jax.nn.log_sigmoid(-x), axis=-1)


@sigmoid_cross_entropy.validate
def _(logits, target):
    require_alike(logits=logits, target=target)


@sigmoid_cross_entropy.forward
@wide
def sigmoid_cross_entropy_fwd(logits, target):
    """L = Σₖ t·max(0, −x) + (1 − t)·max(0, x) + log(1 + e^(−|x|))."""
    x, t = logits, target
    hinge = jnp.where(x > 0, (1 - t) * x, -t * x)
    losses = jnp.sum(hinge + jnp.log1p(jnp.exp(-jnp.abs(x))), axis=-1)
    return losses, CrossEntropyResiduals(x, t)


@sigmoid_cross_entropy.backward
@wide
def sigmoid_cross_entropy_bwd(residuals, dy):
    """dx = ((1 − t)·σ(x) − t·σ(−x))·dL, dt = −x·dL."""
    x, t = residuals
    dloss = dy[..., None]
    dx = ((1 - t) * jax.nn.sigmoid(x) - t * jax.nn.sigmoid(-x)) * dloss
    return dx, -x * dloss


def _log_and_its_tangent(p):
    """log p, and its tangent below ε, as the definitions have it."""
    smallest = max(float(jnp.finfo(p.dtype).tiny), float(jnp.finfo(jnp.float32).tiny))
    below = p < smallest
    tangent = math.log(smallest) + p / smallest - 1
    return jnp.where(below, tangent, jnp.log(jnp.where(below, 1, p)))


def _of_label(probabilities, labels):
    """The probability of the label of each row; of any class where the label is out of range."""
    return jnp.take_along_axis(probabilities, labels[..., None], axis=-1, mode="clip")[..., 0]


def _log(p):
    """log p, continued below ε by its tangent there."""
    return _log_inside(p) + _beyond(p)


def _log_inside(p):
    """log p, and log ε below ε."""
    return jnp.log(jnp.maximum(p, _smallest(p)))


def _beyond(p):
    """How far the tangent at ε descends below log ε, and 0 from ε on."""
    smallest = _smallest(p)
    return jnp.minimum(p, smallest) / smallest - 1


def _log_slope(p):
    """The derivative of `_log`: 1/p, and constant below ε."""
    return 1 / jnp.maximum(p, _smallest(p))


def _smallest(p) -> float:
    """ε, the smallest normal number of float32, or of float16."""
    return float(max(jnp.finfo(p.dtype).tiny, jnp.finfo(jnp.float32).tiny))
