"""Smooth activations that work element by element: y = f(x), ẏ = f'(x)·ẋ, dx = f'(x)·dy."""

import math

import jax
import jax.numpy as jnp

from jaxnn.ops._common.compiler import recomputing
from jaxnn.ops._common.elementwise import (
    Elements,
    InputOutputResiduals,
    InputResiduals,
    NoResiduals,
    OutputResiduals,
    elementwise,
)
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import require_floating, require_number


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

    Saves y: y' is a polynomial in it, while from x the exponential would be recomputed.

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

    The product keeps its digits near |y| = 1, where y² would be rounded first.

    Saves y: y' is a polynomial in it.

    Raises:
        TypeError: x is not floating point.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slide "Tanh"; the quotient of
    exponentials printed there overflows at |x| = 1000; `jnp.tanh` does not.

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


@elementwise(slope_of_output=lambda y, beta: 1 - jnp.exp(-beta * y))
def softplus(x: Elements, *, beta: float = 1.0) -> Elements:
    """Softplus, y = log(1 + e^(β·x))/β, the smooth ReLU.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = e^(β·x)/(1 + e^(β·x)) = σ(β·x), so
        dx = σ(β·x)·dy

    σ(β·x) is e/(1 + e) for x < 0 and 1/(1 + e) for x > 0, with the e = e^(−β·|x|) of the forward:
    no exponential of a positive number, and all digits at both ends.

    Saves x: 1 − e^(−β·y) needs only y, but loses its digits where y is small.

    Args:
        x: the input.
        beta: β, how sharply y bends at 0, above 0.

    Raises:
        TypeError: x is not floating point, or beta is not a number.
        ValueError: beta is not positive.

    Reference: C. Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option
    Pricing", 2000, section 3; β as in PyTorch's softplus.

    Example:
        >>> print(jaxnn.softplus(jnp.array([-1000.0, 1000.0])))
        [   0. 1000.]
    """
    beta = max(beta, float(jnp.finfo(x.dtype).tiny))
    return jnp.logaddexp(beta * x, jnp.zeros_like(x)) / beta


@softplus.validate
def _(x, *, beta):
    require_floating(x=x)
    require_number("beta", beta, above=0)


@softplus.forward
@wide
def softplus_fwd(x, *, beta=1.0):
    """y = max(0, x) + log(1 + e^(−β·|x|))/β: no exponential of a positive number."""
    logarithm = jnp.log1p(_exp_of_minus(x, beta))
    if beta != 1:
        logarithm = logarithm / representable(beta, x.dtype)
    return jnp.where(x <= 0, 0, x) + logarithm, InputResiduals(x)


@softplus.backward
@wide
def softplus_bwd(residuals, dy, *, beta=1.0):
    """dx = σ(β·x)·dy."""
    (x,) = residuals
    e = _exp_of_minus(x, beta)
    return (jnp.where(x > 0, 1, e) / (1 + e) * dy,)


@elementwise(slope_of_output=lambda y: -jnp.expm1(y))
def log_sigmoid(x: Elements) -> Elements:
    """Logarithm of the sigmoid, y = log σ(x) = −log(1 + e⁻ˣ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = e⁻ˣ/(1 + e⁻ˣ) = σ(−x), so
        dx = σ(−x)·dy

    y = min(0, x) − log(1 + e) and σ(−x) is 1/(1 + e) for x < 0 and e/(1 + e) for x > 0, with
    e = e^(−|x|), as in `softplus`.

    Saves x: 1 − eʸ needs only y, but loses its digits where y is near 0.

    Raises:
        TypeError: x is not floating point.

    Reference: T. Mikolov et al., "Distributed Representations of Words and Phrases and their
    Compositionality", 2013, equation 4, where it is the loss of a pair of words.

    Example:
        >>> print(jaxnn.log_sigmoid(jnp.array([-1000.0, 1000.0])))
        [-1000.     0.]
    """
    return -jnp.logaddexp(-x, jnp.zeros_like(x))


@log_sigmoid.forward
@wide
def log_sigmoid_fwd(x):
    """y = min(0, x) − log(1 + e^(−|x|))."""
    return jnp.where(x >= 0, 0, x) - jnp.log1p(jnp.exp(-jnp.abs(x))), InputResiduals(x)


@log_sigmoid.backward
@wide
def log_sigmoid_bwd(residuals, dy):
    """dx = σ(−x)·dy."""
    (x,) = residuals
    e = jnp.exp(-jnp.abs(x))
    return (jnp.where(x < 0, 1, e) / (1 + e) * dy,)


