"""Activations with parameters that are trained: PReLU and dynamic tanh."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.example_gradients import require_examples_axis, sum_over_places
from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_params

Params = dict[str, Float[Array, "..."]]
Features = Float[Array, "*N C"]


class PReLUResiduals(NamedTuple):
    """The arguments."""

    params: Params
    x: Features


class DynamicTanhResiduals(NamedTuple):
    """The arguments; of the bias, only its presence matters."""

    params: Params
    x: Features


@op
def prelu(params: Params, x: Features) -> Features:
    """Parametric ReLU, y = x where x > 0, else a·x, with one slope a or one for each feature.

    Shapes:
        N batch, any number of axes or none; C features
        params: {"slope": a, () or (C,)}
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨da, ȧ⟩ + ⟨dx, ẋ⟩ with ẏ = ẋ where x > 0, else a·ẋ + x·ȧ, and the slope
    a at 0 by convention:
        dx = dy where x > 0, else a·dy
        da = Σ x·dy where x ≤ 0        over N, or over N and C

    Saves x and the params. A slope may be negative, so y does not determine the sign of x.

    Args:
        params: a.
        x: the input.

    Raises:
        TypeError: an array is not floating point.
        ValueError: params has keys other than "slope", or its shape is neither () nor (C,).

    Reference: K. He, X. Zhang, S. Ren and J. Sun, "Delving Deep into Rectifiers", 2015, equations 1
    and 3.

    Example:
        >>> params = {"slope": jnp.array([0.25, 0.5, 2.0])}
        >>> print(jaxnn.prelu(params, jnp.array([-1.0, 3.0, -1.0])))
        [-0.25  3.   -2.  ]
    """
    return jnp.where(x > 0, x, jnp.broadcast_to(params["slope"], x.shape) * x)


@prelu.validate
def _(params, x):
    require_params(params, ["slope"], x=x)
    _require_features(x)
    if params["slope"].shape not in ((), x.shape[-1:]):
        raise ValueError(
            f"params['slope'] has shape {params['slope'].shape}; it must be () or, one for each "
            f"feature, {x.shape[-1:]}"
        )


@prelu.forward
@wide
def prelu_fwd(params, x):
    """y = x where x > 0, else a·x."""
    return jnp.where(x > 0, x, _over_rows(params["slope"], x) * x), PReLUResiduals(params, x)


@prelu.backward
def prelu_bwd(residuals, dy):
    """dx = dy where x > 0, else a·dy; da = Σ x·dy where x ≤ 0."""
    dy, dx = prelu_bwd_input(residuals, dy)
    return prelu_bwd_params(residuals, dy), dx


@prelu.backward_input
@wide
def prelu_bwd_input(residuals, dy):
    """dx = dy where x > 0, else a·dy; the gradient of a needs dy itself."""
    params, x = residuals
    return dy, jnp.where(x > 0, dy, _over_rows(params["slope"], x) * dy)


@prelu.backward_params
@wide
def prelu_bwd_params(residuals, dy):
    """da = Σ x·dy where x ≤ 0."""
    params, x = residuals
    summed = range(x.ndim if params["slope"].ndim == 0 else x.ndim - 1)
    return {"slope": jnp.sum(jnp.where(x > 0, 0, x) * dy, axis=tuple(summed))}


@prelu.backward_examples
@wide
def prelu_bwd_examples(residuals, dy, *, examples_axis):
    """daₙ = Σ xₙ·dyₙ where xₙ ≤ 0."""
    params, x = residuals
    terms = jnp.where(x > 0, 0, x) * dy
    return {"slope": _sum_over_places(terms, params["slope"], examples_axis)}


@op
def dynamic_tanh(params: Params, x: Features) -> Features:
    """Dynamic tanh, y = γ·tanh(α·x) + β: a layer norm without statistics.

    Shapes:
        N batch, any number of axes or none; C features
        params: {"alpha": α (), "scale": γ (C,), "bias": β (C,)}; scale and bias are optional
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dα, α̇⟩ + ⟨dγ, γ̇⟩ + ⟨dβ, β̇⟩ + ⟨dx, ẋ⟩ with t = tanh(α·x) and
    ẏ = γ̇·t + β̇ + γ·(1 − t²)·(α̇·x + α·ẋ). With u = γ·(1 − t²)·dy, the gradient of α·x:
        dx = α·u
        dα = Σₙ Σ_c x·u
        dγ = Σₙ t·dy
        dβ = Σₙ dy

    Saves x and the params; t is recomputed.

    Implementation notes:
        u is (g + g·t)·(1 − t) with g = γ·dy. In this form the compiler computes it once for both of
        its uses; from (1 − t)·(1 + t)·g it makes two arrays, 100 MB of temporary memory at
        (4096, 3072).

    Args:
        params: α, γ and β.
        x: the input.

    Raises:
        TypeError: an array is not floating point.
        ValueError: params has other keys, or the shapes do not fit.

    Reference: J. Zhu, X. Chen, K. He, Y. LeCun and Z. Liu, "Transformers without Normalization",
    2025, equation 1.

    Example:
        >>> params = {"alpha": jnp.array(0.5), "scale": jnp.ones(3), "bias": jnp.zeros(3)}
        >>> print(jaxnn.dynamic_tanh(params, jnp.array([-100.0, 0.0, 100.0])))
        [-1.  0.  1.]
    """
    y = jnp.tanh(jnp.broadcast_to(params["alpha"], x.shape) * x)
    if "scale" in params:
        y = jnp.broadcast_to(params["scale"], x.shape) * y
    return y + jnp.broadcast_to(params["bias"], x.shape) if "bias" in params else y


@dynamic_tanh.validate
def _(params, x):
    require_params(params, ["alpha"], ["scale", "bias"], x=x)
    _require_features(x)
    for name, array in params.items():
        shape = () if name == "alpha" else x.shape[-1:]
        if array.shape != shape:
            raise ValueError(f"params[{name!r}] has shape {array.shape}; it must be {shape}")


@dynamic_tanh.forward
@wide
def dynamic_tanh_fwd(params, x):
    """y = γ·tanh(α·x) + β."""
    y = jnp.tanh(params["alpha"] * x)
    if "scale" in params:
        y = _over_rows(params["scale"], x) * y
    if "bias" in params:
        y = y + _over_rows(params["bias"], x)
    return y, DynamicTanhResiduals(params, x)


@dynamic_tanh.backward
def dynamic_tanh_bwd(residuals, dy):
    """dx = α·u, dα = Σ x·u, dγ = Σₙ t·dy, dβ = Σₙ dy."""
    deltas, dx = dynamic_tanh_bwd_input(residuals, dy)
    return dynamic_tanh_bwd_params(residuals, deltas), dx


@dynamic_tanh.backward_input
@wide
def dynamic_tanh_bwd_input(residuals, dy):
    """dx = α·u with u = γ·(1 − t²)·dy; the gradients of the params need dy and u."""
    params, x = residuals
    t = jnp.tanh(params["alpha"] * x)
    g = _over_rows(params["scale"], dy) * dy if "scale" in params else dy
    u = (g + g * t) * (1 - t)
    return (dy, u), params["alpha"] * u


@dynamic_tanh.backward_params
@wide
def dynamic_tanh_bwd_params(residuals, deltas):
    """dα = Σ x·u, dγ = Σₙ t·dy, dβ = Σₙ dy."""
    params, x = residuals
    dy, u = deltas
    batch = tuple(range(x.ndim - 1))
    dparams = {"alpha": jnp.sum(x * u)}
    if "scale" in params:
        dparams["scale"] = jnp.sum(jnp.tanh(params["alpha"] * x) * dy, axis=batch)
    if "bias" in params:
        dparams["bias"] = jnp.sum(dy, axis=batch)
    return dparams


@dynamic_tanh.backward_examples
@wide
def dynamic_tanh_bwd_examples(residuals, deltas, *, examples_axis):
    """dαₙ = Σ xₙ·uₙ, dγₙ = Σₜ t·dyₙ, dβₙ = Σₜ dyₙ."""
    params, x = residuals
    dy, u = deltas
    terms = {"alpha": x * u, "scale": jnp.tanh(params["alpha"] * x) * dy, "bias": dy}
    return {
        name: _sum_over_places(terms[name], param, examples_axis) for name, param in params.items()
    }


def _sum_over_places(terms, parameter, examples_axis):
    """The sum of the terms of each example, for one parameter per feature or a single one."""
    require_examples_axis(terms.ndim - 1, examples_axis)
    kept = {examples_axis} | ({terms.ndim - 1} if parameter.ndim else set())
    return sum_over_places(terms, (a for a in range(terms.ndim) if a not in kept))


def _require_features(x) -> None:
    """Raise unless x has an axis of features."""
    if x.ndim == 0:
        raise ValueError("x is a single number; its last axis must hold the features")


def _over_rows(parameter, x):
    """A parameter broadcast over the rows of x."""
    return jnp.broadcast_to(parameter, x.shape)
