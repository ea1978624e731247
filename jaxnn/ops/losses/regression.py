"""Losses of a prediction against a target of the same kind: functions of the error e = ŷ − y."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.validation import require_alike, require_number

Components = Float[Array, "*N K"]
Losses = Float[Array, "*N"]


class ErrorResiduals(NamedTuple):
    """The error e = ŷ − y, of which both gradients are functions."""

    error: Components


@op
def squared_error(prediction: Components, target: Components) -> Losses:
    """Squared error of each example, L = Σₖ (ŷₖ − yₖ)²: no ½, no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ 2·eₖ·ėₖ:
        dŷ = 2·e·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: R. B. Aeen's summary, equation 8; R. Kumar, "Homework 1: Backprop", 2022.

    Example:
        >>> print(jaxnn.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [5.]
    """
    return jnp.sum((prediction - target) ** 2, axis=-1)


@squared_error.validate
def _(prediction, target):
    require_alike(prediction=prediction, target=target)


@squared_error.forward
def squared_error_fwd(prediction, target):
    """L = Σₖ eₖ²."""
    e = prediction - target
    return _sum_of(jnp.square, e), ErrorResiduals(e)


@squared_error.backward
@wide
def squared_error_bwd(residuals, dy):
    """dŷ = 2·e·dL, and its negative for the target."""
    dprediction = 2 * residuals.error * dy[..., None]
    return dprediction, -dprediction


@op
def half_squared_error(prediction: Components, target: Components) -> Losses:
    """Half the squared error of each example, L = ½·Σₖ (ŷₖ − yₖ)²: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ eₖ·ėₖ:
        dŷ = e·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: the handwritten derivation of the 2-2-1 network, equation 1, with its factor ½.

    Example:
        >>> print(jaxnn.half_squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.5]
    """
    return 0.5 * jnp.sum((prediction - target) ** 2, axis=-1)


@half_squared_error.validate
def _(prediction, target):
    require_alike(prediction=prediction, target=target)


@half_squared_error.forward
def half_squared_error_fwd(prediction, target):
    """L = ½·Σₖ eₖ²."""
    e = prediction - target
    return 0.5 * _sum_of(jnp.square, e), ErrorResiduals(e)


@half_squared_error.backward
@wide
def half_squared_error_bwd(residuals, dy):
    """dŷ = e·dL, and its negative for the target."""
    dprediction = residuals.error * dy[..., None]
    return dprediction, -dprediction


@op
def absolute_error(prediction: Components, target: Components) -> Losses:
    """Absolute error of each example, L = Σₖ |ŷₖ − yₖ|: no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y, |·|'(0) = 0 by convention and L̇ = Σₖ sign(eₖ)·ėₖ:
        dŷ = sign(e)·dL
        dy = −dŷ            e falls as y rises

    Saves e rather than its sign, so that a NaN in the prediction stays one in the gradient.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: P.-S. Laplace's least absolute deviations; T. Hastie, R. Tibshirani and J. Friedman,
    "The Elements of Statistical Learning", section 10.6.

    Example:
        >>> print(jaxnn.absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [3.]
    """
    e = prediction - target
    return jnp.sum(jnp.sign(e) * e, axis=-1)  # jnp.abs has the slope 1 at 0


@absolute_error.validate
def _(prediction, target):
    require_alike(prediction=prediction, target=target)


@absolute_error.forward
def absolute_error_fwd(prediction, target):
    """L = Σₖ |eₖ|."""
    e = prediction - target
    return _sum_of(jnp.abs, e), ErrorResiduals(e)


@absolute_error.backward
@wide
def absolute_error_bwd(residuals, dy):
    """dŷ = sign(e)·dL, and its negative for the target."""
    dprediction = jnp.sign(residuals.error) * dy[..., None]
    return dprediction, -dprediction


@op
def huber_loss(prediction: Components, target: Components, *, delta: float = 1.0) -> Losses:
    """Huber loss of each example: squared where the error is small, absolute where it is large.

    L = Σₖ h(ŷₖ − yₖ) with h(e) = ½·e² where |e| ≤ δ, else δ·(|e| − ½·δ); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and L̇ = Σₖ h'(eₖ)·ėₖ:
        h'(e) = e where |e| ≤ δ, else δ·sign e, so
        dŷ = e·dL where |e| ≤ δ, δ·dL where e > δ, −δ·dL where e < −δ
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Implementation notes:
        The parabola is computed from min(|e|, δ), because the square of a large error, although
        not chosen, might overflow. In both passes the choice of a piece is a last step, with which
        the compiler writes no array of h(e) or h'(e).

    Args:
        prediction: ŷ.
        target: y.
        delta: δ, where the parabola becomes a line, above 0.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            delta is not positive.

    Reference: P. Huber, "Robust Estimation of a Location Parameter", 1964.

    Example:
        >>> print(jaxnn.huber_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.]
    """
    e = prediction - target
    near = (-delta <= e) & (e <= delta)
    parabola = 0.5 * jnp.where(near, e, 0) ** 2
    line = delta * (jnp.sign(e) * e - 0.5 * delta)
    return jnp.sum(jnp.where(near, parabola, line), axis=-1)


@huber_loss.validate
def _(prediction, target, *, delta):
    require_alike(prediction=prediction, target=target)
    require_number("delta", delta, above=0)


@huber_loss.forward
def huber_loss_fwd(prediction, target, *, delta=1.0):
    """L = Σₖ ½·eₖ² where |eₖ| ≤ δ, else δ·(|eₖ| − ½·δ)."""

    def h(e):
        size = jnp.abs(e)
        near = jnp.minimum(size, delta)
        return jnp.where(size <= delta, 0.5 * near * near, delta * (size - 0.5 * delta))

    e = prediction - target
    return _sum_of(h, e), ErrorResiduals(e)


@huber_loss.backward
@wide
def huber_loss_bwd(residuals, dy, *, delta=1.0):
    """dŷ = e·dL inside ±δ, ±δ·dL outside, and its negative for the target."""
    e, dloss = residuals.error, dy[..., None]
    dprediction = jnp.where(e > delta, delta * dloss, jnp.maximum(e, -delta) * dloss)
    return dprediction, -dprediction


@op
def log_cosh(prediction: Components, target: Components) -> Losses:
    """Log-cosh loss of each example: about ½·e² for a small error, |e| − log 2 for a large one.

    L = Σₖ log cosh(ŷₖ − yₖ); no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = ŷ − y and (log cosh)'(e) = sinh e/cosh e, L̇ = Σₖ tanh(eₖ)·ėₖ:
        dŷ = tanh(e)·dL
        dy = −dŷ            e falls as y rises

    Saves e: one array instead of the two from which it is computed.

    Implementation notes:
        |e| − log 2 + log(1 + e^(−2|e|)) never overflows but cancels at 0, so up to |e| = 1 the
        value is log(1 + 2·τ²/(1 − τ²)) with τ = tanh |e|/2, from which e^(−|e|) = (1 − τ)/(1 + τ)
        follows as well. tanh(e) is computed as ±tanh |e|: the choice of a sign is a last step that
        the compiler does not repeat for dy, so that no array of tanh(e) is written. The backward
        runs in the dtype of e: of bfloat16 errors, (4096, 1024), the compiler would store a float32
        tanh(e), 33.6 MB of temporary memory instead of 16.8 MB.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Reference: P. Chen et al., "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder", 2019.

    Example:
        >>> print(jaxnn.log_cosh(jnp.array([[1.0, 1e4]]), jnp.array([[1.0, 0.0]])))
        [9999.307]
    """
    e = prediction - target
    return jnp.sum(jnp.logaddexp(e, -e) - math.log(2), axis=-1)


@log_cosh.validate
def _(prediction, target):
    require_alike(prediction=prediction, target=target)


@log_cosh.forward
def log_cosh_fwd(prediction, target):
    """L = Σₖ log cosh eₖ."""

    def h(e):
        size = jnp.abs(e)
        near, t = size < 1, jnp.tanh(0.5 * size)
        numerator = jnp.where(near, 2 * t * t, (1 - t) ** 2)
        logarithm = jnp.log1p(numerator / jnp.where(near, 1 - t * t, (1 + t) ** 2))
        return jnp.where(near, logarithm, size - math.log(2) + logarithm)

    e = prediction - target
    return _sum_of(h, e), ErrorResiduals(e)


@log_cosh.backward
def log_cosh_bwd(residuals, dy):
    """dŷ = tanh(e)·dL, and its negative for the target."""
    size = jnp.tanh(jnp.abs(residuals.error)) * dy[..., None]
    dprediction = jnp.where(residuals.error < 0, -size, size)
    return dprediction, -dprediction


def _sum_of(h, e):
    """Σₖ h(eₖ), in at least float32; e itself, the residual, has the dtype of the arguments."""
    return jnp.sum(h(at_least_float32(e)), axis=-1)
