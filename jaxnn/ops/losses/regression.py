"""Losses of a prediction against a target of the same kind: functions of the error e = ŷ − y."""

import math
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import require_alike, require_number

P = ParamSpec("P")
T = TypeVar("T")

Components = Float[Array, "*N K"]
Losses = Float[Array, "*N"]


class ErrorResiduals(NamedTuple):
    """The error ŷ − y, which the derivative is a function of."""

    error: Components


def _loss(definition: Callable[P, T]) -> Op[P, T]:
    """The op of a function of `(prediction, target)`."""
    made = Op(definition)
    made.validate(lambda prediction, target: require_alike(prediction=prediction, target=target))
    return made


@_loss
def squared_error(prediction: Components, target: Components) -> Losses:
    """Squared error of each example, L = Σₖ (ŷₖ − yₖ)²: no ½, no 1/K, no 1/N.

    Shapes (N batch, any number of axes; K components of one example):
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, with e = ŷ − y:
        ∂L/∂ŷₖ = 2·eₖ, so
        dŷ = 2·e·dL,   dy = −dŷ

    Keeps e: one array instead of the two it is made of.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Source: R. B. Aeen's summary, equation 8; R. Kumar, "Homework 1: Backprop", 2022.

    Example:
        >>> print(jaxnn.squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [5.]
    """
    return jnp.sum((prediction - target) ** 2, axis=-1)


@squared_error.forward
def squared_error_fwd(prediction, target):
    """L = Σₖ eₖ²."""
    e = prediction - target
    return _sum_components(lambda e: e * e, e), ErrorResiduals(e)


@squared_error.backward
def squared_error_bwd(residuals, dy):
    """dŷ = 2·e·dL, and its negative for the target."""
    return _both_sides(2 * residuals.error * dy[..., None])


@_loss
def half_squared_error(prediction: Components, target: Components) -> Losses:
    """Half the squared error of each example, L = ½·Σₖ (ŷₖ − yₖ)²: no 1/K, no 1/N.

    Shapes (N batch, any number of axes; K components of one example):
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, with e = ŷ − y:
        ∂L/∂ŷₖ = eₖ, so
        dŷ = e·dL,   dy = −dŷ

    Keeps e: one array instead of the two it is made of.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Source: the handwritten derivation of the 2-2-1 network, equation 1, with its factor ½.

    Example:
        >>> print(jaxnn.half_squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.5]
    """
    return 0.5 * jnp.sum((prediction - target) ** 2, axis=-1)


@half_squared_error.forward
def half_squared_error_fwd(prediction, target):
    """L = ½·Σₖ eₖ²."""
    e = prediction - target
    return _sum_components(lambda e: e * e, e, times=0.5), ErrorResiduals(e)


@half_squared_error.backward
def half_squared_error_bwd(residuals, dy):
    """dŷ = e·dL, and its negative for the target."""
    return _both_sides(residuals.error * dy[..., None])


@_loss
def absolute_error(prediction: Components, target: Components) -> Losses:
    """Absolute error of each example, L = Σₖ |ŷₖ − yₖ|: no 1/K, no 1/N.

    Shapes (N batch, any number of axes; K components of one example):
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, with e = ŷ − y and |·|'(0) = 0 by convention:
        ∂L/∂ŷₖ = sign eₖ, so
        dŷ = sign(e)·dL,   dy = −dŷ

    Keeps e rather than its sign, so that a NaN in the prediction stays one in the gradient.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Source: P.-S. Laplace's least absolute deviations; T. Hastie, R. Tibshirani and J. Friedman,
    "The Elements of Statistical Learning", section 10.6.

    Example:
        >>> print(jaxnn.absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [3.]
    """
    return jnp.sum(_absolute(prediction - target), axis=-1)


@absolute_error.forward
def absolute_error_fwd(prediction, target):
    """L = Σₖ |eₖ|."""
    e = prediction - target
    return _sum_components(jnp.abs, e), ErrorResiduals(e)


@absolute_error.backward
def absolute_error_bwd(residuals, dy):
    """dŷ = sign(e)·dL, and its negative for the target."""
    return _both_sides(jnp.sign(residuals.error) * dy[..., None])