@elementwise
def squareplus(x: Elements, *, b: float = 4.0) -> Elements:
    """Squareplus, y = (x + √(x² + b))/2, a smooth ReLU without exponentials.

    Shapes:
        x, y, dx, dy: any, all the same

    With c = √b and r = √(x² + c²), y falls towards 0 like b/(4·|x|) for x → −∞, where the sum
    cancels; there y is computed as c·(c/(r + |x|))/2.

    Backward:
        y' = (1 + x/r)/2 = y/r, so
        dx = (1 − h)·dy where x > 0, else h·dy,   h = (c/r)·(c/(r + |x|))/2 = y'(−|x|)

    Saves x: a y near 0 holds too few digits of x < 0. r is recomputed, from the larger of |x| and
    c, because squares overflow.

    Implementation notes:
        A barrier keeps the compiler from storing r when it compiles forward and backward together;
        see `recomputing`.

    Args:
        x: the input.
        b: how widely y bends at 0, where it is √b/2; above 0.

    Raises:
        TypeError: x is not floating point, or b is not a number.
        ValueError: b is not positive.

    Reference: J. Barron, "Squareplus: A Softplus-Like Algebraic Rectifier", 2021.

    Example:
        >>> print(jaxnn.squareplus(jnp.array([-1.5, 0.0, 1e30])))
        [5.e-01 1.e+00 1.e+30]
    """
    c = max(math.sqrt(b), float(jnp.finfo(x.dtype).tiny))
    unit = jax.lax.stop_gradient(jnp.where(jnp.abs(x) < c, c, jnp.abs(x)))
    x_part, c_part = x / unit, c / unit
    r_part = jnp.sqrt(x_part**2 + c_part**2)
    below = 0.5 * c_part * (c_part / (r_part + jnp.where(x > 0, 0, -x_part)))
    return unit * jnp.where(x > 0, 0.5 * (x_part + r_part), below)


@squareplus.validate
def _(x, *, b):
    require_floating(x=x)
    require_number("b", b, above=0)


@squareplus.forward
@wide
def squareplus_fwd(x, *, b=4.0):
    """y = x/2 + r/2 where x > 0, else c·(c/(r + |x|))/2."""
    size, c, r = _size_c_r(x, b)
    return jnp.where(x > 0, 0.5 * x + 0.5 * r, 0.5 * c * (c / (r + size))), InputResiduals(x)


@squareplus.backward
@recomputing
@wide
def squareplus_bwd(residuals, dy, *, b=4.0):
    """dx = (1 − h)·dy where x > 0, else h·dy, with h = (c/r)·(c/(r + |x|))/2."""
    (x,) = residuals
    size, c, r = _size_c_r(x, b)
    h = 0.5 * (c / r) * (c / (r + size))
    return (jnp.where(x > 0, 1 - h, h) * dy,)


@elementwise(slope_of_output=lambda y: (1 - jnp.abs(y)) ** 2)
def softsign(x: Elements) -> Elements:
    """Softsign, y = x/(1 + |x|).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward:
        y' = (1 + |x| − x·sign x)/(1 + |x|)² = 1/(1 + |x|)², so
        dx = dy/(1 + |x|)²

    Saves x: y' as a function of y, (1 − |y|)², loses digits where |y| is near 1.

    Raises:
        TypeError: x is not floating point.

    Reference: J. Turian, J. Bergstra and Y. Bengio, "Quadratic Features and Deep Architectures for
    Chunking", 2009.

    Example:
        >>> print(jaxnn.softsign(jnp.array([-1.0, 0.0, 3.0])))
        [-0.5   0.    0.75]
    """
    return x / (1 + jnp.abs(x))


@softsign.forward
@wide
def softsign_fwd(x):
    """y = x/(1 + |x|)."""
    return x / (1 + jnp.abs(x)), InputResiduals(x)


@softsign.backward
@wide
def softsign_bwd(residuals, dy):
    """dx = dy/(1 + |x|)², divided twice: the square would overflow where dx is finite."""
    (x,) = residuals
    per_size = 1 / (1 + jnp.abs(x))
    return (per_size * (per_size * dy),)


@elementwise
def tanh_shrink(x: Elements) -> Elements:
    """Tanh shrinkage, y = x − tanh x.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with tanh' = 1 − tanh²:
        y' = tanh² x, so
        dx = tanh² x·dy

    Near 0 the difference cancels, y = x³/3 − …; where |x| < 1 it is a quotient of polynomials, from
    the continued fraction tanh x = x/(1 + x²/(3 + x²/(5 + …))) truncated after the 17: accurate to
    2 ulp in float64.

    Saves x: x − y, which is tanh x, has too few digits where x is large.

    Raises:
        TypeError: x is not floating point.

    Reference: PyTorch's tanhshrink; the continued fraction is J. H. Lambert's, 1768.

    Example:
        >>> print(jaxnn.tanh_shrink(jnp.array([0.0, 100.0])))
        [ 0. 99.]
    """
    return x - jnp.tanh(x)


