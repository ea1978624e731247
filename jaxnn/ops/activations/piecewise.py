"""Activations made of pieces, most with a kink: y = f(x), ẏ = f'(x)·ẋ, dx = f'(x)·dy."""

import jax.numpy as jnp

from jaxnn.ops._common.elementwise import (
    Elements,
    InputResiduals,
    OutputResiduals,
    elementwise,
)
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import require_floating, require_number

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772
"""λ and α, see `selu`."""


@elementwise(kinks=(0.0,))
def relu(x: Elements) -> Elements:
    """Rectified linear unit, y = max(0, x).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else 0, with y'(0) = 0 by convention, so
        dx = dy where y > 0, else 0

    Saves y: y > 0 exactly where x > 0. A NaN stays a NaN; it is not read as "not positive".

    Raises:
        TypeError: x is not floating point.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "ReLU".

    Example:
        >>> print(jaxnn.relu(jnp.array([-1.0, 0.0, 2.0])))
        [0. 0. 2.]
    """
    return jnp.where(x <= 0, 0, x)


@relu.forward
def relu_fwd(x):
    """y = max(0, x)."""
    y = jnp.where(x <= 0, 0, x)
    return y, OutputResiduals(y)


@relu.backward
def relu_bwd(residuals, dy):
    """dx = dy where y > 0, else 0."""
    (y,) = residuals
    return (jnp.where(y <= 0, 0, dy),)


@elementwise(kinks=lambda slope: () if slope == 1 else (0.0,))
def leaky_relu(x: Elements, *, slope: float = 0.01) -> Elements:
    """Leaky ReLU, y = x where x > 0, else slope·x.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else slope, with y'(0) = slope by convention, so
        dx = dy where y > 0, else slope·dy

    Saves y: with slope ≥ 0, y > 0 exactly where x > 0.

    Args:
        x: the input.
        slope: y' where x ≤ 0, at least 0.

    Raises:
        TypeError: x is not floating point, or slope is not a number.
        ValueError: slope is negative.

    Reference: A. Maas, A. Hannun and A. Ng, "Rectifier Nonlinearities Improve Neural Network
    Acoustic Models", 2013, equation 2.

    Example:
        >>> print(jaxnn.leaky_relu(jnp.array([-1.0, 0.0, 2.0]), slope=0.5))
        [-0.5  0.   2. ]
    """
    return jnp.where(x > 0, x, slope * x)


@leaky_relu.validate
def _(x, *, slope):
    require_floating(x=x)
    require_number("slope", slope, at_least=0)


@leaky_relu.forward
@wide
def leaky_relu_fwd(x, *, slope=0.01):
    """y = x where x > 0, else slope·x."""
    y = jnp.where(x > 0, x, slope * x)
    return y, OutputResiduals(y)


@leaky_relu.backward
@wide
def leaky_relu_bwd(residuals, dy, *, slope=0.01):
    """dx = dy where y > 0, else slope·dy."""
    (y,) = residuals
    return (jnp.where(y > 0, dy, slope * dy),)


@elementwise(
    kinks=lambda alpha: () if alpha == 1 else (0.0,),
    slope_of_output=lambda y, alpha: jnp.where(y > 0, 1, y + alpha),
)
def elu(x: Elements, *, alpha: float = 1.0) -> Elements:
    """Exponential linear unit, y = x where x > 0, else α·(eˣ − 1).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else α·eˣ = y + α, with y'(0) = α by convention, so
        dx = dy where y > 0, else (y + α)·dy

    Saves y: with α > 0, y > 0 exactly where x > 0, and no exponential is recomputed.

    Args:
        x: the input.
        alpha: −y for x → −∞, above 0.

    Raises:
        TypeError: x is not floating point, or alpha is not a number.
        ValueError: alpha is not positive.

    Reference: D.-A. Clevert, T. Unterthiner and S. Hochreiter, "Fast and Accurate Deep Network
    Learning by Exponential Linear Units", 2016, equation 15.

    Example:
        >>> print(jaxnn.elu(jnp.array([-100.0, 0.0, 2.0]), alpha=0.5))
        [-0.5  0.   2. ]
    """
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