@_loss
def huber_loss(prediction: Components, target: Components, *, delta: float = 1.0) -> Losses:
    """Huber loss of each example: squared where the error is small, absolute where it is large.

    L = Σₖ h(ŷₖ − yₖ) with h(e) = ½·e² where |e| ≤ δ, else δ·(|e| − ½·δ); no 1/K, no 1/N.

    Shapes (N batch, any number of axes; K components of one example):
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, with e = ŷ − y:
        h'(e) = e where |e| ≤ δ, else δ·sign e, so
        dŷ = e·dL where |e| ≤ δ, δ·dL where e > δ, −δ·dL where e < −δ;   dy = −dŷ

    Keeps e: one array instead of the two it is made of.

    Args:
        prediction: ŷ.
        target: y.
        delta: δ, where the parabola becomes a line, above 0.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            delta is not positive.

    Source: P. Huber, "Robust Estimation of a Location Parameter", 1964.

    Example:
        >>> print(jaxnn.huber_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        [2.]
    """
    e = prediction - target
    near = (-delta <= e) & (e <= delta)
    parabola = 0.5 * jnp.where(near, e, 0) ** 2
    line = delta * (_absolute(e) - 0.5 * delta)
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
        return jnp.where(size <= delta, 0.5 * e * e, delta * (size - 0.5 * delta))

    e = prediction - target
    return _sum_components(h, e), ErrorResiduals(e)


@huber_loss.backward
def huber_loss_bwd(residuals, dy, *, delta=1.0):
    """dŷ = e·dL inside ±δ, ±δ·dL outside, and its negative for the target."""
    e, dloss = residuals.error, dy[..., None]
    return _both_sides(
        jnp.where(e > delta, delta * dloss, jnp.where(e < -delta, -delta * dloss, e * dloss))
    )


@_loss
def log_cosh(prediction: Components, target: Components) -> Losses:
    """Log-cosh loss of each example: about ½·e² for a small error, |e| − log 2 for a large one.

    L = Σₖ log cosh(ŷₖ − yₖ); no 1/K, no 1/N.

    Shapes (N batch, any number of axes; K components of one example):
        prediction ŷ, target y and their gradients: (N, K)
        L, dL: (N,)

    Backward, with e = ŷ − y:
        (log cosh)'(e) = sinh e/cosh e, so
        dŷ = tanh(e)·dL,   dy = −dŷ

    |e| − log 2 + log(1 + e^(−2|e|)) never overflows but cancels at 0, so up to |e| = 1 the value is
    log(1 + 2·τ²/(1 − τ²)) with τ = tanh |e|/2. It gives e^(−|e|) = (1 − τ)/(1 + τ) as well.

    tanh(e) is computed as ±tanh |e|: the choice of a sign is a last step that the compiler does not
    repeat for dy, so that no array of tanh(e) is written.

    Keeps e: one array instead of the two it is made of.

    Raises:
        TypeError: an argument is not floating point, or the dtypes differ.
        ValueError: the shapes differ (nothing is broadcast), or there is no axis of components.

    Source: P. Chen et al., "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder", 2019.

    Example:
        >>> print(jaxnn.log_cosh(jnp.array([[1.0, 1e4]]), jnp.array([[1.0, 0.0]])))
        [9999.307]
    """
    e = prediction - target
    return jnp.sum(jnp.logaddexp(e, -e) - math.log(2), axis=-1)


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
    return _sum_components(h, e), ErrorResiduals(e)


@log_cosh.backward
def log_cosh_bwd(residuals, dy):
    """dŷ = tanh(e)·dL, and its negative for the target."""
    size = jnp.tanh(jnp.abs(residuals.error)) * dy[..., None]
    return _both_sides(jnp.where(residuals.error < 0, -size, size))


def _absolute(e):
    """|e| whose derivative at 0 is 0 in `jax.grad` too."""
    return jnp.sign(e) * e


def _sum_components(h, e, times=1.0):
    """times·Σₖ h(eₖ) in at least float32, returned in the dtype of e."""
    return (times * jnp.sum(h(at_least_float32(e)), axis=-1)).astype(e.dtype)


def _both_sides(d_prediction):
    return d_prediction, -d_prediction
