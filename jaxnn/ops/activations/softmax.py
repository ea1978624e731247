"""Softmax, its logarithm, and the logarithm of its denominator."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.validation import (
    require_axes,
    require_floating,
    require_where,
)

Logits = Float[Array, "*shape"]
Mask = Bool[Array, "..."]
Axes = int | tuple[int, ...]
Rows = Float[Array, "..."]


class SoftmaxResiduals(NamedTuple):
    """The probabilities, and the mask if any."""

    p: Logits
    where: Mask | None


class LogSoftmaxResiduals(NamedTuple):
    """The exponentials e^(x − max x), their sum in at least float32, and the mask if any."""

    exponentials: Logits
    total: Rows
    where: Mask | None


class LogSumExpResiduals(NamedTuple):
    """The arguments, and the maximum and the sum of exponentials of each row."""

    x: Logits
    where: Mask | None
    maximum: Rows
    total: Rows


@op
def softmax(x: Logits, where: Mask | None = None, *, axis: Axes = -1) -> Logits:
    """Softmax along one or several axes, pᵢ = e^(xᵢ)/Σⱼ e^(xⱼ).

    Shapes:
        x, p, dx, dp: any, all the same
        where: booleans that broadcast to x

    Entries where the mask is false are dropped: they take no part in the sum, and their p and dx
    are 0, whatever x holds there. A row without any entry above −∞ has p = 0 and dx = 0, and an
    empty axis gives an empty result.

    Backward, from ∂pᵢ/∂xⱼ = pᵢ·(δᵢⱼ − pⱼ), the Jacobian diag(p) − p·pᵀ:
        dxⱼ = Σᵢ dpᵢ·pᵢ·(δᵢⱼ − pⱼ) = pⱼ·(dpⱼ − Σᵢ pᵢ·dpᵢ)
        dx  = p ⊙ (dp − p·dp)

    One product and one sum for each row: the K×K Jacobian is never built.

    Saves p, the output, on which alone the Jacobian depends. Sums run in at least float32.

    Implementation notes:
        The sum is negated while it is one number for each row, which lets the compiler add it in
        one pass over dp and p. The maximum starts at the least finite number, so that no row
        computes −∞ − (−∞).

    Args:
        x: the logits.
        where: optional, the entries to include.
        axis: the axis of the classes, or a tuple of axes.

    Raises:
        TypeError: x is not floating point, where does not hold booleans, or axis holds something
            other than integers.
        ValueError: x has no such axis, or where does not broadcast to x.

    Reference: R. B. Aeen's summary, stage 2 (the activation derivative); J. Bridle, "Probabilistic
    Interpretation of Feedforward Classification Network Outputs", 1990, equation 13. The mask is
    that of `jax.nn.softmax`.

    Example:
        >>> print(jaxnn.softmax(jnp.array([[0.0, 0.0], [1e4, 0.0]])))
        [[0.5 0.5]
         [1.  0. ]]
        >>> print(jaxnn.softmax(jnp.array([1.0, jnp.nan, 1.0]), jnp.array([True, False, True])))
        [0.5 0.  0.5]
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    maximum = lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    is_empty = jnp.isneginf(maximum)
    e = jnp.exp(x - jnp.where(is_empty, 0, maximum))
    p = e / jnp.where(is_empty, 1, jnp.sum(e, axis, keepdims=True))
    return p if where is None else jnp.where(where, p, 0)


@softmax.validate
def _(x, where, *, axis):
    require_floating(x=x)
    require_axes(x, axis)
    require_where(where, x.shape)


@softmax.forward
@wide
def softmax_fwd(x, where=None, *, axis=-1):
    """p = e^(x − max x)/Σ e^(x − max x)."""
    e, total, _, _ = _exponentials(x, where, axis)
    p = e / _or_1(total)
    return p, SoftmaxResiduals(p, where)


@softmax.backward
@wide
def softmax_bwd(residuals, dp, *, axis=-1):
    """dx = p ⊙ (dp − p·dp)."""
    p, where = residuals
    dp = _seen(dp, where)
    return p * (dp + -jnp.sum(p * dp, axis, keepdims=True)), None