@elu.validate
def _(x, *, alpha):
    require_floating(x=x)
    require_number("alpha", alpha, above=0)


@elu.forward
@wide
def elu_fwd(x, *, alpha=1.0):
    """y = x where x > 0, else α·(eˣ − 1)."""
    y = jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))
    return y, OutputResiduals(y)


@elu.backward
@wide
def elu_bwd(residuals, dy, *, alpha=1.0):
    """dx = dy where y > 0, else (y + α)·dy."""
    (y,) = residuals
    return (jnp.where(y > 0, dy, (y + alpha) * dy),)


@elementwise(
    kinks=(0.0,),
    slope_of_output=lambda y: jnp.where(y > 0, _SELU_SCALE, y + _SELU_SCALE * _SELU_ALPHA),
)
def selu(x: Elements) -> Elements:
    """Scaled ELU, y = λ·x where x > 0, else λ·α·(eˣ − 1).

    With λ = 1.0507… and α = 1.6732… inputs of mean 0 and variance 1 keep both.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = λ where x > 0, else λ·α·eˣ = y + λ·α, with y'(0) = λ·α by convention, so
        dx = λ·dy where y > 0, else (y + λ·α)·dy

    Saves y: y > 0 exactly where x > 0, and no exponential is recomputed.

    Raises:
        TypeError: x is not floating point.

    Reference: G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-Normalizing Neural
    Networks", 2017, equation 2; λ and α in equation 14.

    Example:
        >>> print(jaxnn.selu(jnp.array([-100.0, 0.0, 2.0])))
        [-1.7580993  0.         2.101402 ]
    """
    return _SELU_SCALE * elu.definition(x, alpha=_SELU_ALPHA)


@selu.forward
@wide
def selu_fwd(x):
    """y = λ·x where x > 0, else λ·α·(eˣ − 1)."""
    y = _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * jnp.expm1(jnp.where(x > 0, 0, x)))
    return y, OutputResiduals(y)


@selu.backward
@wide
def selu_bwd(residuals, dy):
    """dx = λ·dy where y > 0, else (y + λ·α)·dy."""
    (y,) = residuals
    return (jnp.where(y > 0, _SELU_SCALE * dy, (y + _SELU_SCALE * _SELU_ALPHA) * dy),)


@elementwise(slope_of_output=lambda y, alpha: jnp.where(y > 0, 1, y / alpha + 1))
def celu(x: Elements, *, alpha: float = 1.0) -> Elements:
    """Continuously differentiable ELU, y = x where x > 0, else α·(e^(x/α) − 1).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else e^(x/α) = y/α + 1, so
        dx = dy where y > 0, else (y/α + 1)·dy

    There is no kink: y' is 1 on both sides of 0.

    Saves y: with α > 0, y > 0 exactly where x > 0, and no exponential is recomputed. With
    α < 2⁻¹⁰, for which y has too few digits in float16, it saves x and recomputes e^(x/α).

    Args:
        x: the input.
        alpha: −y for x → −∞, above 0.

    Raises:
        TypeError: x is not floating point, or alpha is not a number.
        ValueError: alpha is not positive.

    Reference: J. Barron, "Continuously Differentiable Exponential Linear Units", 2017.

    Example:
        >>> print(jaxnn.celu(jnp.array([-100.0, 0.0, 2.0]), alpha=0.5))
        [-0.5  0.   2. ]
    """
    alpha = max(alpha, float(jnp.finfo(x.dtype).tiny))
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / alpha))


@celu.validate
def _(x, *, alpha):
    require_floating(x=x)
    require_number("alpha", alpha, above=0)


@celu.forward
@wide
def celu_fwd(x, *, alpha=1.0):
    """y = x where x > 0, else α·(e^(x/α) − 1)."""
    y = jnp.where(x > 0, x, representable(alpha, x.dtype) * jnp.expm1(_exponent(x, alpha)))
    return y, InputResiduals(x) if alpha < _LEAST_ALPHA else OutputResiduals(y)


