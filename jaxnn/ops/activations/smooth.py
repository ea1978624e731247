"""Smooth activations that work element by element: y = f(x), ẏ = f'(x)·ẋ, dx = f'(x)·dy."""

import math

import jax
import jax.numpy as jnp

from jaxnn.ops._common.elementwise import (
    Elements,
    InputOutputResiduals,
    InputResiduals,
    NoResiduals,
    OutputResiduals,
    elementwise,
)
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_floating


@elementwise
def identity(x: Elements) -> Elements:
    """Identity, y = x: the "no activation" of an output layer.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1, so
        dx = dy

    Saves nothing.

    Raises:
        TypeError: x is not floating point.

    Reference: R. Kumar, "Homework 1: Backprop", 2022 (the output function g of the regression).

    Example:
        >>> print(jaxnn.identity(jnp.array([-1.0, 2.0])))
        [-1.  2.]
    """
    return x


@identity.forward
def identity_fwd(x):
    """y = x."""
    return x, NoResiduals()


@identity.backward
def identity_bwd(residuals, dy):
    """dx = dy."""
    return (dy,)


@elementwise(slope_of_output=lambda y: y * (1 - y))
def sigmoid(x: Elements) -> Elements:
    """Logistic sigmoid, y = σ(x) = 1/(1 + e⁻ˣ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = e⁻ˣ/(1 + e⁻ˣ)² = y·(1 − y), so
        dx = y·(1 − y)·dy

    Saves y: y' is a polynomial in it, while x would cost the exponential again.

    Raises:
        TypeError: x is not floating point.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "Sigmoid".

    Example:
        >>> print(jaxnn.sigmoid(jnp.array([0.0, 100.0])))
        [0.5 1. ]
    """
    return jax.nn.sigmoid(x)


@sigmoid.forward
@wide
def sigmoid_fwd(x):
    """y = σ(x)."""
    y = jax.nn.sigmoid(x)
    return y, OutputResiduals(y)


@sigmoid.backward
@wide
def sigmoid_bwd(residuals, dy):
    """dx = y·(1 − y)·dy."""
    (y,) = residuals
    return (y * (1 - y) * dy,)


@elementwise(slope_of_output=lambda y: 1 - y**2)
def tanh(x: Elements) -> Elements:
    """Hyperbolic tangent, y = (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, by the quotient rule:
        y' = ((eˣ + e⁻ˣ)² − (eˣ − e⁻ˣ)²)/(eˣ + e⁻ˣ)² = 1 − y², so
        dx = (1 − y²)·dy = (1 − y)·(1 + y)·dy

    The product does not lose digits near |y| = 1, where y² would be rounded first.

    Saves y: y' is a polynomial in it.

    Raises:
        TypeError: x is not floating point.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "Tanh"; the quotient of
    exponentials printed there overflows at |x| = 1000, `jnp.tanh` does not.

    Example:
        >>> print(jaxnn.tanh(jnp.array([0.0, 1000.0])))
        [0. 1.]
    """
    return jnp.tanh(x)


@tanh.forward
@wide
def tanh_fwd(x):
    """y = tanh x."""
    y = jnp.tanh(x)
    return y, OutputResiduals(y)


@tanh.backward
@wide
def tanh_bwd(residuals, dy):
    """dx = (1 − y)·(1 + y)·dy."""
    (y,) = residuals
    return ((1 - y) * (1 + y) * dy,)


@elementwise(slope_of_output=lambda y: 1 - jnp.exp(-y))
def softplus(x: Elements) -> Elements:
    """Softplus, y = log(1 + eˣ), the smooth ReLU.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = eˣ/(1 + eˣ) = σ(x), so
        dx = σ(x)·dy

    σ(x) is e/(1 + e) for x < 0 and 1/(1 + e) for x > 0, with the e = e^(−|x|) of the forward:
    no exponential of a positive number, and all digits at both ends.

    Saves x: 1 − e⁻ʸ would do with y, but loses its digits where y is small.

    Raises:
        TypeError: x is not floating point.

    Reference: C. Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option
    Pricing", 2000, section 3.

    Example:
        >>> print(jaxnn.softplus(jnp.array([-1000.0, 1000.0])))
        [   0. 1000.]
    """
    return jnp.logaddexp(x, jnp.zeros_like(x))


@softplus.forward
@wide
def softplus_fwd(x):
    """y = max(0, x) + log(1 + e^(−|x|)): no exponential of a positive number."""
    y = jnp.where(x <= 0, 0, x) + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return y, InputResiduals(x)


@softplus.backward
@wide
def softplus_bwd(residuals, dy):
    """dx = σ(x)·dy."""
    (x,) = residuals
    e = jnp.exp(-jnp.abs(x))
    return (jnp.where(x > 0, 1, e) / (1 + e) * dy,)


