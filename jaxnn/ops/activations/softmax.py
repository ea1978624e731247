"""Softmax and its logarithm."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.labels import bytes_of
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import require_axis, require_floating

Logits = Float[Array, "*shape"]


class SoftmaxResiduals(NamedTuple):
    """The probabilities."""

    p: Logits


class LogSoftmaxResiduals(NamedTuple):
    """The exponentials e^(x − max x), and their sum in at least float32."""

    exponentials: Logits
    total: Float[Array, "..."]


def softmax_definition(x: Logits, *, axis: int = -1) -> Logits:
    """Softmax along one axis, pᵢ = e^(xᵢ)/Σⱼ e^(xⱼ).

    Shapes:
        x, p, dx, dp: any, all the same

    Backward, from ∂pᵢ/∂xⱼ = pᵢ·(δᵢⱼ − pⱼ), the Jacobian diag(p) − p·pᵀ:
        dxⱼ = Σᵢ dpᵢ·pᵢ·(δᵢⱼ − pⱼ) = pⱼ·(dpⱼ − Σᵢ pᵢ·dpᵢ)
        dx  = p ⊙ (dp − p·dp)
    One product and one sum for each row: the K×K Jacobian is never built. The sum is negated
    while it is one number a row, which lets the compiler add it in one pass over dp and p.

    Keeps p, the output: everything above is written in it. Sums run in at least float32.

    Args:
        x: the logits.
        axis: the axis of the classes.

    Raises:
        TypeError: x is not floating point, or axis is not an integer.
        ValueError: x has no such axis, or it is empty.

    Source: R. B. Aeen's summary, stage 2 (the activation derivative); J. Bridle, "Probabilistic
    Interpretation of Feedforward Classification Network Outputs", 1990, equation 13.

    Example:
        >>> print(jaxnn.softmax(jnp.array([[0.0, 0.0], [1e4, 0.0]])))
        [[0.5 0.5]
         [1.  0. ]]
    """
    shifted = jnp.exp(x - lax.stop_gradient(jnp.max(x, axis, keepdims=True)))
    return shifted / jnp.sum(shifted, axis, keepdims=True)


def softmax_fwd(x, *, axis=-1):
    """p = e^(x − max x)/Σ e^(x − max x)."""
    z = at_least_float32(x)
    shifted = jnp.exp(z - lax.stop_gradient(jnp.max(z, axis, keepdims=True)))
    p = (shifted / jnp.sum(shifted, axis, keepdims=True)).astype(x.dtype)
    return p, SoftmaxResiduals(p)


def softmax_bwd(residuals, dy, *, axis=-1):
    """dx = p ⊙ (dy − p·dy)."""
    p, dp = at_least_float32(residuals.p), at_least_float32(dy)
    dx = p * (dp + -jnp.sum(p * dp, axis, keepdims=True))
    return (dx.astype(dy.dtype),)


def log_softmax_definition(x: Logits, *, axis: int = -1) -> Logits:
    """Logarithm of the softmax along one axis, yᵢ = xᵢ − log Σⱼ e^(xⱼ).

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, from ∂yᵢ/∂xⱼ = δᵢⱼ − pⱼ with p = eʸ:
        dxⱼ = Σᵢ dyᵢ·(δᵢⱼ − pⱼ) = dyⱼ − pⱼ·Σᵢ dyᵢ
    and p = e/Σe with the e = e^(x − max x) of the forward. The sum is divided and negated while it
    is one number a row, as in `softmax`.

    Keeps the e, and their sum in at least float32: with the output alone, p = eʸ would cost the
    exponentials again, and in half precision their digits.

    Args:
        x: the logits.
        axis: the axis of the classes.

    Raises:
        TypeError: x is not floating point, or axis is not an integer.
        ValueError: x has no such axis, or it is empty.

    Source: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "LogSumExp".

    Example:
        >>> print(jaxnn.log_softmax(jnp.array([1e4, 0.0])))
        [     0. -10000.]
    """
    shifted = x - lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


def log_softmax_fwd(x, *, axis=-1):
    """y = (x − max x) − log Σ e^(x − max x)."""
    z = at_least_float32(x)
    shifted = z - lax.stop_gradient(jnp.max(z, axis, keepdims=True))
    exponentials = jnp.exp(shifted)
    total = jnp.sum(exponentials, axis, keepdims=True)
    log_p = (shifted - jnp.log(total)).astype(x.dtype)
    return log_p, LogSoftmaxResiduals(exponentials.astype(x.dtype), total)


def log_softmax_bwd(residuals, dy, *, axis=-1):
    """dx = dy − e·(Σ dy/Σ e)."""
    e, dlog_p = at_least_float32(residuals.exponentials), at_least_float32(dy)
    dx = dlog_p + e * (-jnp.sum(dlog_p, axis, keepdims=True) / residuals.total)
    return (dx.astype(dy.dtype),)


def _softmax(definition, fwd, bwd, residual_bytes) -> Op:
    """The op of a triple that normalises along one axis."""
    name = definition.__name__.removesuffix("_definition")

    def check(x, *, axis):
        require_floating(name, x=x)
        require_axis(name, x, axis)

    return Op(
        definition,
        fwd,
        bwd,
        residual_bytes=residual_bytes,
        check=check,
        output_shape=lambda residuals: residuals[0].shape,
    )


def _bytes_with_total(x, *, axis) -> int:
    rows = math.prod(x.shape) // x.shape[axis]
    return bytes_of(x) + rows * accumulator(x.dtype).itemsize


softmax = _softmax(softmax_definition, softmax_fwd, softmax_bwd, lambda x, *, axis: bytes_of(x))
log_softmax = _softmax(log_softmax_definition, log_softmax_fwd, log_softmax_bwd, _bytes_with_total)
