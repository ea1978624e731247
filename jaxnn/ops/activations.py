"""Activations that work element by element: y = f(x), dx = f'(x)·dy."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.arguments import require_floating, require_number
from jaxnn.op import Op
from jaxnn.ops.precision import at_least_float32

Elements = Float[Array, "*shape"]


class NothingKept(NamedTuple):
    """The backward needs neither the input nor the output."""


class OutputKept(NamedTuple):
    """The output: the next layer keeps the same array as its input, so it costs nothing more."""

    y: Elements


class InputKept(NamedTuple):
    """The input, where the derivative cannot be read off the output."""

    x: Elements


def identity_definition(x: Elements) -> Elements:
    """Identity, y = x: the "no activation" of an output layer.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1, so
        dx = dy

    Keeps nothing.

    Raises:
        TypeError: x is not floating point.

    Source: R. Kumar, "Homework 1: Backprop", 2022 (the output function g of the regression).

    Example:
        >>> print(jaxnn.identity(jnp.array([-1.0, 2.0])))
        [-1.  2.]
    """
    return x


def identity_fwd(x):
    """y = x."""
    return x, NothingKept()


def identity_bwd(residuals, dy):
    """dx = dy."""
    return (dy,)


def sigmoid_definition(x: Elements) -> Elements:
    """Logistic sigmoid, y = σ(x) = 1/(1 + e⁻ˣ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = e⁻ˣ/(1 + e⁻ˣ)² = y·(1 − y), so
        dx = y·(1 − y)·dy

    Keeps y: y' is a polynomial in it, where x would cost an exponential again.

    Raises:
        TypeError: x is not floating point.

    Source: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "Sigmoid".

    Example:
        >>> print(jaxnn.sigmoid(jnp.array([0.0, 100.0])))
        [0.5 1. ]
    """
    return jax.nn.sigmoid(x)


def sigmoid_fwd(x):
    """y = σ(x)."""
    y = jax.nn.sigmoid(x)
    return y, OutputKept(y)


def sigmoid_bwd(residuals, dy):
    """dx = y·(1 − y)·dy."""
    (y,) = residuals
    return (y * (1 - y) * dy,)


def tanh_definition(x: Elements) -> Elements:
    """Hyperbolic tangent, y = (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, by the quotient rule:
        y' = ((eˣ + e⁻ˣ)² − (eˣ − e⁻ˣ)²)/(eˣ + e⁻ˣ)² = 1 − y², so
        dx = (1 − y²)·dy = (1 − y)·(1 + y)·dy

    The product does not lose digits near |y| = 1, where y² would be rounded first.

    Keeps y: y' is a polynomial in it.

    Raises:
        TypeError: x is not floating point.

    Source: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "Tanh"; the quotient of
    exponentials printed there overflows at |x| = 1000, `jnp.tanh` does not.

    Example:
        >>> print(jaxnn.tanh(jnp.array([0.0, 1000.0])))
        [0. 1.]
    """
    return jnp.tanh(x)


def tanh_fwd(x):
    """y = tanh x."""
    y = jnp.tanh(x)
    return y, OutputKept(y)


def tanh_bwd(residuals, dy):
    """dx = (1 − y)·(1 + y)·dy."""
    (y,) = residuals
    return ((1 - y) * (1 + y) * dy,)


def relu_definition(x: Elements) -> Elements:
    """Rectified linear unit, y = max(0, x).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else 0, with y'(0) = 0 by convention, so
        dx = dy where y > 0, else 0

    Keeps y: y > 0 exactly where x > 0. A NaN stays a NaN; it is not read as "not positive".

    Raises:
        TypeError: x is not floating point.

    Source: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "ReLU".

    Example:
        >>> print(jaxnn.relu(jnp.array([-1.0, 0.0, 2.0])))
        [0. 0. 2.]
    """
    return jnp.where(x <= 0, 0, x)


def relu_fwd(x):
    """y = max(0, x)."""
    y = jnp.where(x <= 0, 0, x)
    return y, OutputKept(y)


def relu_bwd(residuals, dy):
    """dx = dy where y > 0, else 0."""
    (y,) = residuals
    return (jnp.where(y <= 0, 0, dy),)


def leaky_relu_definition(x: Elements, *, slope: float = 0.01) -> Elements:
    """Leaky ReLU, y = x where x > 0, else slope·x.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else slope, with y'(0) = slope by convention, so
        dx = dy where y > 0, else slope·dy

    Keeps y: with slope ≥ 0, y > 0 exactly where x > 0.

    Args:
        x: the input.
        slope: y' where x ≤ 0, at least 0.

    Raises:
        TypeError: x is not floating point.
        ValueError: slope is negative.

    Source: A. Maas, A. Hannun and A. Ng, "Rectifier Nonlinearities Improve Neural Network
    Acoustic Models", 2013, equation 2.

    Example:
        >>> print(jaxnn.leaky_relu(jnp.array([-1.0, 0.0, 2.0]), slope=0.5))
        [-0.5  0.   2. ]
    """
    return jnp.where(x > 0, x, slope * x)


def leaky_relu_fwd(x, *, slope=0.01):
    """y = x where x > 0, else slope·x."""
    y = jnp.where(x > 0, x, slope * x)
    return y, OutputKept(y)


def leaky_relu_bwd(residuals, dy, *, slope=0.01):
    """dx = dy where y > 0, else slope·dy."""
    (y,) = residuals
    return (jnp.where(y > 0, dy, slope * dy),)


def elu_definition(x: Elements, *, alpha: float = 1.0) -> Elements:
    """Exponential linear unit, y = x where x > 0, else α·(eˣ − 1).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = 1 where x > 0, else α·eˣ = y + α, with y'(0) = α by convention, so
        dx = dy where y > 0, else (y + α)·dy

    Keeps y: with α > 0, y > 0 exactly where x > 0, and no exponential is needed again.

    Args:
        x: the input.
        alpha: −y for x → −∞, above 0.

    Raises:
        TypeError: x is not floating point.
        ValueError: alpha is not positive.

    Source: D.-A. Clevert, T. Unterthiner and S. Hochreiter, "Fast and Accurate Deep Network
    Learning by Exponential Linear Units", 2016, equation 15.

    Example:
        >>> print(jaxnn.elu(jnp.array([-100.0, 0.0, 2.0]), alpha=0.5))
        [-0.5  0.   2. ]
    """
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


def elu_fwd(x, *, alpha=1.0):
    """y = x where x > 0, else α·(eˣ − 1)."""
    y = jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))
    return y, OutputKept(y)


def elu_bwd(residuals, dy, *, alpha=1.0):
    """dx = dy where y > 0, else (y + α)·dy."""
    (y,) = residuals
    return (jnp.where(y > 0, dy, (y + alpha) * dy),)


def softplus_definition(x: Elements) -> Elements:
    """Softplus, y = log(1 + eˣ), the smooth ReLU.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = eˣ/(1 + eˣ) = σ(x), so
        dx = σ(x)·dy

    σ(x) is e/(1 + e) for x < 0 and 1/(1 + e) for x > 0, with the e = e^(−|x|) of the forward:
    no exponential of a positive number, and all digits at both ends.

    Keeps x: 1 − e⁻ʸ would do with y, but loses its digits where y is small.

    Raises:
        TypeError: x is not floating point.

    Source: C. Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option
    Pricing", 2000, section 3.

    Example:
        >>> print(jaxnn.softplus(jnp.array([-1000.0, 1000.0])))
        [   0. 1000.]
    """
    return jnp.logaddexp(x, jnp.zeros_like(x))


def softplus_fwd(x):
    """y = max(0, x) + log(1 + e^(−|x|)): no exponential of a positive number."""
    y = jnp.where(x <= 0, 0, x) + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return y, InputKept(x)


def softplus_bwd(residuals, dy):
    """dx = σ(x)·dy."""
    (x,) = residuals
    e = jnp.exp(-jnp.abs(x))
    return (jnp.where(x > 0, 1, e) / (1 + e) * dy,)


def silu_definition(x: Elements) -> Elements:
    """Sigmoid linear unit (swish), y = x·σ(x).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with s = σ(x) and s' = s·(1 − s):
        y' = s + x·s·(1 − s) = s·(1 + x·(1 − s)), so
        dx = s·(1 + x·(1 − s))·dy

    Keeps x: y falls and rises again, so x cannot be read off it; s is recomputed.

    Raises:
        TypeError: x is not floating point.

    Source: S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-Weighted Linear Units for Neural Network
    Function Approximation in Reinforcement Learning", 2018, equations 5 and 7.

    Example:
        >>> print(jaxnn.silu(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    return x * jax.nn.sigmoid(x)


def silu_fwd(x):
    """y = x·σ(x)."""
    z = at_least_float32(x)
    return (z * jax.nn.sigmoid(z)).astype(x.dtype), InputKept(x)


def silu_bwd(residuals, dy):
    """dx = s·(1 + x·(1 − s))·dy with s = σ(x)."""
    x = at_least_float32(residuals.x)
    s = jax.nn.sigmoid(x)
    return ((s * (1 + x * (1 - s)) * at_least_float32(dy)).astype(dy.dtype),)


def gelu_definition(x: Elements, *, approximate: bool = True) -> Elements:
    """Gaussian error linear unit, y = x·Φ(x), Φ the normal distribution function.

    With `approximate`, Φ(x) ≈ ½·(1 + tanh u) with u = √(2/π)·(x + 0.044715·x³).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, exact, with φ(x) = Φ'(x) = e^(−x²/2)/√(2π):
        y' = Φ(x) + x·φ(x)
    Backward, approximate, with t = tanh u and t' = (1 − t²)·u':
        y' = ½·(1 + t) + ½·x·(1 − t²)·u',   u' = √(2/π)·(1 + 3·0.044715·x²)
    and in both
        dx = y'·dy

    Beyond |x| = 10, where 1 − t² is 0 to the last digit, x² is taken as 100: it must not overflow.

    Keeps x: y falls and rises again, so x cannot be read off it.

    Args:
        x: the input.
        approximate: the tanh form (the default of `jax.nn.gelu`) or the exact one.

    Raises:
        TypeError: x is not floating point, or approximate is not a bool.

    Source: D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, section 2.

    Example:
        >>> print(jaxnn.gelu(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    if approximate:
        return 0.5 * x * (1 + jnp.tanh(_GELU_SCALE * (x + 0.044715 * x**3)))
    return 0.5 * x * jax.lax.erfc(-x / math.sqrt(2))


def gelu_fwd(x, *, approximate=True):
    """y = x·Φ(x)."""
    z = at_least_float32(x)
    if approximate:
        y = 0.5 * z * (1 + jnp.tanh(_gelu_u(z)))
    else:
        y = 0.5 * z * jax.lax.erfc(-z / math.sqrt(2))
    return y.astype(x.dtype), InputKept(x)


def gelu_bwd(residuals, dy, *, approximate=True):
    """dx = (Φ(x) + x·Φ'(x))·dy."""
    x = at_least_float32(residuals.x)
    if approximate:
        t = jnp.tanh(_gelu_u(x))
        cdf = 0.5 * (1 + t)
        slope_u = _GELU_SCALE * (1 + 3 * 0.044715 * jnp.minimum(x * x, 100))
        pdf = 0.5 * (1 - t * t) * slope_u
    else:
        cdf = 0.5 * jax.lax.erfc(-x / math.sqrt(2))
        pdf = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (((cdf + x * pdf) * at_least_float32(dy)).astype(dy.dtype),)


_GELU_SCALE = math.sqrt(2 / math.pi)


def _gelu_u(x):
    return _GELU_SCALE * x * (1 + 0.044715 * x * x)


def _activation(definition, fwd, bwd, check_options=lambda: None) -> Op:
    """The op of a triple that works element by element and keeps one array like x."""
    name = definition.__name__.removesuffix("_definition")

    def check(x, **options):
        require_floating(name, x=x)
        check_options(**options)

    return Op(
        definition,
        fwd,
        bwd,
        residual_bytes=lambda x, **options: math.prod(x.shape) * x.dtype.itemsize,
        check=check,
        output_shape=lambda residuals: residuals[0].shape,
    )


def _check_slope(*, slope):
    require_number("leaky_relu", "slope", slope, at_least=0)


def _check_alpha(*, alpha):
    require_number("elu", "alpha", alpha, above=0)


def _check_approximate(*, approximate):
    if not isinstance(approximate, bool):
        raise TypeError(f"gelu: option approximate must be True or False, got {approximate!r}")


identity = Op(
    identity_definition,
    identity_fwd,
    identity_bwd,
    residual_bytes=lambda x: 0,
    check=lambda x: require_floating("identity", x=x),
)
sigmoid = _activation(sigmoid_definition, sigmoid_fwd, sigmoid_bwd)
tanh = _activation(tanh_definition, tanh_fwd, tanh_bwd)
relu = _activation(relu_definition, relu_fwd, relu_bwd)
leaky_relu = _activation(leaky_relu_definition, leaky_relu_fwd, leaky_relu_bwd, _check_slope)
elu = _activation(elu_definition, elu_fwd, elu_bwd, _check_alpha)
softplus = _activation(softplus_definition, softplus_fwd, softplus_bwd)
silu = _activation(silu_definition, silu_fwd, silu_bwd)
gelu = _activation(gelu_definition, gelu_fwd, gelu_bwd, _check_approximate)
