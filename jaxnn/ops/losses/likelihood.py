"""Negative log-likelihoods of a target under a distribution that the prediction describes."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.compiler import recomputing
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import (
    require_equal_shapes,
    require_floating,
    require_number,
)
from jaxnn.ops.losses.regression import Target, error_of, is_fixed, require_target

Components = Float[Array, "*N K"]
MeanAndVariance = tuple[Components, ...]
Losses = Float[Array, "*N"]


class GaussianResiduals(NamedTuple):
    """The error e = μ − y and the variance, of which all gradients are functions."""

    error: Components
    variance: Components


class FixedTargetGaussianResiduals(GaussianResiduals):
    """The same if y holds integers or booleans, and so has no gradient."""

    __slots__ = ()


class PoissonResiduals(NamedTuple):
    """The arguments: each gradient is a function of both."""

    prediction: Components
    target: Target


@op
def gaussian_nll(
    prediction: MeanAndVariance, target: Target, *, eps: float = 1e-6, full: bool = False
) -> Losses:
    """Negative log-likelihood of each example under normal distributions, one per component.

    L = Σₖ ½·(log vₖ + (μₖ − yₖ)²/vₖ) with v = max(variance, ε); `full` adds ½·log 2π to each
    component. No 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction: the pair (mean μ, variance), each (N, K); the gradient is such a pair
        target y, dy: (N, K); y may be integer or boolean, and then has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ with e = μ − y and L̇ = Σₖ eₖ/vₖ·ėₖ + ½·(1/vₖ − eₖ²/vₖ²)·v̇ₖ:
        dμ = e/v·dL
        dy = −dμ                            e falls as y rises
        dvariance = ½·(1 − e·(e/v))/v·dL    where variance ≥ ε, else 0: L does not depend on it

    PyTorch's gaussian_nll_loss has the same value, but passes the gradient of v to the variance
    below ε as well, which is the gradient of another function.

    Saves e and the variance: two arrays instead of three.

    Implementation notes:
        A barrier keeps the compiler from storing e/v between forward and backward; see
        `recomputing`.

    Args:
        prediction: the pair (μ, variance).
        target: y.
        eps: ε, the least variance, above 0.
        full: whether ½·log 2π is added for each component.

    Raises:
        TypeError: the prediction is not a pair of floating-point arrays, the target is complex, or
            full is not a bool.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            eps is not positive.

    Reference: D. Nix and A. Weigend, "Estimating the Mean and Variance of the Target Probability
    Distribution", 1994, equation 5.

    Example:
        >>> mean, variance = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
        >>> print(jaxnn.gaussian_nll((mean, variance), jnp.array([[0.0, 4.0]])))
        [1.6931472]
    """
    mean, variance = prediction
    eps = max(eps, float(jnp.finfo(variance.dtype).tiny))
    v = jnp.where(variance < eps, eps, variance)
    losses = 0.5 * (jnp.log(v) + (mean - target.astype(mean.dtype)) ** 2 / v)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return jnp.sum(losses, axis=-1)


@gaussian_nll.validate
def _(prediction, target, *, eps, full):
    if not isinstance(prediction, tuple) or len(prediction) != 2:
        kind = type(prediction).__name__
        raise TypeError(f"prediction must be a pair (mean, variance), got {kind}")
    mean, variance = prediction
    require_floating(mean=mean, variance=variance)
    require_equal_shapes(mean=mean, variance=variance, target=target)
    require_target(mean, target)
    require_number("eps", eps, above=0)


@gaussian_nll.forward
def gaussian_nll_fwd(prediction, target, *, eps=1e-6, full=False):
    """L = Σₖ ½·(log vₖ + eₖ·(eₖ/vₖ))."""
    mean, variance = prediction
    error = error_of(mean, target)
    kind = FixedTargetGaussianResiduals if is_fixed(target) else GaussianResiduals
    return _gaussian(error, variance, eps=eps, full=full), kind(error, variance)


@gaussian_nll.backward
@recomputing
@wide
def gaussian_nll_bwd(residuals, dy, *, eps=1e-6, full=False):
    """dμ = e/v·dL, dvariance = ½·(1 − e·(e/v))/v·dL where variance ≥ ε, dy = −dμ."""
    e, variance = residuals
    eps = representable(eps, e.dtype)
    v, dloss = jnp.maximum(variance, eps), dy[..., None]
    ratio = e / v
    dmean = ratio * dloss
    dvariance = jnp.where(variance < eps, 0, 0.5 * (1 - e * ratio) / v * dloss)
    fixed = isinstance(residuals, FixedTargetGaussianResiduals)
    return (dmean, dvariance), None if fixed else -dmean


@op
def poisson_nll(
    prediction: Components,
    target: Target,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
) -> Losses:
    """Negative log-likelihood of counts under Poisson distributions, one per component.

    The prediction x is the logarithm of the rate, L = Σₖ e^(xₖ) − yₖ·xₖ, or without `log_input` the
    rate itself, L = Σₖ xₖ − yₖ·log(xₖ + ε). The term log y! is omitted; `full` adds Stirling's
    approximation of it, y·log y − y + ½·log 2πy, where y > 1. No 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K components of one example
        prediction x, target y and their gradients: (N, K); y may be integer or boolean, and then
            has no gradient
        L, dL: (N,)

    Backward, from ⟨dL, L̇⟩ and the derivative of each term:
        dx = (eˣ − y)·dL                    or (1 − y/(x + ε))·dL without `log_input`
        dy = −x·dL                          or −log(x + ε)·dL
        `full` adds (log y + ½/y)·dL to dy where y > 1

    Saves its arguments: each gradient is a function of both.

    Args:
        prediction: x.
        target: y, the counts.
        log_input: whether x is the logarithm of the rate.
        full: whether Stirling's approximation of log y! is added.
        eps: ε, which keeps log(x + ε) finite at x = 0, above 0; used without `log_input`.

    Raises:
        TypeError: the prediction is not floating point, the target is complex, or log_input or
            full is not a bool.
        ValueError: the shapes differ (nothing is broadcast), there is no axis of components, or
            eps is not positive.

    Reference: A. C. Cameron and P. Trivedi, "Regression Analysis of Count Data", 2013, section 3.2;
    the options are those of PyTorch's poisson_nll_loss, whose default divides by N·K.

    Example:
        >>> rate = jnp.array([[1.0, 2.0]])
        >>> round(float(jaxnn.poisson_nll(jnp.log(rate), jnp.array([[0, 3]]))[0]), 4)
        0.9206
    """
    t = target.astype(prediction.dtype)
    if log_input:
        losses = jnp.exp(prediction) - t * prediction
    else:
        eps = max(eps, float(jnp.finfo(prediction.dtype).tiny))
        losses = prediction - t * jnp.log(prediction + eps)
    if full:
        count = jnp.where(t > 1, t, 1)
        stirling = count * jnp.log(count) - count + 0.5 * jnp.log(2 * math.pi * count)
        losses = losses + jnp.where(t > 1, stirling, 0)
    return jnp.sum(losses, axis=-1)


@poisson_nll.validate
def _(prediction, target, *, log_input, full, eps):
    require_target(prediction, target)
    require_number("eps", eps, above=0)


@poisson_nll.forward
@wide
def poisson_nll_fwd(prediction, target, *, log_input=True, full=False, eps=1e-8):
    """L = Σₖ e^(xₖ) − yₖ·xₖ, or Σₖ xₖ − yₖ·log(xₖ + ε)."""
    x, y = prediction, _counts(target, prediction)
    eps = representable(eps, x.dtype)
    losses = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        above = jnp.maximum(y, 1)
        stirling = above * (jnp.log(above) - 1) + 0.5 * (math.log(2 * math.pi) + jnp.log(above))
        losses = losses + jnp.where(y <= 1, 0, stirling)
    return jnp.sum(losses, axis=-1), PoissonResiduals(prediction, target)


@poisson_nll.backward
@wide
def poisson_nll_bwd(residuals, dy, *, log_input=True, full=False, eps=1e-8):
    """dx = (eˣ − y)·dL or (1 − y/(x + ε))·dL, dy = −x·dL or −log(x + ε)·dL."""
    x, target = residuals
    y, dloss = _counts(target, x), dy[..., None]
    rate = jnp.exp(x) if log_input else x + representable(eps, x.dtype)
    dprediction = (rate - y if log_input else 1 - y / rate) * dloss
    if is_fixed(target):
        return dprediction, None
    slope = -x if log_input else -jnp.log(rate)
    if full:
        above = jnp.maximum(y, 1)
        slope = slope + jnp.where(y <= 1, 0, jnp.log(above) + 0.5 / above)
    return dprediction, slope * dloss


@wide
def _gaussian(e, variance, *, eps, full):
    """The losses from e and the variance."""
    v = jnp.maximum(variance, representable(eps, e.dtype))
    constant = math.log(2 * math.pi) if full else 0.0
    return 0.5 * jnp.sum(jnp.log(v) + e * (e / v) + constant, axis=-1)


def _counts(target, prediction):
    """The counts in the dtype of the prediction."""
    return target.astype(prediction.dtype) if is_fixed(target) else target