@elementwise
def silu(x: Elements) -> Elements:
    """Sigmoid linear unit (swish), y = x·σ(x).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with s = σ(x) and s' = s·(1 − s):
        y' = s + x·s·(1 − s) = s·(1 + x·(1 − s)), so
        dx = s·(1 + x·(1 − s))·dy

    Saves x: y falls and rises again, so x cannot be read off it; s is recomputed.

    Raises:
        TypeError: x is not floating point.

    Reference: S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-Weighted Linear Units for Neural Network
    Function Approximation in Reinforcement Learning", 2018, equations 5 and 7.

    Example:
        >>> print(jaxnn.silu(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    return x * jax.nn.sigmoid(x)


@silu.forward
@wide
def silu_fwd(x):
    """y = x·σ(x)."""
    return x * jax.nn.sigmoid(x), InputResiduals(x)


@silu.backward
@wide
def silu_bwd(residuals, dy):
    """dx = s·(1 + x·(1 − s))·dy with s = σ(x)."""
    (x,) = residuals
    s = jax.nn.sigmoid(x)
    return (s * (1 + x * (1 - s)) * dy,)


@elementwise
def mish(x: Elements) -> Elements:
    """Mish, y = x·tanh(log(1 + eˣ)).

    Shapes:
        x, y, dx, dy: any, all the same

    With e = eˣ and n = (1 + e)² − 1 = e·(e + 2), the gate w needs no logarithm:
        w = tanh(log(1 + e)) = ((1 + e)² − 1)/((1 + e)² + 1) = n/(n + 2)

    Backward, with n' = 2·e·(1 + e):
        w' = 2·n'/(n + 2)² = 4·e·(1 + e)/(n + 2)²
        y' = w + x·w', so
        dx = (w + x·w')·dy

    Beyond x = 20, where w is 1 and x·w' is 0 to the last digit, both are taken at 20: e² must not
    overflow.

    Saves x: y falls and rises again, so x cannot be read off it.

    Raises:
        TypeError: x is not floating point.

    Reference: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020,
    section 3.

    Example:
        >>> print(jaxnn.mish(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    return x * jnp.tanh(softplus.definition(x))


@mish.forward
@wide
def mish_fwd(x):
    """y = x·n/(n + 2)."""
    e = jnp.exp(jnp.minimum(x, 20))
    n = e * (e + 2)
    return x * (n / (n + 2)), InputResiduals(x)


@mish.backward
@wide
def mish_bwd(residuals, dy):
    """dx = (w + x·w')·dy."""
    x = jnp.minimum(residuals.x, 20)
    e = jnp.exp(x)
    n = e * (e + 2)
    per_total = 1 / (n + 2)
    slope = (n + x * (4 * e * (1 + e) * per_total)) * per_total
    return (slope * dy,)


@elementwise
def gelu(x: Elements, *, approximate: bool = True) -> Elements:
    """Gaussian error linear unit, y = x·Φ(x), Φ the normal distribution function.

    With `approximate`, Φ(x) ≈ ½·(1 + tanh u) = σ(2·u) with u = √(2/π)·(x + 0.044715·x³).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = Φ(x) + x·Φ'(x), so
        dx = (Φ(x) + x·Φ'(x))·dy
    with Φ'(x) = e^(−x²/2)/√(2π) or, approximate, by σ' = σ·(1 − σ):
        Φ'(x) = Φ·(1 − Φ)·2·u',   u' = √(2/π)·(1 + 3·0.044715·x²)

    Below x = −5 or so ½·(1 + tanh u) loses all its digits in float32; σ(2·u) loses none. Beyond
    |x| = 40, where Φ is 0 or 1 and Φ' is 0 even in float64, x² and x³ are taken at 40: they must
    not overflow.

    Saves x and y: Φ(x) = y/x, while a σ or an error function would cost more than to read y,
    which the next layer saves as its input anyway. Near 0, where |x|³ is below the rounding of
    a 1, Φ(x) is ½ + x/√(2π) to the last digit; y/x would be 0/0.

    Args:
        x: the input.
        approximate: the tanh form (the default of `jax.nn.gelu`) or the exact one.

    Raises:
        TypeError: x is not floating point, or approximate is not a bool.

    Reference: D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, section 2.

    Example:
        >>> print(jaxnn.gelu(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    if approximate:
        return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * jax.lax.erfc(-x / math.sqrt(2))


@gelu.validate
def _(x, *, approximate):
    require_floating(x=x)
    require_approximate(approximate)


@gelu.forward
@wide
def gelu_fwd(x, *, approximate=True):
    """y = x·Φ(x)."""
    y = x * normal_cdf(x, approximate)
    return y, InputOutputResiduals(x, y)


@gelu.backward
@wide
def gelu_bwd(residuals, dy, *, approximate=True):
    """dx = (Φ(x) + x·Φ'(x))·dy with Φ(x) = y/x."""
    x, y = residuals
    small = jnp.abs(x) < float(jnp.finfo(x.dtype).eps) ** (1 / 3)
    cdf = jnp.where(small, 0.5 + x / math.sqrt(2 * math.pi), y / jnp.where(small, 1, x))
    slope = cdf + x * normal_pdf(x, cdf, approximate)
    return (slope * dy,)


def normal_cdf(x: Elements, approximate: bool) -> Elements:
    """Φ(x), the normal distribution function; see `gelu`."""
    if approximate:
        x = jnp.clip(x, -40, 40)
        return jax.nn.sigmoid(x * (_TWO_U_LINEAR + _TWO_U_CUBIC * (x * x)))
    return 0.5 * jax.lax.erfc(-x / math.sqrt(2))


def normal_pdf(x: Elements, cdf: Elements, approximate: bool) -> Elements:
    """Φ'(x), from x and Φ(x); see `gelu`."""
    x = jnp.clip(x, -40, 40)
    if approximate:
        return cdf * (1 - cdf) * (_TWO_U_LINEAR + 3 * _TWO_U_CUBIC * (x * x))
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


_TWO_U_LINEAR = 2 * math.sqrt(2 / math.pi)
_TWO_U_CUBIC = 0.044715 * _TWO_U_LINEAR
"""2·u = x·(linear + cubic·x²), see `gelu`."""


def require_approximate(approximate) -> None:
    """Raise unless the option `approximate` is a bool."""
    if not isinstance(approximate, bool):
        raise TypeError(f"option approximate must be True or False, got {approximate!r}")
