"""How far apart two distributions are, or the directions of two vectors."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_alike

Components = Float[Array, "*N K"]
Losses = Float[Array, "*N"]
Row = Float[Array, "*N 1"]

SMALLEST = float(jnp.finfo(jnp.float32).tiny)  # below it log is continued by its tangent


class DivergenceResiduals(NamedTuple):
    """Both arguments: each gradient is a function of the one and of the other."""

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
def kl_divergence(log_probabilities: Components, target: Components) -> Losses:
    """Kullback-Leibler divergence of each example, L = Σₖ tₖ·(log tₖ − log pₖ): no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes
        log_probabilities l = log p, dl: (N, K), the prediction
        target t, dt: (N, K), probabilities
        L, dL: (N,)

    0·log 0 = 0: below ε = 1.2e-38, the smallest normal number of float32, log t is continued by
    its tangent, log ε + t/ε − 1, so that a share of exactly 0 has a finite gradient. A class with
    l = −∞ and no share in the target is omitted from the sum.

    Backward, from ⟨dL, L̇⟩ with log'(t) = 1/max(t, ε) and L̇ = Σₖ ∂L/∂lₖ·l̇ₖ + ∂L/∂tₖ·ṫₖ:
        ∂L/∂lₖ = −tₖ
        ∂L/∂tₖ = log tₖ + tₖ·log'(tₖ) − lₖ        ( = log(t/p) + 1 inside)
        dl = −t·dL
        dt = ∂L/∂t·dL

    Saves its arguments: a logarithm is cheaper to recompute than to write and read again.

    Implementation notes:
        Both passes are written in log t − l, which the compiler computes once where it sees both.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of classes.

    Reference: S. Kullback and R. Leibler, "On Information and Sufficiency", 1951.

    Example:
        >>> log_p = jnp.log(jnp.array([[0.25, 0.75]]))
        >>> print(jaxnn.kl_divergence(log_p, jnp.array([[1.0, 0.0]])))
        [1.3862944]
    """
    at_least = jnp.float64 if target.dtype == jnp.float64 else jnp.float32  # float16 has no ε
    log_p, t = log_probabilities.astype(at_least), target.astype(at_least)
    tiny, omitted = t < SMALLEST, (t == 0) & jnp.isneginf(log_p)
    tangent = math.log(SMALLEST) + t / SMALLEST - 1
    log_t = jnp.where(tiny, tangent, jnp.log(jnp.where(tiny, 1, t)))
    terms = jnp.where(omitted, 0, t * (log_t - jnp.where(omitted, 0, log_p)))
    return jnp.sum(terms, axis=-1).astype(target.dtype)


@kl_divergence.validate
def _(log_probabilities, target):
    require_alike(log_probabilities=log_probabilities, target=target)


@kl_divergence.forward
@wide
def kl_divergence_fwd(log_probabilities, target):
    """L = Σₖ tₖ·(log tₖ − lₖ)."""
    losses = jnp.sum(target * _log_ratio(target, log_probabilities), axis=-1)
    return losses, DivergenceResiduals(log_probabilities, target)


@kl_divergence.backward
@wide
def kl_divergence_bwd(residuals, dy):
    """dl = −t·dL, dt = (log t − l + t·log'(t))·dL."""
    log_p, t = residuals
    dloss = dy[..., None]
    slope = _log_ratio(t, log_p) + jnp.minimum(t, SMALLEST) / SMALLEST
    return -t * dloss, slope * dloss


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
        TypeError: an argument is not floating point, or the dtypes differ.
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
    (a_size, a_shrink), (b_size, b_shrink) = _size_and_shrink(a), _size_and_shrink(b)
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
    """x/‖x‖ as the definition has it, or 0 where that is not defined."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    scaled = x / jnp.where(is_zero, 1, size)
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return jnp.where(is_zero, 0, scaled / jnp.sqrt(jnp.where(is_zero, 1, square)))


def _log_ratio(t, log_p):
    """log t − l, with log continued below ε by its tangent, and 0 where a class is omitted."""
    log_t = jnp.log(jnp.maximum(t, SMALLEST)) + (jnp.minimum(t, SMALLEST) / SMALLEST - 1)
    return jnp.where((t == 0) & (log_p < jnp.finfo(log_p.dtype).min), 0, log_t - log_p)


def _size_and_shrink(x) -> tuple[Row, Row]:
    """max |xₖ| and 1/‖x/max |xₖ|‖; 1 and 0 for the zero vector."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    size = jnp.where(is_zero, 1, size)
    scaled = x / size
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return size, jnp.where(is_zero, 0, lax.rsqrt(jnp.where(is_zero, 1, square)))
