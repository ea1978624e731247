"""Gated linear units: one half of the features decides how much of the other half passes."""

from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.compiler import recomputing
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_floating, require_last_axis
from jaxnn.ops.activations.smooth import normal_cdf, normal_pdf, require_approximate

P = ParamSpec("P")
T = TypeVar("T")

Halves = Float[Array, "*N two_I"]
Half = Float[Array, "*N I"]


class GatedResiduals(NamedTuple):
    """The input, both halves."""

    x: Halves


def _gated(definition: Callable[P, T]) -> Op[P, T]:
    """Declare an op that makes one component out of two, like `jaxnn.op`."""
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

    Shapes:
        N batch, any number of axes or none; I outputs
        x, dx: (N, 2·I), a = x[…, :I] and b = x[…, I:]
        y, dy: (N, I)

    Backward, from ẏ = s·ȧ + a·s'·ḃ with s = σ(b) and s' = s·(1 − s):
        da = s·dy
        db = a·s·(1 − s)·dy
        dx = (da, db) side by side

    Saves x, both halves of which are needed. s is recomputed: to store it and read it back would
    cost more.

    Implementation notes:
        A barrier keeps the compiler from storing s where it sees forward and backward at once; see
        `recomputing`. da and db are stacked along a new axis, which writes them in one pass;
        `jnp.concatenate` would first store each of them.

    Raises:
        TypeError: x is not floating point.
        ValueError: x is a single number, or its last axis is odd.

    Reference: Y. Dauphin, A. Fan, M. Auli and D. Grangier, "Language Modeling with Gated
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
@recomputing
@wide
def glu_bwd(residuals, dy):
    """da = s·dy, db = a·s·(1 − s)·dy with s = σ(b)."""
    a, b = jnp.split(residuals.x, 2, axis=-1)
    s = jax.nn.sigmoid(b)
    da = s * dy
    return (_side_by_side(da, a * (1 - s) * da),)


@_gated
def swiglu(x: Halves) -> Half:
    """SwiGLU, y = silu(a)·b with silu(a) = a·σ(a) and a, b the halves of x's last axis.

    Shapes:
        N batch, any number of axes or none; I outputs
        x, dx: (N, 2·I), a = x[…, :I] is the gate and b = x[…, I:]
        y, dy: (N, I)

    Backward, from ẏ = silu'(a)·b·ȧ + silu(a)·ḃ with s = σ(a) and silu'(a) = s·(1 + a·(1 − s)),
    see `silu`:
        da = s·(1 + a·(1 − s))·b·dy
        db = a·s·dy
        dx = (da, db) side by side

    Saves x, both halves of which are needed. s is recomputed, as in `glu`.

    Raises:
        TypeError: x is not floating point.
        ValueError: x is a single number, or its last axis is odd.

    Reference: N. Shazeer, "GLU Variants Improve Transformer", 2020, equation 5; here x holds the
    two products x·W and x·V, so that one product with (W, V) side by side makes both.

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
@recomputing
@wide
def swiglu_bwd(residuals, dy):
    """da = s·(1 + a·(1 − s))·b·dy, db = a·s·dy with s = σ(a)."""
    a, b = jnp.split(residuals.x, 2, axis=-1)
    s = jax.nn.sigmoid(a)
    return (_side_by_side(s * (1 + a * (1 - s)) * b * dy, a * s * dy),)


@_gated
def geglu(x: Halves, *, approximate: bool = True) -> Half:
    """GEGLU, y = gelu(a)·b with gelu(a) = a·Φ(a) and a, b the halves of x's last axis.

    Shapes:
        N batch, any number of axes or none; I outputs
        x, dx: (N, 2·I), a = x[…, :I] is the gate and b = x[…, I:]
        y, dy: (N, I)

    Backward, from ẏ = gelu'(a)·b·ȧ + gelu(a)·ḃ with gelu'(a) = Φ(a) + a·Φ'(a), see `gelu`:
        da = (Φ(a) + a·Φ'(a))·b·dy
        db = a·Φ(a)·dy
        dx = (da, db) side by side

    Saves x, both halves of which are needed. Φ(a) is recomputed, as s is in `glu`.

    Args:
        x: the input.
        approximate: Φ in its tanh form or exact, as in `gelu`.

    Raises:
        TypeError: x is not floating point, or approximate is not a bool.
        ValueError: x is a single number, or its last axis is odd.

    Reference: N. Shazeer, "GLU Variants Improve Transformer", 2020, equation 5; here x holds the
    two products x·W and x·V, so that one product with (W, V) side by side makes both.

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
@recomputing
@wide
def geglu_bwd(residuals, dy, *, approximate=True):
    """da = (Φ(a) + a·Φ'(a))·b·dy, db = a·Φ(a)·dy."""
    a, b = jnp.split(residuals.x, 2, axis=-1)
    cdf = normal_cdf(a, approximate)
    slope = cdf + a * normal_pdf(a, cdf, approximate)
    return (_side_by_side(slope * b * dy, a * cdf * dy),)


def _side_by_side(da: Half, db: Half) -> Halves:
    """(da, db) along the last axis, written in one pass; see `glu`."""
    *batch, half = da.shape
    return jnp.stack([da, db], axis=-2).reshape(*batch, 2 * half)