@tanh_shrink.forward
@wide
def tanh_shrink_fwd(x):
    """y = x − tanh x."""
    small = jnp.abs(x) < 1
    square = jnp.where(small, x * jnp.where(small, x, 0), 0)
    numerator, denominator = _TANH_SHRINK
    quotient = x * (square * (_polynomial(numerator, square) / _polynomial(denominator, square)))
    return jnp.where(small, quotient, x - jnp.tanh(x)), InputResiduals(x)


@tanh_shrink.backward
@wide
def tanh_shrink_bwd(residuals, dy):
    """dx = tanh² x·dy, multiplied twice: the square alone may vanish."""
    t = jnp.tanh(residuals.x)
    return (t * (t * dy),)


@elementwise
def silu(x: Elements) -> Elements:
    """Sigmoid linear unit (swish), y = x·σ(x).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with s = σ(x) and s' = s·(1 − s):
        y' = s + x·s·(1 − s) = s·(1 + x·(1 − s)), so
        dx = s·(1 + x·(1 − s))·dy

    Saves x: y is not monotonic, so it does not determine x; s is recomputed.

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
def quick_gelu(x: Elements) -> Elements:
    """Sigmoid approximation of GELU, y = x·σ(a·x) with a = 1.702.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with s = σ(a·x) and s' = a·s·(1 − s):
        y' = s + x·a·s·(1 − s) = s·(1 + a·x·(1 − s)), so
        dx = s·(1 + a·x·(1 − s))·dy

    Beyond |x| = 1000, where s is 0 or 1 even in float64, a·x is evaluated at 1000 to avoid
    overflow.

    Saves x: y is not monotonic, so it does not determine x; s is recomputed.

    Raises:
        TypeError: x is not floating point.

    Reference: D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, section 2;
    the activation of CLIP.

    Example:
        >>> print(jaxnn.quick_gelu(jnp.array([-1000.0, 0.0, 1000.0])))
        [  -0.    0. 1000.]
    """
    return x * jax.nn.sigmoid(1.702 * x)


@quick_gelu.forward
@wide
def quick_gelu_fwd(x):
    """y = x·σ(a·x)."""
    return x * jax.nn.sigmoid(1.702 * jnp.clip(x, -1000, 1000)), InputResiduals(x)


@quick_gelu.backward
@wide
def quick_gelu_bwd(residuals, dy):
    """dx = s·(1 + a·x·(1 − s))·dy with s = σ(a·x)."""
    z = 1.702 * jnp.clip(residuals.x, -1000, 1000)
    s = jax.nn.sigmoid(z)
    return (s * (1 + z * (1 - s)) * dy,)


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

    Beyond x = 20, where w is 1 and x·w' is 0 to the last digit, both are evaluated at 20, because
    e² would overflow.

    Saves x: y is not monotonic, so it does not determine x.

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
    |x| = 40, where Φ is 0 or 1 and Φ' is 0 even in float64, x² and x³ are evaluated at 40, because
    they would overflow.

    Saves x and y: Φ(x) = y/x, while a σ or an error function would cost more than reading y,
    which the next layer saves as its input anyway. Near 0, where |x|³ is below the rounding error
    of 1, Φ(x) is ½ + x/√(2π) to the last digit; y/x would be 0/0.

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


_TANH_SHRINK = (
    (44, 12870, 810810, 11486475),
    (45, 13860, 945945, 16216200, 34459425),
)
"""Numerator and denominator of (x − tanh x)/x³, in falling powers of x²; see `tanh_shrink`."""


def _polynomial(coefficients, x):
    """The value of a polynomial, by Horner's rule."""
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _exp_of_minus(x, beta):
    """e^(−β·|x|), whose exponent does not overflow; see `softplus`."""
    size = jnp.abs(x)
    if beta != 1:
        beta = representable(beta, x.dtype)
        size = beta * jnp.minimum(size, representable(1000 / beta, x.dtype))
    return jnp.exp(-size)


def _size_c_r(x, b):
    """|x|, c = √b and √(x² + c²); see `squareplus`."""
    size, c = jnp.abs(x), representable(math.sqrt(b), x.dtype)
    larger = jnp.maximum(size, c)
    ratio = jnp.minimum(size, c) / larger
    return size, c, larger * jnp.sqrt(1 + ratio * ratio)