@op
def log_softmax(x: Logits, where: Mask | None = None, *, axis: Axes = -1) -> Logits:
    """Logarithm of the softmax along one or several axes, yᵢ = xᵢ − log Σⱼ e^(xⱼ).

    Shapes:
        x, y, dx, dy: any, all the same
        where: booleans that broadcast to x

    Entries where the mask is false are dropped: they take no part in the sum, their y is −∞ and
    their dx is 0, whatever x holds there. A row without any entry above −∞ has y = −∞ and dx = 0,
    and an empty axis gives an empty result.

    Backward, from ∂yᵢ/∂xⱼ = δᵢⱼ − pⱼ with p = eʸ:
        dxⱼ = Σᵢ dyᵢ·(δᵢⱼ − pⱼ) = dyⱼ − pⱼ·Σᵢ dyᵢ
    where p = e/Σe with the e = e^(x − max x) of the forward.

    Saves the e, and their sum in at least float32: from the output alone, p = eʸ would take the
    exponentials again and, in half precision, lose digits.

    Implementation notes:
        The sum of dy is divided and negated while it is one number for each row, as in `softmax`.

    Args:
        x: the logits.
        where: optional, the entries to include.
        axis: the axis of the classes, or a tuple of axes.

    Raises:
        TypeError: x is not floating point, where does not hold booleans, or axis holds something
            other than integers.
        ValueError: x has no such axis, or where does not broadcast to x.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "LogSumExp". The mask is
    that of `jax.nn.log_softmax`.

    Example:
        >>> print(jaxnn.log_softmax(jnp.array([1e4, 0.0])))
        [     0. -10000.]
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    maximum = lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    is_empty = jnp.isneginf(maximum)
    shifted = x - jnp.where(is_empty, 0, maximum)
    total = jnp.where(is_empty, 1, jnp.sum(jnp.exp(shifted), axis, keepdims=True))
    y = jnp.where(is_empty, -jnp.inf, shifted - jnp.log(total))
    return y if where is None else jnp.where(where, y, -jnp.inf)


@log_softmax.validate
def _(x, where, *, axis):
    require_floating(x=x)
    require_axes(x, axis)
    require_where(where, x.shape)


@log_softmax.forward
def log_softmax_fwd(x, where=None, *, axis=-1):
    """y = (x − max x) − log Σ e^(x − max x)."""
    e, total, shifted, _ = _exponentials(at_least_float32(x), where, axis)
    y = shifted - jnp.log(_or_1(total))
    if where is not None:
        y = jnp.where(where, y, -jnp.inf)
    return y, LogSoftmaxResiduals(e.astype(x.dtype), total, where)


@log_softmax.backward
@wide
def log_softmax_bwd(residuals, dy, *, axis=-1):
    """dx = dy − e·(Σ dy/Σ e)."""
    e, total, where = residuals
    dy = _seen(dy, where)
    dx = dy + e * (-jnp.sum(dy, axis, keepdims=True) / _or_1(total))
    return jnp.where(total == 0, 0, dx), None


@op
def logsumexp(
    x: Logits, where: Mask | None = None, *, axis: Axes = -1, keepdims: bool = False
) -> Rows:
    """Logarithm of the sum of exponentials along one or several axes, y = log Σⱼ e^(xⱼ).

    Shapes:
        x, dx: any, the same
        y, dy: that shape without the axes, or with 1 in their place if `keepdims`
        where: booleans that broadcast to x

    Entries where the mask is false are dropped: they take no part in the sum and their dx is 0,
    whatever x holds there. A row without any entry above −∞, even an empty one, has y = −∞ and
    dx = 0.

    Backward, from ⟨dy, ẏ⟩ with ẏ = Σⱼ e^(xⱼ)·ẋⱼ/Σᵢ e^(xᵢ) = Σⱼ pⱼ·ẋⱼ and p the softmax of x:
        dx = p·dy

    Saves its arguments, and the maximum m and Σ e^(x − m) of each row, from which p follows with
    one exponential and no further sum. They are saved separately, because e^(x − y) would round as
    coarsely as a large y does.

    Args:
        x: the exponents.
        where: optional, the entries to include.
        axis: the axis to sum over, or a tuple of axes.
        keepdims: whether to keep these axes, with size 1.

    Raises:
        TypeError: x is not floating point, where does not hold booleans, axis holds something
            other than integers, or keepdims is not a boolean.
        ValueError: x has no such axis, or where does not broadcast to x.

    Reference: P. Blanchard, D. Higham and N. Higham, "Accurately Computing the Log-Sum-Exp and
    Softmax Functions", 2021. The mask is that of `jax.nn.logsumexp`.

    Example:
        >>> print(jaxnn.logsumexp(jnp.array([[0.0, 0.0], [1e4, 0.0]])))
        [6.931472e-01 1.000000e+04]
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    maximum = lax.stop_gradient(jnp.max(x, axis, keepdims=True, initial=-jnp.inf))
    is_empty = jnp.isneginf(maximum)
    e = jnp.exp(x - jnp.where(is_empty, 0, maximum))
    total = jnp.where(is_empty, 1, jnp.sum(e, axis, keepdims=True))
    y = jnp.where(jnp.isinf(maximum), maximum, maximum + jnp.log(total))
    return y if keepdims else jnp.squeeze(y, axis)


@logsumexp.validate
def _(x, where, *, axis, keepdims):
    require_floating(x=x)
    require_axes(x, axis)
    require_where(where, x.shape)


@logsumexp.forward
@wide
def logsumexp_fwd(x, where=None, *, axis=-1, keepdims=False):
    """y = max x + log Σ e^(x − max x)."""
    _, total, _, maximum = _exponentials(x, where, axis)
    y = jnp.where(total == 0, -jnp.inf, maximum + jnp.log(_or_1(total)))
    y = jnp.where(maximum > float(jnp.finfo(x.dtype).max), maximum, y)
    residuals = LogSumExpResiduals(x, where, maximum, total)
    return y if keepdims else jnp.squeeze(y, axis), residuals


@logsumexp.backward
@wide
def logsumexp_bwd(residuals, dy, *, axis=-1, keepdims=False):
    """dx = e^(x − max x)/Σ e^(x − max x)·dy."""
    x, where, maximum, total = residuals
    of_row = dy if keepdims else jnp.expand_dims(dy, axis)
    x = x if where is None else jnp.where(where, x, maximum)
    return _seen(jnp.exp(x - maximum) * (of_row / _or_1(total)), where), None


def _exponentials(x, where, axis):
    """e = e^(x − m), 0 where the mask is false; Σ e, 0 for a row without entries; x − m; and m."""
    lowest = float(jnp.finfo(x.dtype).min)
    seen = x if where is None else jnp.where(where, x, lowest)
    maximum = lax.stop_gradient(jnp.max(seen, axis, keepdims=True, initial=lowest))
    shifted = (x if where is None else jnp.where(where, x, maximum)) - maximum
    e = _seen(jnp.exp(shifted), where)
    return e, jnp.sum(e, axis, keepdims=True), shifted, maximum


def _or_1(total):
    """The sum of exponentials, 1 where there is none."""
    return jnp.where(total == 0, 1, total)


def _seen(array, where):
    """The array, 0 where the mask is false."""
    return array if where is None else jnp.where(where, array, 0)