@celu.backward
@wide
def celu_bwd(residuals, dy, *, alpha=1.0):
    """dx = dy where y > 0, else (y/α + 1)·dy."""
    if isinstance(residuals, InputResiduals):
        return (jnp.exp(_exponent(residuals.x, alpha)) * dy,)
    (y,) = residuals
    return (jnp.where(y > 0, dy, (y / representable(alpha, y.dtype) + 1) * dy),)


@elementwise(kinks=(0.0, 6.0))
def relu6(x: Elements) -> Elements:
    """ReLU with a ceiling, y = min(max(0, x), 6).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where 0 < x < 6, else 0, with y'(0) = y'(6) = 0 by convention, so
        dx = dy where 0 < y < 6, else 0

    Saves y: 0 < y < 6 exactly where 0 < x < 6.

    Raises:
        TypeError: x is not floating point.

    Reference: A. Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010.

    Example:
        >>> print(jaxnn.relu6(jnp.array([-1.0, 2.0, 9.0])))
        [0. 2. 6.]
    """
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))


@relu6.forward
def relu6_fwd(x):
    """y = min(max(0, x), 6)."""
    y = jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))
    return y, OutputResiduals(y)


@relu6.backward
def relu6_bwd(residuals, dy):
    """dx = dy where 0 < y < 6, else 0."""
    (y,) = residuals
    return (jnp.where((y <= 0) | (y >= 6), 0, dy),)


@elementwise(
    kinks=(-3.0, 3.0),
    slope_of_output=lambda y: jnp.where((y <= 0) | (y >= 1), jnp.zeros_like(y), 1 / 6),
)
def hard_sigmoid(x: Elements) -> Elements:
    """Sigmoid made of lines, y = min(max(0, x + 3), 6)/6.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1/6 where −3 < x < 3, else 0, with y'(−3) = y'(3) = 0 by convention, so
        dx = dy/6 where −3 < x < 3, else 0

    Saves x: y may be rounded to an edge that x has not reached.

    Raises:
        TypeError: x is not floating point.

    Reference: A. Howard et al., "Searching for MobileNetV3", 2019, section 5.2.

    Example:
        >>> print(jaxnn.hard_sigmoid(jnp.array([-4.0, 0.0, 4.0])))
        [0.  0.5 1. ]
    """
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))


@hard_sigmoid.forward
@wide
def hard_sigmoid_fwd(x):
    """y = 0 where x ≤ −3, 1 where x ≥ 3, else (x + 3)/6."""
    y = jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))
    return y, InputResiduals(x)


@hard_sigmoid.backward
@wide
def hard_sigmoid_bwd(residuals, dy):
    """dx = dy/6 where −3 < x < 3, else 0."""
    (x,) = residuals
    return (jnp.where((x <= -3) | (x >= 3), 0, dy / 6),)


@elementwise(kinks=(-3.0, 3.0))
def hard_swish(x: Elements) -> Elements:
    """Swish made of pieces, y = x·min(max(0, x + 3), 6)/6.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with y = x·h(x), h = `hard_sigmoid` and so h' = 0 at −3 and 3 by convention:
        y' = h + x·h' = 0 where x ≤ −3, 1 where x ≥ 3, else (x + 3)/6 + x/6 = (x + 1.5)/3, so
        dx = y'·dy

    Saves x: y is not monotonic, so it does not determine x.

    Raises:
        TypeError: x is not floating point.

    Reference: A. Howard et al., "Searching for MobileNetV3", 2019, section 5.2.

    Example:
        >>> print(jaxnn.hard_swish(jnp.array([-4.0, 1.5, 4.0])))
        [-0.     1.125  4.   ]
    """
    return x * hard_sigmoid.definition(x)


@hard_swish.forward
@wide
def hard_swish_fwd(x):
    """y = x·h(x) with h = `hard_sigmoid`."""
    h = jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))
    return x * h, InputResiduals(x)


