"""Softmax and its logarithm."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.validation import require_axis, require_floating

Logits = Float[Array, "*shape"]


class SoftmaxResiduals(NamedTuple):
    """The probabilities."""

    p: Logits


class LogSoftmaxResiduals(NamedTuple):
    """The exponentials e^(x − max x), and their sum in at least float32."""

    exponentials: Logits
    total: Float[Array, "..."]


@op
def softmax(x: Logits, *, axis: int = -1) -> Logits:
    """Softmax along one axis, pᵢ = e^(xᵢ)/Σⱼ e^(xⱼ).

    Shapes:
        x, p, dx, dp: any, all the same

    Backward, from ∂pᵢ/∂xⱼ = pᵢ·(δᵢⱼ − pⱼ), the Jacobian diag(p) − p·pᵀ:
        dxⱼ = Σᵢ dpᵢ·pᵢ·(δᵢⱼ − pⱼ) = pⱼ·(dpⱼ − Σᵢ pᵢ·dpᵢ)
        dx  = p ⊙ (dp − p·dp)

    One product and one sum for each row: the K×K Jacobian is never built.

    Saves p, the output: everything above is written in it. Sums run in at least float32.

    Implementation notes:
        The sum is negated while it is one number for each row, which lets the compiler add it in
        one pass over dp and p.

    Args:
        x: the logits.
        axis: the axis of the classes.

    Raises:
        TypeError: x is not floating point, or axis is not an integer.
        ValueError: x has no such axis, or it is empty.

    Reference: R. B. Aeen's summary, stage 2 (the activation derivative); J. Bridle, "Probabilistic
    Interpretation of Feedforward Classification Network Outputs", 1990, equation 13.

    Example:
        >>> print(jaxnn.softmax(jnp.array([[0.0, 0.0], [1e4, 0.0]])))
        [[0.5 0.5]
         [1.  0. ]]
    """
    e = jnp.exp(x - lax.stop_gradient(jnp.max(x, axis, keepdims=True)))
    return e / jnp.sum(e, axis, keepdims=True)


@softmax.validate
def _(x, *, axis):
    require_floating(x=x)
    require_axis(x, axis)


@softmax.forward
@wide
def softmax_fwd(x, *, axis=-1):
    """p = e^(x − max x)/Σ e^(x − max x)."""
    e = jnp.exp(x - lax.stop_gradient(jnp.max(x, axis, keepdims=True)))
    p = e / jnp.sum(e, axis, keepdims=True)
    return p, SoftmaxResiduals(p)


@softmax.backward
@wide
def softmax_bwd(residuals, dp, *, axis=-1):
    """dx = p ⊙ (dp − p·dp)."""
    (p,) = residuals
    return (p * (dp + -jnp.sum(p * dp, axis, keepdims=True)),)


@op
def log_softmax(x: Logits, *, axis: int = -1) -> Logits:
    """Logarithm of the softmax along one axis, yᵢ = xᵢ − log Σⱼ e^(xⱼ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, from ∂yᵢ/∂xⱼ = δᵢⱼ − pⱼ with p = eʸ:
        dxⱼ = Σᵢ dyᵢ·(δᵢⱼ − pⱼ) = dyⱼ − pⱼ·Σᵢ dyᵢ
    where p = e/Σe with the e = e^(x − max x) of the forward.

    Saves the e, and their sum in at least float32: with the output alone, p = eʸ would cost the
    exponentials again and, in half precision, lose digits.

    Implementation notes:
        The sum of dy is divided and negated while it is one number for each row, as in `softmax`.

    Args:
        x: the logits.
        axis: the axis of the classes.

    Raises:
        TypeError: x is not floating point, or axis is not an integer.
        ValueError: x has no such axis, or it is empty.

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "LogSumExp".

    Example:
        >>> print(jaxnn.log_softmax(jnp.array([1e4, 0.0])))
        [     0. -10000.]
    """
    shifted = x - lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


@log_softmax.validate
def _(x, *, axis):
    require_floating(x=x)
    require_axis(x, axis)


@log_softmax.forward
def log_softmax_fwd(x, *, axis=-1):
    """y = (x − max x) − log Σ e^(x − max x)."""
    z = at_least_float32(x)
    shifted = z - lax.stop_gradient(jnp.max(z, axis, keepdims=True))
    e = jnp.exp(shifted)
    total = jnp.sum(e, axis, keepdims=True)
    return shifted - jnp.log(total), LogSoftmaxResiduals(e.astype(x.dtype), total)


@log_softmax.backward
@wide
def log_softmax_bwd(residuals, dy, *, axis=-1):
    """dx = dy − e·(Σ dy/Σ e)."""
    e, total = residuals
    return (dy + e * (-jnp.sum(dy, axis, keepdims=True) / total),)
