"""The linear layer, y = x·W + b."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.example_gradients import Outer, places, sum_over_places
from jaxnn.op import op
from jaxnn.ops._common.compiler import transposed_product
from jaxnn.ops._common.numerics import contract
from jaxnn.ops._common.validation import describe, require_params

Params = dict[str, Float[Array, "..."]]


class LinearResiduals(NamedTuple):
    """The arguments of `linear`."""

    params: Params
    x: Float[Array, "*N I"]


@op
def linear(params: Params, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
    """Linear map of the last axis, y = x·W + b.

    Shapes:
        N batch, any number of axes or none; I inputs; O outputs
        params: {"w": (I, O), "b": (O,)}; "b" is optional
        x, dx:  (N, I)
        y, dy:  (N, O)

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with ẏ = x·Ẇ + ḃ + ẋ·W:
        dW = xᵀ·dy      (I, O)     ⟨dy, x·Ẇ⟩ = ⟨xᵀ·dy, Ẇ⟩
        db = Σₙ dy      (O,)       every row n has the same b
        dx = dy·Wᵀ      (N, I)     ⟨dy, ẋ·W⟩ = ⟨dy·Wᵀ, ẋ⟩

    For example n, with T places that share W, dWₙ = Xₙᵀ·dYₙ and
        ‖dWₙ‖² = Σₜₛ (Xₙ·Xₙᵀ)ₜₛ·(dYₙ·dYₙᵀ)ₜₛ,  which is ‖xₙ‖²·‖dyₙ‖² for T = 1

    dW carries no 1/N: a mean over the batch has already put it into dy.

    Saves x and the params. Neither x nor W can be recomputed, and saving them copies nothing.

    Implementation notes:
        The batch axes are contracted without merging them, which would gather a sharded batch on
        every device. Products of float16 and bfloat16 accumulate in float32. With one batch axis,
        dW is computed as (dyᵀ·x)ᵀ; see `transposed_product`.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, or params has keys other than "w" and "b".

    Reference: J. Johnson, "Backpropagation for a Linear Layer", Stanford CS231n, 2017.

    Example:
        >>> params = {"w": jnp.array([[0.5, -1.0], [1.5, 0.0]]), "b": jnp.array([0.1, 0.2])}
        >>> print(jaxnn.linear(params, jnp.array([1.0, 2.0])))
        [ 3.6 -0.8]
    """
    y = x @ params["w"]
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@linear.validate
def require_linear(params, x) -> None:
    """Raise unless `params` are those of a linear map and `x` fits it."""
    require_params(params, ["w"], ["b"], x=x)
    w_shape = params["w"].shape
    if len(w_shape) != 2:
        raise ValueError(f"params['w'] must be (inputs, outputs), got shape {w_shape}")
    if "b" in params and params["b"].shape != w_shape[1:]:
        raise ValueError(
            f"params['b'] has shape {params['b'].shape} but params['w'] has shape {w_shape}: "
            f"b must be ({w_shape[1]},)"
        )
    if x.ndim == 0 or x.shape[-1] != w_shape[0]:
        raise ValueError(
            f"x is {describe(x)} but params['w'] has shape {w_shape}: the last axis of x must be "
            f"{w_shape[0]}"
        )


@linear.forward
def linear_fwd(params, x):
    """y = x·W + b, in one accumulator."""
    y = contract(x, params["w"], [x.ndim - 1], [0])
    if "b" in params:
        y = y + jnp.broadcast_to(params["b"].astype(y.dtype), y.shape)
    return y, LinearResiduals(params, x)


@linear.backward
def linear_bwd(residuals, dy):
    """dW = xᵀ·dy, db = Σₙ dy, dx = dy·Wᵀ."""
    dy, dx = linear_bwd_input(residuals, dy)
    return linear_bwd_params(residuals, dy), dx


@linear.backward_input
def linear_bwd_input(residuals, dy):
    """dx = dy·Wᵀ; the gradients of the params need dy itself."""
    return dy, contract(dy, residuals.params["w"], [dy.ndim - 1], [1])


@linear.backward_params
def linear_bwd_params(residuals, dy):
    """dW = xᵀ·dy, db = Σₙ dy."""
    params, x = residuals
    batch = range(x.ndim - 1)
    if x.ndim == 2:
        dparams = {"w": transposed_product(contract(dy, x, batch, batch))}
    else:
        dparams = {"w": contract(x, dy, batch, batch)}
    if "b" in params:
        dparams["b"] = jnp.sum(dy, axis=batch, dtype=dparams["w"].dtype)
    return dparams


@linear.backward_examples
def linear_bwd_examples(residuals, dy, *, examples_axis):
    """dWₙ = Xₙᵀ·dYₙ, dbₙ = Σₜ dyₙₜ."""
    params, x = residuals
    dy = places(dy, examples_axis)
    gradients = {"w": Outer(places(x, examples_axis), dy)}
    if "b" in params:
        gradients["b"] = sum_over_places(dy, [1])
    return gradients