@hard_swish.backward
@wide
def hard_swish_bwd(residuals, dy):
    """dx = 0 where x ≤ −3, dy where x ≥ 3, else (x + 1.5)/3·dy."""
    (x,) = residuals
    slope = jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 1.5) / 3))
    return (slope * dy,)


@elementwise(kinks=lambda low, high: (low, high))
def hard_tanh(x: Elements, *, low: float = -1.0, high: float = 1.0) -> Elements:
    """Tanh made of lines, y = min(max(low, x), high).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where low ≤ x ≤ high, else 0; 1 on the edges is the convention of `jnp.clip`, so
        dx = dy where low ≤ x ≤ high, else 0

    Saves x: y is the same for an x on an edge and for one beyond it.

    Args:
        x: the input.
        low: the least output.
        high: the greatest output, above low.

    Raises:
        TypeError: x is not floating point, or an option is not a number.
        ValueError: high is not above low.

    Reference: R. Collobert, "Large Scale Machine Learning", 2004.

    Example:
        >>> print(jaxnn.hard_tanh(jnp.array([-4.0, 0.5, 4.0])))
        [-1.   0.5  1. ]
    """
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


@hard_tanh.validate
def _(x, *, low, high):
    require_floating(x=x)
    require_number("low", low, finite=False)
    require_number("high", high, above=low, finite=False)


@hard_tanh.forward
@wide
def hard_tanh_fwd(x, *, low=-1.0, high=1.0):
    """y = min(max(low, x), high)."""
    return jnp.clip(x, low, high), InputResiduals(x)


@hard_tanh.backward
@wide
def hard_tanh_bwd(residuals, dy, *, low=-1.0, high=1.0):
    """dx = dy where low ≤ x ≤ high, else 0."""
    (x,) = residuals
    return (jnp.where((x < low) | (x > high), 0, dy),)


@elementwise
def relu_squared(x: Elements) -> Elements:
    """Squared ReLU, y = max(0, x)².

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 2·max(0, x), so
        dx = 2·max(0, x)·dy

    Saves x: y overflows and vanishes long before x does.

    Raises:
        TypeError: x is not floating point.

    Reference: D. So et al., "Primer: Searching for Efficient Transformers for Language Modeling",
    2021, section 4.

    Example:
        >>> print(jaxnn.relu_squared(jnp.array([-1.0, 0.0, 3.0])))
        [0. 0. 9.]
    """
    return jnp.where(x <= 0, 0, x) ** 2


@relu_squared.forward
@wide
def relu_squared_fwd(x):
    """y = max(0, x)²."""
    positive = jnp.where(x <= 0, 0, x)
    return positive * positive, InputResiduals(x)


@relu_squared.backward
@wide
def relu_squared_bwd(residuals, dy):
    """dx = 2·max(0, x)·dy."""
    (x,) = residuals
    return (2 * jnp.where(x <= 0, 0, x) * dy,)


@elementwise(kinks=lambda threshold: (-threshold, threshold) if threshold else ())
def soft_shrink(x: Elements, *, threshold: float = 0.5) -> Elements:
    """Soft shrinkage, y = x − λ where x > λ, x + λ where x < −λ, else 0.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where |x| > λ, else 0, with y'(±λ) = 0 by convention, so
        dx = dy where |x| > λ, else 0

    Saves x: in half precision a tiny difference x − λ would round to 0.

    Args:
        x: the input.
        threshold: λ, at least 0.

    Raises:
        TypeError: x is not floating point, or threshold is not a number.
        ValueError: threshold is negative.

    Reference: D. Donoho, "De-noising by Soft-Thresholding", 1995, equation 3.

    Example:
        >>> print(jaxnn.soft_shrink(jnp.array([-2.0, 0.25, 2.0])))
        [-1.5  0.   1.5]
    """
    return jnp.where((-threshold <= x) & (x <= threshold), 0, x - threshold * jnp.sign(x))


@soft_shrink.validate
def _(x, *, threshold):
    require_floating(x=x)
    require_number("threshold", threshold, at_least=0)


