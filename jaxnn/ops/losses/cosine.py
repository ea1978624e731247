"""The cosine of the angle between two vectors, as a similarity and as a loss."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxnn.op import op
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import require_alike, require_number
from jaxnn.ops.losses.margin import (
    Components,
    Losses,
    Pair,
    Row,
    Signs,
    by_sign,
    require_pair,
    require_signs,
    signs,
    signs_by_definition,
)
from jaxnn.ops.losses.regression import is_fixed


class Angle(NamedTuple):
    """Two vectors a, b of every row, and the numbers from which their directions follow.

    A vector's direction is x/size·shrink, where size = max |xₖ| and shrink = 1/‖x/size‖; for the
    zero vector they are 1 and 0. With the directions u, v and s = ±1, the sign of ⟨u, v⟩,
    gap = ½·‖s·v − u‖² = 1 − |⟨u, v⟩|; it is 1 where a vector is zero.
    """

    a: Components
    b: Components
    a_size: Row
    a_shrink: Row
    b_size: Row
    b_shrink: Row
    sign: Row
    gap: Row


class CosineEmbeddingResiduals(NamedTuple):
    """The angle, the target, and the derivative of the loss with respect to the cosine."""

    angle: Angle
    target: Signs
    slope: Row


@op
def cosine_similarity(a: Components, b: Components, *, eps: float = 1e-8) -> Losses:
    """Cosine similarity of each example, y = ⟨a, b⟩/(max(‖a‖, ε)·max(‖b‖, ε)), from −1 to 1.

    Shapes:
        N batch, any number of axes or none; K components of one example
        a, b, da, db: (N, K)
        y, dy: (N,)

    With ε = 0 the similarity with the zero vector is 0, and so are the gradients.

    Backward, from ⟨dy, ẏ⟩ with u = a/A, v = b/B, A = max(‖a‖, ε), B = max(‖b‖, ε) and y = ⟨u, v⟩.
    u̇ = (ȧ − u·⟨u, ȧ⟩)/A, and u̇ = ȧ/ε where ‖a‖ < ε:
        ẏ  = ⟨v, u̇⟩ + ⟨u, v̇⟩, so
        da = (v − y·u)/A·dy, or v/ε·dy where ‖a‖ < ε
        db = (u − y·v)/B·dy, or u/ε·dy where ‖b‖ < ε

    v − y·u loses its digits when u → ±v. Of unit vectors with s = ±1, the sign of y, and
    gap = ½·‖s·v − u‖² it is s·(s·v − u + gap·u), and u − y·v is u − s·v + gap·s·v. A vector is
    divided by its largest component first, because the squares of large or tiny numbers overflow or
    vanish.

    Saves its arguments and six numbers a row, from which u and v follow without another sum.

    Args:
        a: the first vector.
        b: the second vector.
        eps: ε, the least norm, at least 0.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            eps is negative.

    Reference: G. Salton, A. Wong and C. Yang, "A Vector Space Model for Automatic Indexing", 1975;
    ε is that of PyTorch's cosine_similarity.

    Example:
        >>> a, b = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[6.0, 8.0], [0.0, 2.0]])
        >>> print(jaxnn.cosine_similarity(a, b))
        [1. 0.]
    """
    return jnp.sum(_unit(a, eps) * _unit(b, eps), axis=-1)


@cosine_similarity.validate
def _(a, b, *, eps):
    require_alike(a=a, b=b)
    require_number("eps", eps, at_least=0)


@cosine_similarity.forward
@wide
def cosine_similarity_fwd(a, b, *, eps=1e-8):
    """y = ⟨u, v⟩ of unit vectors, times ‖a‖/ε where that is less than 1, and the same for b."""
    cosine, angle = _angle(a, b)
    (_, a_part), (_, b_part) = _parts(angle, eps)
    return (cosine * a_part * b_part)[..., 0], angle


@cosine_similarity.backward
@wide
def cosine_similarity_bwd(residuals, dy, *, eps=1e-8):
    """da = (v − y·u)/A·dy, db = (u − y·v)/B·dy, without the second term where ε is the norm."""
    return _gradients(residuals, dy[..., None], eps)


@op
def cosine_embedding(prediction: Pair, target: Signs, *, margin: float = 0.0) -> Losses:
    """Cosine embedding loss of each example: pulls similar pairs together and others apart.

    L = 1 − cos(a, b) where t = 1, and max(0, cos(a, b) − m) where t = −1, with
    cos(a, b) = ⟨a, b⟩/(‖a‖·‖b‖), 0 where a vector is zero.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction: the pair (a, b), each (N, K); the gradient is such a pair
        target t: (N,), integers −1 and 1, booleans, where False is −1, or floating point, of which
            only the sign counts and whose gradient is therefore 0
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with L̇ = σ·ẏ, y = cos(a, b), and the gradient of y as in
    `cosine_similarity` with ε = 0:
        σ = −1 where t = 1; 1 where t = −1 and y > m; else 0
        da = σ·(v − y·u)/‖a‖·dL
        db = σ·(u − y·v)/‖b‖·dL

    1 − y is ½·‖u − v‖² where y > 0, which keeps its digits when u → v.

    Saves its arguments and seven numbers a row.

    Args:
        prediction: the pair (a, b).
        target: t.
        margin: m.

    Raises:
        TypeError: the prediction is not a pair of floating-point arrays, or the target is complex.
        ValueError: the shapes do not fit (nothing is broadcast), there is no axis of components, or
            an integer target is neither −1 nor 1 (under `jit`, where it is not known, that example
            gives NaN).

    Reference: PyTorch's cosine_embedding_loss, which adds 1e-12 to the squared norms.

    Example:
        >>> pair = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0, 3.0], [0.0, 2.0]])
        >>> print(jaxnn.cosine_embedding(pair, jnp.array([1, -1]), margin=0.25))
        [1.   0.75]
    """
    a, b = prediction
    cosine, t = cosine_similarity.definition(a, b, eps=0.0), signs_by_definition(target, a)
    apart = jnp.where(cosine <= margin, 0, cosine - margin)
    zero_or_nan = jnp.where((t > 0) | (t < 0), jnp.zeros_like(t), jnp.nan)
    return jnp.where(t > 0, 1 - cosine, apart) + zero_or_nan * cosine


@cosine_embedding.validate
def _(prediction, target, *, margin):
    a, b = require_pair(prediction)
    require_alike(a=a, b=b)
    require_signs(target)
    require_number("margin", margin)
    if target.shape != a.shape[:-1]:
        raise ValueError(
            f"target has shape {target.shape}; there must be one for each pair, "
            f"shape {a.shape[:-1]}"
        )


@cosine_embedding.forward
@wide
def cosine_embedding_fwd(prediction, target, *, margin=0.0):
    """L = 1 − y where t = 1, max(0, y − m) where t = −1."""
    cosine, angle = _angle(*prediction)
    t = signs(target[..., None], cosine)
    near = jnp.where((angle.sign > 0) & (cosine != 0), angle.gap, 1 - cosine)
    losses = by_sign(t, near, jnp.where(cosine <= margin, 0, cosine - margin))
    away = jnp.where(cosine <= margin, 0, jnp.ones_like(cosine))
    slope = by_sign(t, -jnp.ones_like(cosine), away)
    return losses[..., 0], CosineEmbeddingResiduals(angle, target, slope)


@cosine_embedding.backward
@wide
def cosine_embedding_bwd(residuals, dy, *, margin=0.0):
    """da = σ·(v − y·u)/‖a‖·dL, db = σ·(u − y·v)/‖b‖·dL."""
    angle, target, slope = residuals
    gradients = _gradients(angle, slope * dy[..., None], 0.0)
    return gradients, None if is_fixed(target) else jnp.zeros_like(target)


def _unit(x, eps):
    """x/max(‖x‖, ε) for the definition, or 0 where that is not defined."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    size = jnp.where(is_zero, 1, size)
    square = jnp.sum((x / size) ** 2, axis=-1, keepdims=True)
    norm = jnp.where(is_zero, 0, size * jnp.sqrt(jnp.where(is_zero, 1, square)))
    least = jnp.where(norm < eps, eps, norm)
    return jnp.where(least == 0, 0, x / jnp.where(least == 0, 1, least))


