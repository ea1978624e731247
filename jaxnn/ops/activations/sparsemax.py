"""Sparsemax: the point of the probability simplex that is nearest to the logits."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.tuning import on_a_gpu
from jaxnn.ops._common.validation import require_axis, require_floating

Logits = Float[Array, "*shape"]
Rows = Float[Array, "..."]


class SparsemaxResiduals(NamedTuple):
    """The probabilities, of which those above 0 are the support."""

    p: Logits


@op
def sparsemax(x: Logits, *, axis: int = -1) -> Logits:
    """Sparsemax along one axis, pᵢ = max(0, xᵢ − τ) with the τ for which Σᵢ pᵢ = 1.

    It is the Euclidean projection of x onto the probability simplex. Unlike with `softmax`, most
    probabilities are exactly 0.

    Shapes:
        x, p, dx, dp: any, all the same

    An entry of −∞ has p = 0, and a row without any entry above −∞ has p = 0 and dx = 0.

    Backward, from τ = (Σ_S xⱼ − 1)/|S| with the support S, where p > 0:
        ṗᵢ = ẋᵢ − Σ_S ẋⱼ/|S| on S, else 0; that map is symmetric, so
        dxᵢ = dpᵢ − Σ_S dpⱼ/|S| on S, else 0
    At the edge of the support, xᵢ = τ, the derivative is 0 by convention, like relu'(0).

    Saves p, the output, whose positive entries are the support.

    Implementation notes:
        With u = x − max x + 1, p = max(0, u − t) where t solves Σᵢ max(0, uᵢ − t) = 1, which
        Newton's method finds from t = 0 without sorting: every step is the t of the entries above
        the last one, which never passes the solution. Each divides the product of the function's
        value, at most K, and its slope, at most K, by 4 or more, so the number of steps depends on
        K and the dtype alone, and no device waits for the rows of another. Since u is 1 at the
        maximum, Σ_S u − 1 is the sum over the other entries, without cancellation. On a GPU the
        steps are unrolled: 2048 rows of 1024 logits take .26 ms, and .59 ms in a loop.

    Args:
        x: the logits.
        axis: the axis of the classes.

    Raises:
        TypeError: x is not floating point, or axis is not an integer.
        ValueError: x has no such axis, or it is empty.

    Reference: A. Martins and R. Astudillo, "From Softmax to Sparsemax", 2016, algorithm 1 and
    section 2.5; C. Michelot, "A Finite Algorithm for Finding the Projection of a Point onto the
    Canonical Simplex of ℝⁿ", 1986, for the iteration; W. Dinkelbach, "On Nonlinear Fractional
    Programming", 1967, for its speed.

    Example:
        >>> print(jaxnn.sparsemax(jnp.array([[0.5, 0.25, -1.0], [9.0, 3.0, 1.0]])))
        [[0.625 0.375 0.   ]
         [1.    0.    0.   ]]
    """
    largest = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    z = x - jnp.where(jnp.isneginf(largest), 0, largest)
    ordered = jnp.flip(jnp.sort(z, axis), axis)
    others = [a for a in range(x.ndim) if a != axis % x.ndim]
    k = jnp.expand_dims(jnp.arange(1, x.shape[axis] + 1, dtype=x.dtype), others)
    is_inside = 1 + k * ordered > jnp.cumsum(ordered, axis)
    size = jnp.sum(is_inside, axis, keepdims=True, dtype=x.dtype)
    inside = jnp.sum(jnp.where(is_inside, ordered, 0), axis, keepdims=True)
    threshold = (inside - 1) / jnp.maximum(size, 1)
    return jnp.where(z <= threshold, 0, z - threshold)


@sparsemax.validate
def _(x, *, axis):
    require_floating(x=x)
    require_axis(x, axis)


@sparsemax.forward
@wide
def sparsemax_fwd(x, *, axis=-1):
    """p = max(0, u − t)."""
    _, u, threshold = simplex_threshold(x, axis)
    p = above(u, threshold)
    return p, SparsemaxResiduals(p)


@sparsemax.backward
@wide
def sparsemax_bwd(residuals, dp, *, axis=-1):
    """dx = dp − Σ_S dp/|S| on the support S."""
    (p,) = residuals
    inside = p > 0
    size = jnp.maximum(jnp.sum(inside, axis, keepdims=True, dtype=dp.dtype), 1)
    total = jnp.sum(jnp.where(inside, dp, 0), axis, keepdims=True)
    return (jnp.where(inside, dp - total / size, 0),)


def simplex_threshold(x: Logits, axis: int) -> tuple[Rows, Logits, Rows]:
    """m = max x, u = x − m + 1, and the t for which Σ max(0, u − t) = 1."""
    maximum = jnp.max(x, axis, keepdims=True)
    maximum = jnp.where(maximum < jnp.finfo(x.dtype).min, 0, maximum)
    u = (x - maximum) + 1
    is_largest = x == maximum
    ties = jnp.sum(is_largest, axis, keepdims=True, dtype=x.dtype)

    def next_threshold(u, inside):
        others = jnp.sum(jnp.where(inside & ~is_largest, u, 0), axis, keepdims=True)
        size = jnp.sum(inside, axis, keepdims=True, dtype=x.dtype)
        return (others + jnp.maximum(ties - 1, 0)) / jnp.maximum(size, 1)

    fixed = lax.stop_gradient(u)
    threshold = lax.fori_loop(
        0,
        _newton_steps(x.shape[axis], x.dtype),
        lambda _, threshold: next_threshold(fixed, fixed > threshold),
        jnp.zeros_like(lax.stop_gradient(maximum)),
        unroll=on_a_gpu(),
    )
    return maximum, u, next_threshold(u, fixed > threshold)


def _newton_steps(n_classes, dtype) -> int:
    """The most steps that change t: each divides slope·value by 4, from K² down to one rounding."""
    n_classes = 2**20 if is_symbolic_dim(n_classes) else n_classes
    return math.ceil(math.log2(n_classes) + jnp.finfo(dtype).nmant / 2) + 1


def above(u: Logits, threshold: Rows) -> Logits:
    """max(0, u − t), with the derivative 0 at 0."""
    return jnp.where(u <= threshold, 0, u - threshold)
