"""The linear layer, y = x·W + b."""

from functools import partial
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import describe, require_floating, require_keys

NARROW = 32  # outputs, up to which dW is faster computed as its transpose

Params = dict[str, Float[Array, "..."]]


class LinearResiduals(NamedTuple):
    """What `linear` keeps: its own arguments."""

    params: Params
    x: Float[Array, "*N I"]


def linear_definition(params: Params, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
    """Linear map of the last axis, y = x·W + b.

    Shapes (N batch, I inputs, O outputs; N may be any number of axes, also none):
        params: {"w": (I, O), "b": (O,)}; without "b" there is no bias
        x, dx:  (N, I)
        y, dy:  (N, O)

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with ẏ = x·Ẇ + ḃ + ẋ·W:
        dW = xᵀ·dy      (I, O)     ⟨dy, x·Ẇ⟩ = ⟨xᵀ·dy, Ẇ⟩
        db = Σₙ dy      (O,)       every row n has the same b
        dx = dy·Wᵀ      (N, I)     ⟨dy, ẋ·W⟩ = ⟨dy·Wᵀ, ẋ⟩

    dW carries no 1/N: a mean over the batch has put it into dy already. With few outputs, as in
    a classifier's last layer, it is computed as (dyᵀ·x)ᵀ: a product with long rows is several
    times faster on a CPU than one with short rows. A barrier keeps the compiler from turning the
    one into the other; it lies on the flat numbers, which leave no layout to choose.

    Keeps x and the params: x and W are both needed and neither can be recomputed. Nothing is
    copied; b is there for its presence and dtype alone. Products and sums of float16 and bfloat16
    accumulate in float32.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, or params has other keys than "w" and "b".

    Source: J. Johnson, "Backpropagation for a Linear Layer", Stanford CS231n, 2017.

    Example:
        >>> params = {"w": jnp.array([[0.5, -1.0], [1.5, 0.0]]), "b": jnp.array([0.1, 0.2])}
        >>> print(jaxnn.linear(params, jnp.array([1.0, 2.0])))
        [ 3.6 -0.8]
    """
    y = x @ params["w"]
    if "b" in params:
        y = y + jnp.broadcast_to(params["b"], y.shape)
    return y


def linear_fwd(params, x):
    """y = x·W + b in one accumulator, and the arguments themselves."""
    y = lax.dot_general(
        x,
        params["w"],
        (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=accumulator(x.dtype),
    )
    if "b" in params:
        y = y + jnp.broadcast_to(at_least_float32(params["b"]), y.shape)
    return y.astype(x.dtype), LinearResiduals(params, x)


def linear_bwd(residuals, dy):
    """dW = xᵀ·dy, db = Σₙ dy, dx = dy·Wᵀ."""
    params, x = residuals
    summed = accumulator(x.dtype)
    n = prod(x.shape[:-1])
    x_rows, dy_rows = x.reshape(n, x.shape[-1]), dy.reshape(n, dy.shape[-1])
    dw_transposed = lax.dot_general(
        dy_rows, x_rows, (((0,), (0,)), ((), ())), preferred_element_type=summed
    )
    if dy.shape[-1] <= NARROW:
        flat = lax.optimization_barrier(dw_transposed.reshape(-1))
        dw_transposed = flat.reshape(dw_transposed.shape)
    dw = dw_transposed.T
    dx = lax.dot_general(
        dy, params["w"], (((dy.ndim - 1,), (1,)), ((), ())), preferred_element_type=summed
    )
    dparams = {"w": dw.astype(x.dtype)}
    if "b" in params:
        dparams["b"] = jnp.sum(dy_rows, axis=0, dtype=summed).astype(x.dtype)
    return dparams, dx.astype(x.dtype)


def require_linear(op: str, params, x) -> None:
    """`params` are those of a linear map, and `x` fits it."""
    require_keys(op, params, ["w"], ["b"])
    named = {f"params[{name!r}]": array for name, array in params.items()}
    require_floating(op, **named, x=x)
    w_shape = params["w"].shape
    if len(w_shape) != 2:
        raise ValueError(f"{op}: params['w'] must be (inputs, outputs), got shape {w_shape}")
    if "b" in params and params["b"].shape != w_shape[1:]:
        raise ValueError(
            f"{op}: params['b'] has shape {params['b'].shape} but params['w'] has shape "
            f"{w_shape}: b must be ({w_shape[1]},)"
        )
    if x.ndim == 0 or x.shape[-1] != w_shape[0]:
        raise ValueError(
            f"{op}: x is {describe(x)} but params['w'] has shape {w_shape}: the last axis of x "
            f"must be {w_shape[0]}"
        )


def _residual_bytes(params, x):
    return sum(prod(a.shape) * a.dtype.itemsize for a in [*params.values(), x])


linear = Op(
    linear_definition,
    linear_fwd,
    linear_bwd,
    residual_bytes=_residual_bytes,
    check=partial(require_linear, "linear"),
    output_shape=lambda residuals: residuals.x.shape[:-1] + residuals.params["w"].shape[1:],
)