def _angle(a, b) -> tuple[Row, Angle]:
    """⟨u, v⟩, and the numbers from which it is computed."""
    (a_size, a_shrink), (b_size, b_shrink) = _size_and_shrink(a), _size_and_shrink(b)
    u, v = a / a_size * a_shrink, b / b_size * b_shrink
    cosine = jnp.sum(u * v, axis=-1, keepdims=True)
    sign = lax.stop_gradient(jnp.where(cosine < 0, -1, jnp.ones_like(cosine)))
    apart = sign * v - u
    half_square = 0.5 * jnp.sum(apart * apart, axis=-1, keepdims=True)
    gap = jnp.where((a_shrink == 0) | (b_shrink == 0), 1, half_square)
    return cosine, Angle(a, b, a_size, a_shrink, b_size, b_shrink, sign, gap)


def _size_and_shrink(x) -> tuple[Row, Row]:
    """max |xₖ| and 1/‖x/max |xₖ|‖; 1 and 0 for the zero vector."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    size = jnp.where(is_zero, 1, size)
    scaled = x / size
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return size, jnp.where(is_zero, 0, lax.rsqrt(jnp.where(is_zero, 1, square)))


def _parts(angle, eps):
    """Where ‖a‖ < ε, and min(1, ‖a‖/ε); the same for b."""
    return _part(angle.a_size, angle.a_shrink, eps), _part(angle.b_size, angle.b_shrink, eps)


def _part(size, shrink, eps):
    """Where ‖x‖ = size/shrink < ε, and min(1, ‖x‖/ε), without a number that overflows."""
    is_zero = shrink == 0
    if eps == 0:
        return None, jnp.ones_like(size)
    eps = representable(eps, size.dtype)
    below = is_zero | (size < eps * shrink)
    least = jnp.where(below & ~is_zero, size, 0) / eps
    return below, jnp.where(below, least / jnp.where(is_zero, 1, shrink), 1)


def _gradients(angle, dy, eps):
    """da, db of y; see `cosine_similarity`."""
    a, b, a_size, a_shrink, b_size, b_shrink, sign, gap = angle
    u, v = a / a_size * a_shrink, b / b_size * b_shrink
    apart = sign * v - u
    da, db = sign * (apart + gap * u), gap * sign * v - apart
    (a_below, a_part), (b_below, b_part) = _parts(angle, eps)
    if eps == 0:
        return da * (a_shrink * dy) / a_size, db * (b_shrink * dy) / b_size
    da, db = jnp.where(a_below, v, da), jnp.where(b_below, u, db)
    eps = representable(eps, dy.dtype)
    a_scaled = jnp.where(a_below, jnp.where(a_below, dy, 0) / eps, a_shrink * dy / a_size)
    b_scaled = jnp.where(b_below, jnp.where(b_below, dy, 0) / eps, b_shrink * dy / b_size)
    return da * (b_part * a_scaled), db * (a_part * b_scaled)