@soft_shrink.forward
@wide
def soft_shrink_fwd(x, *, threshold=0.5):
    """y = x − λ where x > λ, x + λ where x < −λ, else 0."""
    return x - jnp.clip(x, -threshold, threshold), InputResiduals(x)


@soft_shrink.backward
@wide
def soft_shrink_bwd(residuals, dy, *, threshold=0.5):
    """dx = dy where |x| > λ, else 0."""
    (x,) = residuals
    return (jnp.where(jnp.abs(x) <= threshold, 0, dy),)


@elementwise(kinks=lambda threshold: (-threshold, threshold) if threshold else ())
def hard_shrink(x: Elements, *, threshold: float = 0.5) -> Elements:
    """Hard shrinkage, y = x where |x| > λ, else 0.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where |x| > λ, else 0, with y'(±λ) = 0 by convention (y jumps there), so
        dx = dy where |x| > λ, else 0

    Saves y, which the next layer saves as its input: it is not 0 exactly where |x| > λ.

    Args:
        x: the input.
        threshold: λ, at least 0.

    Raises:
        TypeError: x is not floating point, or threshold is not a number.
        ValueError: threshold is negative.

    Reference: D. Donoho and I. Johnstone, "Ideal Spatial Adaptation by Wavelet Shrinkage", 1994,
    equation 8.

    Example:
        >>> print(jaxnn.hard_shrink(jnp.array([-2.0, 0.25, 2.0])))
        [-2.  0.  2.]
    """
    return jnp.where((-threshold <= x) & (x <= threshold), 0, x)


@hard_shrink.validate
def _(x, *, threshold):
    require_floating(x=x)
    require_number("threshold", threshold, at_least=0)


@hard_shrink.forward
@wide
def hard_shrink_fwd(x, *, threshold=0.5):
    """y = x where |x| > λ, else 0."""
    y = jnp.where(jnp.abs(x) <= threshold, 0, x)
    return y, OutputResiduals(y)


@hard_shrink.backward
@wide
def hard_shrink_bwd(residuals, dy, *, threshold=0.5):
    """dx = dy where |x| > λ, which is where y is not 0; else 0."""
    (y,) = residuals
    return (jnp.where(y == 0, 0, dy),)


@elementwise(kinks=lambda threshold, value: (threshold,))
def threshold(x: Elements, *, threshold: float, value: float) -> Elements:
    """Threshold, y = x where x > θ, else a value.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > θ, else 0, with y'(θ) = 0 by convention (y may jump there), so
        dx = dy where x > θ, else 0

    Saves x: the value may be above θ, so y does not tell whether x is.

    Args:
        x: the input.
        threshold: θ.
        value: y where x ≤ θ.

    Raises:
        TypeError: x is not floating point, or an option is missing or not a number.

    Reference: PyTorch's threshold.

    Example:
        >>> print(jaxnn.threshold(jnp.array([-2.0, 0.25, 2.0]), threshold=0.1, value=20.0))
        [20.    0.25  2.  ]
    """
    return jnp.where(x <= threshold, value, x)


@threshold.validate
def _(x, *, threshold, value):
    require_floating(x=x)
    require_number("threshold", threshold, finite=False)
    require_number("value", value, finite=False)


@threshold.forward
@wide
def threshold_fwd(x, *, threshold, value):
    """y = x where x > θ, else the value."""
    return jnp.where(x <= threshold, value, x), InputResiduals(x)


@threshold.backward
@wide
def threshold_bwd(residuals, dy, *, threshold, value):
    """dx = dy where x > θ, else 0."""
    (x,) = residuals
    return (jnp.where(x <= threshold, 0, dy),)


_LEAST_ALPHA = 2.0**-10
"""The least α with which `celu` saves y."""


def _exponent(x, alpha):
    """x/α where x ≤ 0, bounded by −1000, whose exponential is 0 in every dtype; 0 where x > 0."""
    alpha = representable(alpha, x.dtype)
    least = -representable(1000 * alpha, x.dtype)
    return jnp.maximum(jnp.where(x > 0, 0, x), least) / alpha
