"""Gated linear units: one half of the features decides how much of the other half passes."""

from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_floating, require_last_axis
from jaxnn.ops.activations.smooth import normal_cdf, normal_pdf, require_approximate

P = ParamSpec("P")
T = TypeVar("T")

Halves = Float[Array, "*N two_I"]
Half = Float[Array, "*N I"]


class GatedResiduals(NamedTuple):
    """The input; the gate is computed again."""

    x: Halves


def _gated(definition: Callable[P, T]) -> Op[P, T]:
    """The op of a function that makes one component of two."""
    made = Op(definition)

    @made.validate
    def _(x, *, approximate=True):
        require_floating(x=x)
        require_last_axis(x=x)
        require_approximate(approximate)
        if x.shape[-1] % 2:
            raise ValueError(
                f"x has shape {x.shape}; its last axis is cut into two equal halves and must be "
                "even"
            )

    return made


@_gated
def glu(x: Halves) -> Half:
    """Gated linear unit, y = a·σ(b) with a and b the halves of x's last axis.

    Shapes (N batch, any number of axes; I outputs):
        x, dx: (N, 2·I), a = x[…, :I] and b = x[…, I:]
        y, dy: (N, I)

    Backward, with s = σ(b) and s' = s·(1 − s):
        da = s·dy
        db = a·s·(1 − s)·dy
        dx = (da, db) side by side

    Keeps x: both halves are needed. s is computed again: to store it and read it back would cost
    more. A barrier keeps the compiler from doing so where it sees forward and backward at once.

    Raises:
        TypeError: x is not floating point.
        ValueError: x is a single number, or its last axis is odd.

    Source: Y. Dauphin, A. Fan, M. Auli and D. Grangier, "Language Modeling with Gated
    Convolutional Networks", 2017, equation 1.

    Example:
        >>> print(jaxnn.glu(jnp.array([4.0, -2.0, 0.0, 100.0])))
        [ 2. -2.]
    """
    a, b = jnp.split(x, 2, axis=-1)
    return a * jax.nn.sigmoid(b)


@glu.forward
@wide
def glu_fwd(x):
    """y = a·σ(b)."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * jax.nn.sigmoid(b), GatedResiduals(x)


@glu.backward
@wide
def glu_bwd(residuals, dy):
    """da = s·dy, db = a·s·(1 − s)·dy with s = σ(b)."""
    a, b = _halves(residuals)
    s = jax.nn.sigmoid(b)
    da = s * dy
    return (_side_by_side(da, a * (1 - s) * da, residuals.x),)


@_gated
def swiglu(x: Halves) -> Half:
    """SwiGLU, y = silu(a)·b with silu(a) = a·σ(a) and a, b the halves of x's last axis.

    Shapes (N batch, any number of axes; I outputs):
        x, dx: (N, 2·I), a = x[…, :I] is the gate and b = x[…, I:]
        y, dy: (N, I)

    Backward, with s = σ(a) and silu'(a) = s·(1 + a·(1 − s)), see `silu`:
        da = s·(1 + a·(1 − s))·b·dy
        db = a·s·dy
        dx = (da, db) side by side

    Keeps x: both halves are needed. s is computed again, as in `glu`.

    Raises:
        TypeError: x is not floating point.
        ValueError: x is a single number, or its last axis is odd.

    Source: N. Shazeer, "GLU Variants Improve Transformer", 2020, equation 5; here x holds the two
    products x·W and x·V, so that one product with (W, V) side by side makes both.

    Example:
        >>> print(jaxnn.swiglu(jnp.array([100.0, 0.0, 0.5, 3.0])))
        [50.  0.]
    """
    a, b = jnp.split(x, 2, axis=-1)
    return a * jax.nn.sigmoid(a) * b


@swiglu.forward
@wide
def swiglu_fwd(x):
    """y = a·σ(a)·b."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * jax.nn.sigmoid(a) * b, GatedResiduals(x)


@swiglu.backward
@wide
def swiglu_bwd(residuals, dy):
    """da = s·(1 + a·(1 − s))·b·dy, db = a·s·dy with s = σ(a)."""
    a, b = _halves(residuals)
    s = jax.nn.sigmoid(a)
    return (_side_by_side(s * (1 + a * (1 - s)) * b * dy, a * s * dy, residuals.x),)


@_gated
def geglu(x: Halves, *, approximate: bool = True) -> Half:
    """GEGLU, y = gelu(a)·b with gelu(a) = a·Φ(a) and a, b the halves of x's last axis.

    Shapes (N batch, any number of axes; I outputs):
        x, dx: (N, 2·I), a = x[…, :I] is the gate and b = x[…, I:]
        y, dy: (N, I)

    Backward, with gelu'(a) = Φ(a) + a·Φ'(a), see `gelu`:
        da = (Φ(a) + a·Φ'(a))·b·dy
        db = a·Φ(a)·dy
        dx = (da, db) side by side

    Keeps x: both halves are needed. Φ(a) is computed again, as in `glu`.

    Args:
        x: the input.
        approximate: Φ in its tanh form or exact, as in `gelu`.

    Raises:
        TypeError: x is not floating point, or approximate is not a bool.
        ValueError: x is a single number, or its last axis is odd.

    Source: N. Shazeer, "GLU Variants Improve Transformer", 2020, equation 5; here x holds the two
    products x·W and x·V, so that one product with (W, V) side by side makes both.

    Example:
        >>> print(jaxnn.geglu(jnp.array([100.0, 0.0, 0.5, 3.0])))
        [50.  0.]
    """
    a, b = jnp.split(x, 2, axis=-1)
    return jax.nn.gelu(a, approximate=approximate) * b


@geglu.forward
@wide
def geglu_fwd(x, *, approximate=True):
    """y = a·Φ(a)·b."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * normal_cdf(a, approximate) * b, GatedResiduals(x)


@geglu.backward
@wide
def geglu_bwd(residuals, dy, *, approximate=True):
    """da = (Φ(a) + a·Φ'(a))·b·dy, db = a·Φ(a)·dy."""
    a, b = _halves(residuals)
    cdf = normal_cdf(a, approximate)
    slope = cdf + a * normal_pdf(a, cdf, approximate)
    return (_side_by_side(slope * b * dy, a * cdf * dy, residuals.x),)


def _halves(residuals):
    """a and b, behind a barrier that keeps the compiler from saving the gate."""
    return jnp.split(lax.optimization_barrier(residuals.x), 2, axis=-1)


def _side_by_side(da, db, x):
    """(da, db) along the last axis of dx.

    Stacked along an axis of their own, the two are written in one pass; `jnp.concatenate` would
    first store each of them.
    """
    return jnp.stack([da, db], axis=-2).reshape(x.shape)
