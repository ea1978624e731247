"""Divergences of two distributions, and the distance between the directions of two vectors."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.compiler import recomputing
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_alike

Components = Float[Array, "*N K"]
Losses = Float[Array, "*N"]
Row = Float[Array, "*N 1"]

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # below it log is continued by its tangent


class DivergenceResiduals(NamedTuple):
    """Both arguments: each gradient is a function of both."""

    log_probabilities: Components
    target: Components


class DistanceResiduals(NamedTuple):
    """Both arguments, the numbers that normalise each row of them, and the loss.

    A vector's direction is x/size·shrink, where size = max |xₖ| and shrink = 1/‖x/size‖; for the
    zero vector they are 1 and 0.
    """

    prediction: Components
    target: Components
    prediction_size: Row
    prediction_shrink: Row
    target_size: Row
    target_shrink: Row
    loss: Row


@op
def kl_divergence(
    log_probabilities: Components, target: Components, *, log_target: bool = False
) -> Losses:
    """Kullback-Leibler divergence of each example, L = Σₖ tₖ·(log tₖ − log pₖ): no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        log_probabilities l = log p, dl: (N, K), the prediction
        target t, dt: (N, K), probabilities; with `log_target` their logarithms m = log t, dm
        L, dL: (N,)

    0·log 0 = 0: below ε = 1.2e-38, the smallest normal number of float32, log t is continued by
    its tangent, log ε + t/ε − 1, so that a target of exactly 0 has a finite gradient. A class with
    l = −∞ and no share in the target is omitted from the sum.

    Backward, from ⟨dL, L̇⟩ with log'(t) = 1/max(t, ε) and L̇ = Σₖ ∂L/∂lₖ·l̇ₖ + ∂L/∂tₖ·ṫₖ:
        ∂L/∂lₖ = −tₖ
        ∂L/∂tₖ = log tₖ + tₖ·log'(tₖ) − lₖ        ( = log(t/p) + 1 inside)
        dl = −t·dL
        dt = ∂L/∂t·dL
        dm = t·(m − l + 1)·dL    with t = eᵐ: no logarithm, and 0 where m = −∞

    Saves its arguments: a logarithm is cheaper to recompute than to write and read again.

    Implementation notes:
        Both passes are written in terms of log t − l, which the compiler computes once when it
        compiles both.

    Args:
        log_probabilities: l.
        target: t, or log t.
        log_target: whether the target holds logarithms.

    Raises:
        TypeError: an argument is not floating point, or log_target is not a boolean.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of classes.

    Reference: S. Kullback and R. Leibler, "On Information and Sufficiency", 1951.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.25, 0.75]]))
        >>> print(jaxnn.kl_divergence(log_p, jnp.array([[1.0, 0.0]])))
        [1.3862944]
    """
    at_least = jnp.float64 if target.dtype == jnp.float64 else jnp.float32  # float16 has no ε
    log_p, t = jnp.asarray(log_probabilities, at_least), jnp.asarray(target, at_least)
    if log_target:
        dropped = jnp.isneginf(t)
        log_t, log_p = jnp.where(dropped, 0, t), jnp.where(dropped, 0, log_p)
        terms = jnp.where(dropped, 0, jnp.exp(log_t) * (log_t - log_p))
        return jnp.asarray(jnp.sum(terms, axis=-1), target.dtype)
    tiny, omitted = t < SMALLEST, (t == 0) & jnp.isneginf(log_p)
    tangent = math.log(SMALLEST) + t / SMALLEST - 1
    log_t = jnp.where(tiny, tangent, jnp.log(jnp.where(tiny, 1, t)))
    terms = jnp.where(omitted, 0, t * (log_t - jnp.where(omitted, 0, log_p)))
    return jnp.asarray(jnp.sum(terms, axis=-1), target.dtype)


@kl_divergence.validate
def _(log_probabilities, target, *, log_target):
    require_alike(log_probabilities=log_probabilities, target=target)


@kl_divergence.forward
@wide
def kl_divergence_fwd(log_probabilities, target, *, log_target=False):
    """L = Σₖ tₖ·(log tₖ − lₖ)."""
    if log_target:
        terms = jnp.exp(target) * _difference(target, log_probabilities)
    else:
        terms = target * _log_ratio(target, log_probabilities)
    return jnp.sum(terms, axis=-1), DivergenceResiduals(log_probabilities, target)


@kl_divergence.backward
@wide
def kl_divergence_bwd(residuals, dy, *, log_target=False):
    """dl = −t·dL, dt = (log t − l + t·log'(t))·dL, or dm = t·(m − l + 1)·dL."""
    log_p, t = residuals
    dloss = dy[..., None]
    if log_target:
        log_t, t = t, jnp.exp(t)
        return -t * dloss, t * (_difference(log_t, log_p) + 1) * dloss
    slope = _log_ratio(t, log_p) + jnp.minimum(t, SMALLEST) / SMALLEST
    return -t * dloss, slope * dloss


@op
def jensen_shannon(log_probabilities: Components, log_target: Components) -> Losses:
    """Jensen-Shannon divergence of each example, L = ½·KL(p‖m) + ½·KL(q‖m) with m = ½·(p + q).

    No 1/K and no 1/N. It is symmetric, in nats, and at most log 2; its square root is a metric.

    Shapes:
        N batch, any number of axes or none; K classes
        log_probabilities a = log p, log_target b = log q and their gradients: (N, K)
        L, dL: (N,)

    Both distributions are given by their logarithms, which may be −∞: the gradient there is 0,
    while that with respect to a probability of 0 would be infinite.

    Backward, from ⟨dL, L̇⟩ with ∂L/∂p = ½·(log p − log m), because m's own variation cancels:
        da = ½·p ⊙ (a − log m)·dL
        db = ½·q ⊙ (b − log m)·dL

    With d = |b − a| and λ = log(½·(1 + e^(−d))), the larger of a and b is −λ above log m, and the
    smaller −λ − d. With a the larger,
        L = Σₖ ½·p·(−λ·(1 + e^(−d)) − e^(−d)·d)
    cancels where p is near q: there it is the series Σₖ ½·p·(1 + e^(−d))·(h²/2 − h⁴/4 + h⁶/9 − …)
    of h·tanh h − log cosh h in h = d/2, of which five terms give all digits up to d = 0.1.

    Saves its arguments: the exponentials are cheaper to recompute than to write and read again.

    Implementation notes:
        Logarithms are bounded by −10⁴, whose exponential is 0 in every dtype, so that no
        intermediate result is infinite. The backward shares nothing with the forward; see
        `recomputed`.

    Args:
        log_probabilities: a.
        log_target: b.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of classes.

    Reference: J. Lin, "Divergence Measures Based on the Shannon Entropy", 1991.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.5, 0.5], [1.0, 0.0]]))
        >>> print(jaxnn.jensen_shannon(log_p, jnp.log(jnp.array([[0.5, 0.5], [0.0, 1.0]]))))
        [0.        0.6931472]
    """
    a, b = (jnp.maximum(each, -10_000.0) for each in (log_probabilities, log_target))
    log_m = jnp.logaddexp(a, b) - math.log(2)
    terms = jnp.exp(a) * (a - log_m) + jnp.exp(b) * (b - log_m)
    return 0.5 * jnp.sum(terms, axis=-1)


@jensen_shannon.validate
def _(log_probabilities, log_target):
    require_alike(log_probabilities=log_probabilities, log_target=log_target)


@jensen_shannon.forward
@wide
def jensen_shannon_fwd(log_probabilities, log_target):
    """L = Σₖ ½·(pₖ + qₖ)·(hₖ·tanh hₖ − log cosh hₖ)."""
    a, b = _bounded(log_probabilities), _bounded(log_target)
    distance = jnp.abs(b - a)
    e, down = jnp.exp(-distance), _log_mean(distance)
    h2 = (0.5 * jnp.minimum(distance, 0.1)) ** 2
    near = h2 * (1 / 2 - h2 * (1 / 4 - h2 * (1 / 9 - h2 * (17 / 360 - h2 * (31 / 1575)))))
    bend = jnp.where(distance < 0.1, (1 + e) * near, -down * (1 + e) - e * distance)
    losses = 0.5 * jnp.sum(jnp.exp(jnp.maximum(a, b)) * bend, axis=-1)
    return losses, DivergenceResiduals(log_probabilities, log_target)


@jensen_shannon.backward
@recomputing
@wide
def jensen_shannon_bwd(residuals, dy):
    """da = ½·p ⊙ (a − log m)·dL, db = ½·q ⊙ (b − log m)·dL."""
    a, b = map(_bounded, residuals)
    larger, half = jnp.maximum(a, b), 0.5 * dy[..., None]
    down = _log_mean(jnp.abs(b - a))
    da = jnp.exp(a) * ((a - larger) - down) * half
    db = jnp.exp(b) * ((b - larger) - down) * half
    return da, db


@op
def cosine_distance(prediction: Components, target: Components) -> Losses:
    """Cosine distance of each example, L = 1 − ⟨a, b⟩/(‖a‖·‖b‖), from 0 to 2.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction a, target b and their gradients: (N, K)
        L, dL: (N,)

    The zero vector has no direction: its distance is 1, and the gradients are 0.

    Backward, from ⟨dL, L̇⟩ with the unit vectors u = a/‖a‖, v = b/‖b‖ and u̇ = (ȧ − u·⟨u, ȧ⟩)/‖a‖:
        L̇  = −⟨v, u̇⟩ − ⟨u, v̇⟩, where ⟨v, u̇⟩ = ⟨v − ⟨u, v⟩·u, ȧ⟩/‖a‖, so
        da = (⟨u, v⟩·u − v)/‖a‖·dL = (u − v − L·u)/‖a‖·dL
        db = (⟨u, v⟩·v − u)/‖b‖·dL = (v − u − L·v)/‖b‖·dL

    1 − ⟨u, v⟩ loses its digits when u → v, so L is computed as ½·‖u − v‖², the same for unit
    vectors. A vector is divided by its largest component first, because the squares of large or
    tiny numbers overflow or vanish.

    Saves its arguments and five numbers a row, from which u and v follow without another sum.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: G. Salton, A. Wong and C. Yang, "A Vector Space Model for Automatic Indexing", 1975.

    Example:
        >>> prediction = jnp.array([[3.0, 4.0], [1e30, 0.0], [0.0, 0.0]])
        >>> target = jnp.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
        >>> print(jaxnn.cosine_distance(prediction, target))
        [0. 1. 1.]
    """
    return 1 - jnp.sum(_direction(prediction) * _direction(target), axis=-1)


@cosine_distance.validate
def _(prediction, target):
    require_alike(prediction=prediction, target=target)


@cosine_distance.forward
@wide
def cosine_distance_fwd(prediction, target):
    """L = ½·‖u − v‖², or 1 where a vector is zero."""
    a, b = prediction, target
    (a_size, a_shrink), (b_size, b_shrink) = size_and_shrink(a), size_and_shrink(b)
    apart = a / a_size * a_shrink - b / b_size * b_shrink
    half_square = 0.5 * jnp.sum(apart * apart, axis=-1, keepdims=True)
    loss = jnp.where((a_shrink == 0) | (b_shrink == 0), 1, half_square)
    residuals = DistanceResiduals(a, b, a_size, a_shrink, b_size, b_shrink, loss)
    return loss[..., 0], residuals


@cosine_distance.backward
@wide
def cosine_distance_bwd(residuals, dy):
    """da = (u − v − L·u)/‖a‖·dL, db = (v − u − L·v)/‖b‖·dL."""
    a, b, a_size, a_shrink, b_size, b_shrink, loss = residuals
    u, v, dloss = a / a_size * a_shrink, b / b_size * b_shrink, dy[..., None]
    da = (u - v - loss * u) * (a_shrink * dloss) / a_size
    db = (v - u - loss * v) * (b_shrink * dloss) / b_size
    return da, db


def _direction(x):
    """x/‖x‖ for the definition, or 0 where that is not defined."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    scaled = x / jnp.where(is_zero, 1, size)
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return jnp.where(is_zero, 0, scaled / jnp.sqrt(jnp.where(is_zero, 1, square)))


def _log_ratio(t, log_p):
    """log t − l, with log continued below ε by its tangent, and 0 where a class is omitted."""
    log_t = jnp.log(jnp.maximum(t, SMALLEST)) + (jnp.minimum(t, SMALLEST) / SMALLEST - 1)
    return jnp.where((t == 0) & (log_p < jnp.finfo(log_p.dtype).min), 0, log_t - log_p)


def _difference(log_t, log_p):
    """log t − l, and 0 where t = 0."""
    return jnp.where(log_t < jnp.finfo(log_t.dtype).min, 0, log_t - log_p)


def _bounded(logarithm):
    """A logarithm of a probability, bounded where its exponential is 0 in every dtype."""
    return jnp.maximum(logarithm, -1e4)


def _log_mean(distance):
    """log(½·(1 + e^(−d)))."""
    return jnp.log1p(0.5 * jnp.expm1(-distance))


def size_and_shrink(x) -> tuple[Row, Row]:
    """max |xₖ| and 1/‖x/max |xₖ|‖; 1 and 0 for the zero vector."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    size = jnp.where(is_zero, 1, size)
    scaled = x / size
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return size, jnp.where(is_zero, 0, lax.rsqrt(jnp.where(is_zero, 1, square)))
