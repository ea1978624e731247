"""Losses of a prediction against a target of the same kind: functions of the error e = ŷ − y."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, representable, unit_columns, wide
from jaxnn.ops._common.validation import (
    require_equal_shapes,
    require_floating,
    require_last_axis,
    require_number,
)

Components = Float[Array, "*N K"]
Target = Components | Integer[Array, "*N K"] | Bool[Array, "*N K"]
Losses = Float[Array, "*N"]


class ErrorResiduals(NamedTuple):
    """The error e = ŷ − y, of which both gradients are functions."""

    error: Components


class FixedTargetResiduals(ErrorResiduals):
    """The same if y holds integers or booleans, and so has no gradient."""

    __slots__ = ()


@op
def squared_error(prediction: Components, target: Target) -> Losses:
    """Squared error of each example, L = Σₖ (ŷₖ − yₖ)²: no ½, no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ 2·eₖ·ėₖ:
        dŷ = 2·e·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: R. B. Aeen's summary, equation 8; R. Kumar, "Homework 1: Backprop", 2022.

    Example:
        >>> print(jaxnn.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [5.]
    """
    return jnp.sum(_difference(prediction, target) ** 2, axis=-1)


@squared_error.validate
def _(prediction, target):
    require_target(prediction, target)


@squared_error.forward
def squared_error_fwd(prediction, target):
    """L = Σₖ eₖ²."""
    e = error_of(prediction, target)
    return _sum_of(jnp.square, e), _residuals(e, target)


@squared_error.backward
@wide
def squared_error_bwd(residuals, dy):
    """dŷ = 2·e·dL, and its negative for the target."""
    dprediction = 2 * residuals.error * dy[..., None]
    return _gradients(residuals, dprediction)


@squared_error.hessian_root
def squared_error_hessian_root(residuals):
    """∂²L/∂ŷ² = 2·I = Σ_c (√2·e_c)·(√2·e_c)ᵀ."""
    return 2**0.5 * unit_columns(residuals.error)


@op
def half_squared_error(prediction: Components, target: Target) -> Losses:
    """Half the squared error of each example, L = ½·Σₖ (ŷₖ − yₖ)²: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ eₖ·ėₖ:
        dŷ = e·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: the handwritten derivation of the 2-2-1 network, equation 1, with its factor ½.

    Example:
        >>> print(jaxnn.half_squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.5]
    """
    return 0.5 * jnp.sum(_difference(prediction, target) ** 2, axis=-1)


@half_squared_error.validate
def _(prediction, target):
    require_target(prediction, target)


@half_squared_error.forward
def half_squared_error_fwd(prediction, target):
    """L = ½·Σₖ eₖ²."""
    e = error_of(prediction, target)
    return 0.5 * _sum_of(jnp.square, e), _residuals(e, target)


@half_squared_error.backward
@wide
def half_squared_error_bwd(residuals, dy):
    """dŷ = e·dL, and its negative for the target."""
    dprediction = residuals.error * dy[..., None]
    return _gradients(residuals, dprediction)


@half_squared_error.hessian_root
def half_squared_error_hessian_root(residuals):
    """∂²L/∂ŷ² = I = Σ_c e_c·e_cᵀ."""
    return unit_columns(residuals.error)


@op
def absolute_error(prediction: Components, target: Target) -> Losses:
    """Absolute error of each example, L = Σₖ |ŷₖ − yₖ|: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y, |·|'(0) = 0 by convention and L̇ = Σₖ sign(eₖ)·ėₖ:
        dŷ = sign(e)·dL
        dy = −dŷ            e falls as y rises

    Saves e rather than its sign, so that a NaN in the prediction stays one in the gradient.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: P.-S. Laplace's least absolute deviations; T. Hastie, R. Tibshirani and J. Friedman,
    "The Elements of Statistical Learning", section 10.6.

    Example:
        >>> print(jaxnn.absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [3.]
    """
    e = _difference(prediction, target)
    return jnp.sum(jnp.sign(e) * e, axis=-1)  # jnp.abs has the slope 1 at 0


@absolute_error.validate
def _(prediction, target):
    require_target(prediction, target)


@absolute_error.forward
def absolute_error_fwd(prediction, target):
    """L = Σₖ |eₖ|."""
    e = error_of(prediction, target)
    return _sum_of(jnp.abs, e), _residuals(e, target)


@absolute_error.backward
@wide
def absolute_error_bwd(residuals, dy):
    """dŷ = sign(e)·dL, and its negative for the target."""
    dprediction = jnp.sign(residuals.error) * dy[..., None]
    return _gradients(residuals, dprediction)


@op
def huber_loss(prediction: Components, target: Target, *, delta: float = 1.0) -> Losses:
    """Huber loss of each example: squared where the error is small, absolute where it is large.

    L = Σₖ h(ŷₖ − yₖ) with h(e) = ½·e² where |e| ≤ δ, else δ·(|e| − ½·δ); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ h'(eₖ)·ėₖ:
        h'(e) = e where |e| ≤ δ, else δ·sign e, so
        dŷ = e·dL where |e| ≤ δ, δ·dL where e > δ, −δ·dL where e < −δ
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Implementation notes:
        The parabola is computed from min(|e|, δ), because the square of a large error, although
        not selected, might overflow. In both passes the selection of a piece is the last step, so
        that the compiler writes no array of h(e) or h'(e).

    Args:
        prediction: ŷ.
        target: y.
        delta: δ, where the parabola becomes a line, above 0.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            delta is not positive.

    Reference: P. Huber, "Robust Estimation of a Location Parameter", 1964.

    Example:
        >>> print(jaxnn.huber_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.]
    """
    e = _difference(prediction, target)
    near = (-delta <= e) & (e <= delta)
    parabola = 0.5 * jnp.where(near, e, 0) ** 2
    line = delta * (jnp.sign(e) * e - 0.5 * delta)
    return jnp.sum(jnp.where(near, parabola, line), axis=-1)


@huber_loss.validate
def _(prediction, target, *, delta):
    require_target(prediction, target)
    require_number("delta", delta, above=0)


@huber_loss.forward
def huber_loss_fwd(prediction, target, *, delta=1.0):
    """L = Σₖ ½·eₖ² where |eₖ| ≤ δ, else δ·(|eₖ| − ½·δ)."""
    delta = representable(delta, prediction.dtype)

    def h(e):
        size = jnp.abs(e)
        near = jnp.minimum(size, delta)
        return jnp.where(size <= delta, 0.5 * near * near, delta * (size - 0.5 * delta))

    e = error_of(prediction, target)
    return _sum_of(h, e), _residuals(e, target)


@huber_loss.backward
@wide
def huber_loss_bwd(residuals, dy, *, delta=1.0):
    """dŷ = e·dL inside ±δ, ±δ·dL outside, and its negative for the target."""
    e, dloss, delta = residuals.error, dy[..., None], representable(delta, dy.dtype)
    dprediction = jnp.where(e > delta, delta * dloss, jnp.maximum(e, -delta) * dloss)
    return _gradients(residuals, dprediction)


@op
def smooth_l1(prediction: Components, target: Target, *, beta: float = 1.0) -> Losses:
    """Smooth L1 loss of each example: squared where the error is small, absolute beyond.

    L = Σₖ h(ŷₖ − yₖ) with h(e) = ½·e²/β where |e| < β, else |e| − ½·β; no 1/K, no 1/N. With β = 0
    it is the absolute error; with β > 0 it is `huber_loss` with δ = β, divided by β.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ h'(eₖ)·ėₖ:
        h'(e) = e/β where |e| < β, else sign e, so
        dŷ = e/β·dL where |e| < β, sign(e)·dL beyond
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Implementation notes:
        As in `huber_loss`, the parabola is computed from min(|e|, β), and the selection of a piece
        is the last step.

    Args:
        prediction: ŷ.
        target: y.
        beta: β, where the parabola becomes a line, at least 0.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            beta is negative.

    Reference: R. Girshick, "Fast R-CNN", 2015, equation 3, with β as in PyTorch's smooth_l1_loss,
    whose default divides by N·K.

    Example:
        >>> print(jaxnn.smooth_l1(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.75]]), beta=0.5))
        [0.8125]
    """
    e = _difference(prediction, target)
    line = jnp.sign(e) * e - 0.5 * beta
    if beta == 0:
        return jnp.sum(line, axis=-1)
    beta = max(beta, float(jnp.finfo(e.dtype).tiny))
    near = (-beta < e) & (e < beta)
    return jnp.sum(jnp.where(near, 0.5 * jnp.where(near, e, 0) ** 2 / beta, line), axis=-1)


@smooth_l1.validate
def _(prediction, target, *, beta):
    require_target(prediction, target)
    require_number("beta", beta, at_least=0)


@smooth_l1.forward
def smooth_l1_fwd(prediction, target, *, beta=1.0):
    """L = Σₖ ½·eₖ²/β where |eₖ| < β, else |eₖ| − ½·β."""
    e = error_of(prediction, target)
    if beta == 0:
        return _sum_of(jnp.abs, e), _residuals(e, target)
    beta = representable(beta, prediction.dtype)

    def h(e):
        size = jnp.abs(e)
        near = jnp.minimum(size, beta)
        return jnp.where(size < beta, 0.5 * near * (near / beta), size - 0.5 * beta)

    return _sum_of(h, e), _residuals(e, target)


@smooth_l1.backward
@wide
def smooth_l1_bwd(residuals, dy, *, beta=1.0):
    """dŷ = e/β·dL inside ±β, ±dL outside, and its negative for the target."""
    e, dloss = residuals.error, dy[..., None]
    if beta == 0:
        return _gradients(residuals, jnp.sign(e) * dloss)
    beta = representable(beta, dy.dtype)
    inside = jnp.maximum(e, -beta) / beta * dloss
    return _gradients(residuals, jnp.where(e >= beta, dloss, inside))


@op
def quantile_loss(prediction: Components, target: Target, *, quantile: float = 0.5) -> Losses:
    """Quantile (pinball) loss of each example, whose minimum is at a quantile of the target.

    L = Σₖ h(ŷₖ − yₖ) with h(e) = (1 − q)·e where e > 0, else −q·e; no 1/K, no 1/N. With q = ½ it is
    half the absolute error.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ h'(eₖ)·ėₖ:
        h'(e) = 1 − q where e > 0, −q where e < 0, and 0 at 0 by convention, so
        dŷ = (1 − q)·dL where e > 0, −q·dL where e < 0
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Args:
        prediction: ŷ.
        target: y.
        quantile: q, from 0 to 1.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            quantile is not in 0 … 1.

    Reference: R. Koenker and G. Bassett, "Regression Quantiles", 1978.

    Example:
        >>> prediction, target = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])
        >>> print(jaxnn.quantile_loss(prediction, target, quantile=0.75))
        [1.75]
    """
    e = _difference(prediction, target)
    return jnp.sum(
        jnp.where(e > 0, (1 - quantile) * e, jnp.where(e == 0, 0, -quantile * e)), axis=-1
    )


@quantile_loss.validate
def _(prediction, target, *, quantile):
    require_target(prediction, target)
    require_number("quantile", quantile, at_least=0, at_most=1)


@quantile_loss.forward
def quantile_loss_fwd(prediction, target, *, quantile=0.5):
    """L = Σₖ (1 − q)·eₖ where eₖ > 0, else −q·eₖ."""

    def h(e):
        return jnp.where(e > 0, (1 - quantile) * e, -quantile * e)

    e = error_of(prediction, target)
    return _sum_of(h, e), _residuals(e, target)


@quantile_loss.backward
@wide
def quantile_loss_bwd(residuals, dy, *, quantile=0.5):
    """dŷ = (1 − q)·dL where e > 0, −q·dL where e < 0, and its negative for the target."""
    e, dloss = residuals.error, dy[..., None]
    below = jnp.where(e < 0, -quantile * dloss, e * dloss)  # 0 at 0, NaN where e is
    return _gradients(residuals, jnp.where(e > 0, (1 - quantile) * dloss, below))


@op
def log_cosh(prediction: Components, target: Target) -> Losses:
    """Log-cosh loss of each example: about ½·e² for a small error, |e| − log 2 for a large one.

    L = Σₖ log cosh(ŷₖ − yₖ); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and (log cosh)'(e) = sinh e/cosh e, L̇ = Σₖ tanh(eₖ)·ėₖ:
        dŷ = tanh(e)·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Implementation notes:
        |e| − log 2 + log(1 + e^(−2|e|)) never overflows but cancels at 0, so up to |e| = 1 the
        value is log(1 + 2·τ²/(1 − τ²)) with τ = tanh |e|/2, from which e^(−|e|) = (1 − τ)/(1 + τ)
        follows as well. tanh(e) is computed as ±tanh |e|: the choice of the sign is the last step,
        which the compiler does not repeat for dy, so that no array of tanh(e) is written. The
        backward runs in the dtype of e: for bfloat16 errors, (4096, 1024), the compiler would store
        a float32 tanh(e), 33.6 MB of temporary memory instead of 16.8 MB.

    Raises:
        TypeError: the prediction is not floating point, or the target is complex.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: P. Chen et al., "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder", 2019.

    Example:
        >>> print(jaxnn.log_cosh(jnp.array([[1.0, 1e4]]), jnp.array([[1.0, 0.0]])))
        [9999.307]
    """
    e = _difference(prediction, target)
    return jnp.sum(jnp.logaddexp(e, -e) - math.log(2), axis=-1)


@log_cosh.validate
def _(prediction, target):
    require_target(prediction, target)


@log_cosh.forward
def log_cosh_fwd(prediction, target):
    """L = Σₖ log cosh eₖ."""

    def h(e):
        size = jnp.abs(e)
        near, t = size < 1, jnp.tanh(0.5 * size)
        numerator = jnp.where(near, 2 * t * t, (1 - t) ** 2)
        logarithm = jnp.log1p(numerator / jnp.where(near, 1 - t * t, (1 + t) ** 2))
        return jnp.where(near, logarithm, size - math.log(2) + logarithm)

    e = error_of(prediction, target)
    return _sum_of(h, e), _residuals(e, target)


@log_cosh.backward
def log_cosh_bwd(residuals, dy):
    """dŷ = tanh(e)·dL, and its negative for the target."""
    size = jnp.tanh(jnp.abs(residuals.error)) * dy[..., None]
    dprediction = jnp.where(residuals.error < 0, -size, size)
    return _gradients(residuals, dprediction)


def require_target(prediction, target) -> None:
    """Raise unless the prediction is floating point and the target has as many real numbers."""
    require_floating(prediction=prediction)
    if not is_fixed(target):
        require_floating(target=target)
    require_equal_shapes(prediction=prediction, target=target)
    require_last_axis(prediction=prediction)


def is_fixed(target: Array) -> bool:
    """Whether a target holds integers or booleans, which have no gradient."""
    return jnp.issubdtype(target.dtype, jnp.integer) or target.dtype == bool


def _difference(prediction, target):
    """ŷ − y, for definitions only."""
    return prediction - target.astype(prediction.dtype)


def error_of(prediction: Components, target: Target) -> Components:
    """e = ŷ − y, rounded once: half precision does not hold every integer."""
    if not is_fixed(target):
        return prediction - target
    minuend = at_least_float32(prediction)
    return (minuend - target.astype(minuend.dtype)).astype(prediction.dtype)


def _residuals(e, target):
    """The error, and whether the target has a gradient."""
    return FixedTargetResiduals(e) if is_fixed(target) else ErrorResiduals(e)


def _gradients(residuals, dprediction):
    """dŷ, and its negative for the target if that has a gradient."""
    fixed = isinstance(residuals, FixedTargetResiduals)
    return dprediction, None if fixed else -dprediction


def _sum_of(h, e):
    """Σₖ h(eₖ), in at least float32; e itself, the residual, has the dtype of the arguments."""
    return jnp.sum(h(at_least_float32(e)), axis=-1)
