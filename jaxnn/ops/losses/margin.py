"""Losses with a margin: between a score and 0, two scores, or two distances."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.arrays import is_readable
from jaxnn.op import op
from jaxnn.ops._common.compiler import stored
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import (
    require_alike,
    require_equal_shapes,
    require_floating,
    require_last_axis,
    require_number,
)
from jaxnn.ops.losses.regression import Target, is_fixed

Components = Float[Array, "*N K"]
Pair = tuple[Components, ...]
Losses = Float[Array, "*N"]
Row = Float[Array, "*N 1"]
Signs = Float[Array, "*N"] | Integer[Array, "*N"] | Bool[Array, "*N"]


class HingeResiduals(NamedTuple):
    """The arguments: each gradient is a function of both."""

    scores: Components
    target: Target


class RankingResiduals(NamedTuple):
    """The arguments."""

    prediction: Pair
    target: Target


class HingeEmbeddingResiduals(NamedTuple):
    """The arguments."""

    distances: Components
    target: Target


class TripletResiduals(NamedTuple):
    """The arguments, and q = ±1/‖δ‖ₚ for each of the two or three differences and each row.

    The sign is the one that the norm has in the loss; q is 0 where the norm does not count.
    """

    anchor: Components
    positive: Components
    negative: Components
    q: tuple[Row, ...]


@op
def hinge(
    scores: Components, target: Target, *, margin: float = 1.0, squared: bool = False
) -> Losses:
    """Hinge loss of each example, L = Σₖ max(0, m − tₖ·xₖ) with targets t = ±1: no 1/K, no 1/N.

    With `squared`, each term is squared.

    Shapes:
        N batch, any number of axes or none; K binary decisions of one example
        scores x, dx: (N, K)
        target t, dt: (N, K), floating point, integers −1 and 1, or booleans, where False is −1;
            only floating point has a gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with h = max(0, m − t·x), h' = 0 at the edge, t·x = m, by convention:
        ∂L/∂x = −t where t·x < m, else 0;  ∂L/∂t = −x where t·x < m, else 0;  times 2·h if squared
        dx = −t·dL,  dt = −x·dL   where t·x < m

    Saves its arguments: each gradient is a function of both.

    Args:
        scores: x.
        target: t.
        margin: m.
        squared: whether each term is squared.

    Raises:
        TypeError: scores are not floating point, target is complex, or an option has the wrong
            type.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of decisions, or an
            integer target is neither −1 nor 1 (under `jit`, where it is not known, that example
            gives NaN).

    Reference: C. Cortes and V. Vapnik, "Support-Vector Networks", 1995; with K = 1 it is optax's
    hinge_loss.

    Example:
        >>> print(jaxnn.hinge(jnp.array([[0.25, -3.0, 2.0]]), jnp.array([[1, -1, -1]])))
        [3.75]
    """
    h = margin - signs_by_definition(target, scores) * scores
    h = jnp.where(h <= 0, 0, h)
    return jnp.sum(h**2 if squared else h, axis=-1)


@hinge.validate
def _(scores, target, *, margin, squared):
    require_floating(scores=scores)
    require_signs(target)
    require_equal_shapes(scores=scores, target=target)
    require_last_axis(scores=scores)
    require_number("margin", margin)


@hinge.forward
@wide
def hinge_fwd(scores, target, *, margin=1.0, squared=False):
    """L = Σₖ max(0, m − tₖ·xₖ), each term squared if `squared`."""
    h = _positive(margin - signs(target, scores) * scores)
    return jnp.sum(h * h if squared else h, axis=-1), HingeResiduals(scores, target)


@hinge.backward
@wide
def hinge_bwd(residuals, dy, *, margin=1.0, squared=False):
    """dx = −t·dL, dt = −x·dL where t·x < m, times 2·h if squared."""
    x, target = residuals
    t, dloss = signs(target, x), dy[..., None]
    h = margin - t * x
    falling = jnp.where(h <= 0, 0, -(2 * h * dloss if squared else dloss))
    return t * falling, None if is_fixed(target) else x * falling


@op
def margin_ranking(prediction: Pair, target: Target, *, margin: float = 0.0) -> Losses:
    """Margin ranking loss of each example, L = Σₖ max(0, m − tₖ·(aₖ − bₖ)): no 1/K, no 1/N.

    The target t is 1 where a should rank above b, and −1 where it should rank below.

    Shapes:
        N batch, any number of axes or none; K comparisons of one example
        prediction: the pair of scores (a, b), each (N, K); the gradient is such a pair
        target t, dt: (N, K), floating point, integers −1 and 1, or booleans, where False is −1;
            only floating point has a gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with d = a − b and slope 0 at the edge, t·d = m, by convention; where
    t·d < m:
        da = −t·dL
        db = t·dL           d falls as b rises
        dt = −d·dL
    and 0 elsewhere.

    Saves its arguments, which copies nothing. Saving the difference instead would write an array.

    Args:
        prediction: the pair (a, b).
        target: t.
        margin: m.

    Raises:
        TypeError: the prediction is not a pair of floating-point arrays, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of comparisons, or
            an integer target is neither −1 nor 1 (under `jit`, where it is not known, that example
            gives NaN).

    Reference: R. Herbrich, T. Graepel and K. Obermayer, "Support Vector Learning for Ordinal
    Regression", 1999; PyTorch's margin_ranking_loss.

    Example:
        >>> scores = jnp.array([[0.5, 2.0]]), jnp.array([[1.0, 1.0]])
        >>> print(jaxnn.margin_ranking(scores, jnp.array([[1, 1]]), margin=0.25))
        [0.75]
    """
    a, b = prediction
    h = margin - signs_by_definition(target, a) * (a - b)
    return jnp.sum(jnp.where(h <= 0, 0, h), axis=-1)


@margin_ranking.validate
def _(prediction, target, *, margin):
    a, b = require_pair(prediction)
    require_alike(a=a, b=b)
    require_signs(target)
    require_equal_shapes(a=a, target=target)
    require_number("margin", margin)


@margin_ranking.forward
@wide
def margin_ranking_fwd(prediction, target, *, margin=0.0):
    """L = Σₖ max(0, m − tₖ·(aₖ − bₖ))."""
    a, b = prediction
    h = _positive(margin - signs(target, a) * (a - b))
    return jnp.sum(h, axis=-1), RankingResiduals(prediction, target)


@margin_ranking.backward
@wide
def margin_ranking_bwd(residuals, dy, *, margin=0.0):
    """da = −t·dL, db = −da, dt = −d·dL where t·d < m."""
    (a, b), target = residuals
    d, t = a - b, signs(target, a)
    falling = jnp.where(margin - t * d <= 0, 0, -dy[..., None])
    da = stored(t * falling)
    return (da, -da), None if is_fixed(target) else d * falling


@op
def hinge_embedding(distances: Components, target: Target, *, margin: float = 1.0) -> Losses:
    """Hinge embedding loss of each example: similar pairs near, others a margin apart.

    L = Σₖ h(xₖ) with h(x) = x where tₖ = 1, and max(0, m − x) where tₖ = −1; no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K distances of one example
        distances x, dx: (N, K)
        target t: (N, K), integers −1 and 1, booleans, where False is −1, or floating point, of
            which only the sign counts and whose gradient is therefore 0
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with slope 0 at the edge, x = m, by convention:
        dx = dL where t = 1; −dL where t = −1 and x < m; else 0

    Saves its arguments.

    Args:
        distances: x.
        target: t.
        margin: m.

    Raises:
        TypeError: distances are not floating point, or target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of distances, or an
            integer target is neither −1 nor 1 (under `jit`, where it is not known, that example
            gives NaN).

    Reference: R. Hadsell, S. Chopra and Y. LeCun, "Dimensionality Reduction by Learning an
    Invariant Mapping", 2006, without its squares; PyTorch's hinge_embedding_loss.

    Example:
        >>> print(jaxnn.hinge_embedding(jnp.array([[0.5, 0.25, 3.0]]), jnp.array([[1, -1, -1]])))
        [1.25]
    """
    t, apart = signs_by_definition(target, distances), margin - distances
    apart = jnp.where(apart <= 0, 0, apart)
    zero_or_nan = jnp.where((t > 0) | (t < 0), jnp.zeros_like(t), jnp.nan)
    return jnp.sum(jnp.where(t > 0, distances, apart) + zero_or_nan * distances, axis=-1)


@hinge_embedding.validate
def _(distances, target, *, margin):
    require_floating(distances=distances)
    require_signs(target)
    require_equal_shapes(distances=distances, target=target)
    require_last_axis(distances=distances)
    require_number("margin", margin)


@hinge_embedding.forward
@wide
def hinge_embedding_fwd(distances, target, *, margin=1.0):
    """L = Σₖ xₖ where tₖ = 1, max(0, m − xₖ) where tₖ = −1."""
    apart = _positive(margin - distances)
    losses = by_sign(signs(target, distances), distances, apart)
    return jnp.sum(losses, axis=-1), HingeEmbeddingResiduals(distances, target)


@hinge_embedding.backward
@wide
def hinge_embedding_bwd(residuals, dy, *, margin=1.0):
    """dx = dL where t = 1, −dL where t = −1 and x < m, else 0."""
    x, target = residuals
    t, dloss = signs(target, x), jnp.broadcast_to(dy[..., None], x.shape)
    ddistances = by_sign(t, dloss, jnp.where(margin - x <= 0, 0, -dloss))
    return ddistances, None if is_fixed(target) else jnp.zeros_like(t)


@op
def triplet_margin(
    anchor: Components,
    positive: Components,
    negative: Components,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Losses:
    """Triplet margin loss of each example: the positive nearer than the negative by a margin.

    L = max(0, D(a, b) − D(a, c) + m) with anchor a, positive b, negative c and the distance
    D(x, y) = ‖x − y + ε‖ₚ = (Σₖ |xₖ − yₖ + ε|ᵖ)^(1/p). With `swap`, the lesser of D(a, c) and
    D(b, c) replaces D(a, c).

    Shapes:
        N batch, any number of axes or none; K components of one example
        anchor a, positive b, negative c and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with the norm of a difference δ, ∂‖δ‖ₚ/∂δₖ = sign(δₖ)·(|δₖ|/‖δ‖)^(p−1),
    a vector g(δ) that is 0 where δ = 0 by convention; L̇ = ⟨g(δ₁), ȧ − ḃ⟩ − ⟨g(δ₂), ȧ − ċ⟩ where
    L > 0, else 0:
        da = (g(δ₁) − g(δ₂))·dL         δ₁ = a − b + ε
        db = −g(δ₁)·dL                  δ₂ = a − c + ε
        dc = g(δ₂)·dL
    and, where D(b, c) replaces D(a, c), with δ₃ = b − c + ε:
        da = g(δ₁)·dL,  db = (−g(δ₁) − g(δ₃))·dL,  dc = g(δ₃)·dL

    A difference is divided by its largest component first, because powers of large or tiny numbers
    overflow or vanish.

    Saves its arguments, which copies nothing, and ±1/‖δ‖ₚ for each difference and row, from which
    g(δ) follows without another sum.

    Args:
        anchor: a.
        positive: b.
        negative: c.
        margin: m.
        p: the order of the norm, at least 1.
        eps: ε, added to every component of a difference, at least 0.
        swap: whether the negative may be compared with the positive.

    Raises:
        TypeError: an argument is not floating point, or an option has the wrong type.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, p is
            less than 1, or eps is negative.

    Reference: V. Balntas, E. Riba, D. Ponsa and K. Mikolajczyk, "Learning Local Feature Descriptors
    with Triplets and Shallow Convolutional Neural Networks", 2016; the options are those of
    PyTorch's triplet_margin_loss, which also has ε inside the norm.

    Example:
        >>> anchor, positive, negative = jnp.array([[0.0, 0.0], [3.0, 4.0], [2.0, 0.0]])
        >>> print(jaxnn.triplet_margin(anchor, positive, negative, eps=0.0))
        4.0
    """

    def distance(x, y):
        d = x - y + eps
        size = lax.stop_gradient(jnp.max(jnp.abs(d), axis=-1, keepdims=True, initial=0))
        is_zero = size == 0
        size = jnp.where(is_zero, 1, size)
        total = jnp.sum((jnp.sign(d) * d / size) ** p, axis=-1)
        root = jnp.where(is_zero[..., 0], 1, total) ** (1 / p)
        return jnp.where(is_zero[..., 0], 0, size[..., 0] * root)

    away = distance(anchor, negative)
    if swap:
        other = distance(positive, negative)
        away = jnp.where(other < away, other, away)
    h = distance(anchor, positive) - away + margin
    return jnp.where(h <= 0, 0, h)


@triplet_margin.validate
def _(anchor, positive, negative, *, margin, p, eps, swap):
    require_alike(anchor=anchor, positive=positive, negative=negative)
    require_number("margin", margin)
    require_number("p", p, at_least=1)
    require_number("eps", eps, at_least=0)


@triplet_margin.forward
@wide
def triplet_margin_fwd(anchor, positive, negative, *, margin=1.0, p=2.0, eps=1e-6, swap=False):
    """L = max(0, D(a, b) − D(a, c) + m)."""
    arguments = anchor, positive, negative
    norms = [_norm(d, p) for d in _differences(*arguments, eps, swap)]
    near, away = norms[0], jnp.minimum(*norms[1:]) if swap else norms[1]
    h = near - away + margin
    active = jnp.where(h <= 0, 0, jnp.ones_like(h))
    swapped = norms[2] < norms[1] if swap else jnp.zeros_like(h, bool)
    slopes = active, jnp.where(swapped, 0, -active), jnp.where(swapped, -active, 0)
    q = tuple(
        jnp.where(norm == 0, 0, slope / jnp.where(norm == 0, 1, norm))
        for slope, norm in zip(slopes, norms, strict=False)
    )
    return _positive(h)[..., 0], TripletResiduals(*arguments, q)


@triplet_margin.backward
@wide
def triplet_margin_bwd(residuals, dy, *, margin=1.0, p=2.0, eps=1e-6, swap=False):
    """da, db, dc from g(δ) of each difference, with its sign in the loss."""
    *arguments, q = residuals
    differences = _differences(*arguments, eps, swap)
    near, away, *other = (
        _power(d * per_norm, p - 1) * dy[..., None]
        for d, per_norm in zip(differences, q, strict=True)
    )
    if not swap:
        return near + away, -near, -away
    return near + away, other[0] - near, -away - other[0]


def require_pair(prediction) -> Pair:
    """The two arrays of a prediction; raise if it is not a pair."""
    if not isinstance(prediction, tuple) or len(prediction) != 2:
        raise TypeError(f"prediction must be a pair (a, b), got {type(prediction).__name__}")
    return prediction


def require_signs(target: Target) -> None:
    """Raise unless a target is boolean, floating point, or integers which, if known, are ±1."""
    if not is_fixed(target):
        require_floating(target=target)
    elif target.dtype != bool and is_readable(target):
        known = np.asarray(target)
        wrong = (known != 1) & (known != -1)
        if wrong.any():
            raise ValueError(
                f"target holds {known[wrong][0]}; integers must be -1 or 1 (convert labels 0 and 1 "
                "to booleans)"
            )


def signs(target: Target, like: Components):
    """A target as numbers in the dtype of `like`: ±1, NaN for other integers, floats unchanged."""
    t = target.astype(like.dtype)
    if target.dtype == bool:
        return 2 * t - 1
    return jnp.where(jnp.abs(t) == 1, t, jnp.nan) if is_fixed(target) else t


def by_sign(t, where_positive, where_negative):
    """One of two arrays for each sign of t, NaN where t is 0 or NaN."""
    chosen = jnp.where(t > 0, where_positive, where_negative)
    return jnp.where((t > 0) | (t < 0), chosen, jnp.nan)


def signs_by_definition(target, like):
    """The same as `signs`, for definitions only."""
    if target.dtype == bool:
        return jnp.where(target, 1, -jnp.ones_like(target, like.dtype))
    t = jnp.asarray(target, like.dtype)
    is_sign = (t == 1) | (t == -1) | jnp.issubdtype(target.dtype, jnp.floating)
    return jnp.where(is_sign, t, jnp.nan)


def largest(x: Components) -> Row:
    """max |xₖ| of every row, 0 for a row without components."""
    row = lax.reduce(jnp.abs(lax.stop_gradient(x)), x.dtype.type(0), lax.max, (x.ndim - 1,))
    return row[..., None]


def _positive(h):
    """max(0, h), and NaN where h is NaN."""
    return jnp.where(h <= 0, 0, h)


def _differences(anchor, positive, negative, eps, swap):
    """a − b + ε, a − c + ε and, with `swap`, b − c + ε."""
    pairs = [(anchor, positive), (anchor, negative), (positive, negative)]
    return [x - y + eps for x, y in pairs[: 2 + swap]]


def _norm(d, p) -> Row:
    """‖d‖ₚ of every row."""
    size = lax.stop_gradient(largest(d))
    u = d / jnp.maximum(size, jnp.finfo(d.dtype).tiny)
    total = jnp.sum(u * _power(u, p - 1), axis=-1, keepdims=True)
    total = jnp.where(size == 0, 1, total)
    return size * (jnp.sqrt(total) if p == 2 else total ** (1 / p))


def _power(u, exponent):
    """sign(u)·|u|^exponent, 0 at 0."""
    if exponent == 1:
        return u
    if exponent == 0:
        return jnp.sign(u)
    return jnp.sign(u) * jnp.abs(u) ** exponent
