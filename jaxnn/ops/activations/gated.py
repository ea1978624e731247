"""Gated linear units: one half of the features decides how much of the other half passes."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import require_floating, require_last_axis
from jaxnn.ops.activations.smooth import check_approximate, normal_cdf, normal_pdf

Halves = Float[Array, "*N two_I"]
Half = Float[Array, "*N I"]


class GatedResiduals(NamedTuple):
    """The input; the gate is computed again."""

    x: Halves


def glu_definition(x: Halves) -> Half:
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


def glu_fwd(x):
    """y = a·σ(b)."""
    a, b = jnp.split(at_least_float32(x), 2, axis=-1)
    return (a * jax.nn.sigmoid(b)).astype(x.dtype), GatedResiduals(x)


def glu_bwd(residuals, dy):
    """da = s·dy, db = a·s·(1 − s)·dy with s = σ(b)."""
    a, b, dy = _recomputed(residuals, dy)
    s = jax.nn.sigmoid(b)
    da = s * dy
    return (_side_by_side(da, a * (1 - s) * da, residuals.x),)


def swiglu_definition(x: Halves) -> Half:
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


def swiglu_fwd(x):
    """y = a·σ(a)·b."""
    a, b = jnp.split(at_least_float32(x), 2, axis=-1)
    return (a * jax.nn.sigmoid(a) * b).astype(x.dtype), GatedResiduals(x)


def swiglu_bwd(residuals, dy):
    """da = s·(1 + a·(1 − s))·b·dy, db = a·s·dy with s = σ(a)."""
    a, b, dy = _recomputed(residuals, dy)
    s = jax.nn.sigmoid(a)
    return (_side_by_side(s * (1 + a * (1 - s)) * b * dy, a * s * dy, residuals.x),)


def geglu_definition(x: Halves, *, approximate: bool = True) -> Half:
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


def geglu_fwd(x, *, approximate=True):
    """y = a·Φ(a)·b."""
    a, b = jnp.split(at_least_float32(x), 2, axis=-1)
    return (a * normal_cdf(a, approximate) * b).astype(x.dtype), GatedResiduals(x)


def geglu_bwd(residuals, dy, *, approximate=True):
    """da = (Φ(a) + a·Φ'(a))·b·dy, db = a·Φ(a)·dy."""
    a, b, dy = _recomputed(residuals, dy)
    cdf = normal_cdf(a, approximate)
    slope = cdf + a * normal_pdf(a, cdf, approximate)
    return (_side_by_side(slope * b * dy, a * cdf * dy, residuals.x),)


def _recomputed(residuals, dy):
    """a, b and dy in at least float32, behind a barrier that keeps the gate from being stored."""
    x = at_least_float32(lax.optimization_barrier(residuals.x))
    return *jnp.split(x, 2, axis=-1), at_least_float32(dy)


def _side_by_side(da, db, x):
    """(da, db) along the last axis of dx.

    Stacked along an axis of their own, the two are written in one pass; `jnp.concatenate` would
    first store each of them.
    """
    return jnp.stack([da, db], axis=-2).reshape(x.shape).astype(x.dtype)


def _gated(definition, fwd, bwd, check_options: Callable[..., None] = lambda: None) -> Op:
    """The op of a triple that takes two halves and gives one."""
    name = definition.__name__.removesuffix("_definition")

    def check(x, **options):
        check_options(**options)
        require_floating(name, x=x)
        require_last_axis(name, x=x)
        if x.shape[-1] % 2:
            raise ValueError(
                f"{name}: x has shape {x.shape}; its last axis is cut into two equal halves and "
                "must be even"
            )

    return Op(
        definition,
        fwd,
        bwd,
        residual_bytes=lambda x, **options: math.prod(x.shape) * x.dtype.itemsize,
        check=check,
        output_shape=lambda residuals: (*residuals.x.shape[:-1], residuals.x.shape[-1] // 2),
    )


glu = _gated(glu_definition, glu_fwd, glu_bwd)
swiglu = _gated(swiglu_definition, swiglu_fwd, swiglu_bwd)
geglu = _gated(geglu_definition, geglu_fwd, geglu_bwd, partial(check_approximate, "geglu"))
