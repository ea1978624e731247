"""Vectors divided by their Euclidean norm: weight norm, and rows of length 1."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxnn.op import op
from jaxnn.ops._common.compiler import stored
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import (
    require_axes,
    require_floating,
    require_number,
    require_params,
)

Params = dict[str, Float[Array, "..."]]
Numbers = Float[Array, "..."]
Axes = int | tuple[int, ...]


class WeightNormResiduals(NamedTuple):
    """The params, the largest |v| of each vector, and 1/‖v/largest‖; 1 and 0 for a zero vector."""

    params: Params
    size: Numbers
    shrink: Numbers


class L2NormalizeResiduals(NamedTuple):
    """The argument, the two factors of each vector's divisor, and the mask of where it is ‖x‖."""

    x: Numbers
    size: Numbers
    shrink: Numbers
    is_norm: Bool[Array, "..."]


@op
def weight_norm(params: Params, *, axis: Axes | None = -1) -> Numbers:
    """Weight norm, w = g·v/‖v‖: a weight as the direction of v and a length g for each output.

    The norm of each output runs over all the axes of v but those of the outputs. A vector v = 0
    gives w = 0.

    Shapes:
        I inputs, one or more axes; O outputs, the last axis by default
        params: {"v": (I, O), "g": (O,)}
        w, dw:  (I, O)

    Backward, from ⟨dw, ẇ⟩ = ⟨dg, ġ⟩ + ⟨dv, v̇⟩ of one output. With the direction u = v/‖v‖ and
    d‖v‖ = ⟨u, v̇⟩:
        u̇ = v̇/‖v‖ − v·⟨u, v̇⟩/‖v‖² = (v̇ − u·⟨u, v̇⟩)/‖v‖
        ẇ = ġ·u + g·u̇
    The map from v̇ to u̇ is symmetric, so it is its own transpose:
        dg = ⟨dw, u⟩
        dv = g/‖v‖·(dw − u·⟨u, dw⟩) = g/‖v‖·(dw − u·dg)
    dv is perpendicular to v: a step along it does not shorten v. At v = 0 the gradients are 0.

    Saves the params, and two numbers for each output: the largest |v|, by which v is divided before
    its squares are summed so that none of them overflows or vanishes, and 1/‖v/largest‖.

    Args:
        params: v and g.
        axis: the axis or axes of the outputs, whose sizes are the shape of g; with `None`, one norm
            of the whole v and one number g.

    Raises:
        TypeError: an array is not floating point.
        ValueError: the shapes do not fit, params has other keys, or v has no such axis.

    Reference: T. Salimans and D. Kingma, "Weight Normalization", 2016, equations 2 and 3; PyTorch's
    `weight_norm` with `dim`, whose g has axes of size 1 as well.

    Example:
        >>> params = {"v": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "g": jnp.array([10.0, 7.0])}
        >>> print(jaxnn.weight_norm(params))
        [[6. 0.]
         [8. 7.]]
    """
    v = params["v"]
    named = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    outputs = {a % v.ndim for a in named}
    inputs = tuple(a for a in range(v.ndim) if a not in outputs)
    g = params["g"].reshape([size if a in outputs else 1 for a, size in enumerate(v.shape)])
    return g * textbook_direction(v, inputs)


@weight_norm.validate
def _(params, *, axis):
    require_params(params, ["v", "g"])
    v, g = params["v"], params["g"]
    if axis is not None:
        require_axes(v, axis)
    shape = tuple(v.shape[a] for a in _outputs(v, axis))
    if g.shape != shape:
        raise ValueError(
            f"params['g'] has shape {g.shape} but params['v'] has shape {v.shape}: with "
            f"axis={axis} it must be {shape}, one length for each output"
        )


@weight_norm.forward
@wide
def weight_norm_fwd(params, *, axis=-1):
    """w = g·u."""
    v, g = params["v"], _along(params["g"], params["v"], axis)
    size, length = _size_and_length(v, _inputs(v, axis))
    shrink = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
    size, shrink = stored((size, shrink))
    return v / size * (shrink * g), WeightNormResiduals(params, size, shrink)


@weight_norm.backward
def weight_norm_bwd(residuals, dy, **options):
    """dg = ⟨dw, u⟩, dv = g/‖v‖·(dw − u·dg)."""
    return (weight_norm_bwd_params(residuals, dy, **options),)


@weight_norm.backward_input
def weight_norm_bwd_input(residuals, dy, *, axis=-1):
    """No gradients: the only argument is params, whose gradients need dw itself."""
    return (dy,)


@weight_norm.backward_params
@wide
def weight_norm_bwd_params(residuals, dw, *, axis=-1):
    """dg = ⟨dw, u⟩, dv = g/‖v‖·(dw − u·dg)."""
    params, size, shrink = residuals
    v, g = params["v"], _along(params["g"], params["v"], axis)
    u = v / size * shrink
    dg = jnp.sum(dw * u, axis=_inputs(v, axis), keepdims=True)
    return {"v": (dw - u * dg) * (shrink * g) / size, "g": dg.reshape(params["g"].shape)}


@op
def l2_normalize(
    x: Float[Array, "*shape"], *, axis: Axes = -1, eps: float = 1e-12
) -> Float[Array, "*shape"]:
    """Vectors of length 1, y = x/max(‖x‖, ε), along the last axis or several.

    Shapes:
        x, y, dx, dy: any, all the same

    Backward, with the map of `weight_norm`: where ‖x‖ ≥ ε,
        dx = (dy − y·⟨y, dy⟩)/‖x‖
    and where ‖x‖ < ε, where y = x/ε is linear,
        dx = dy/ε

    Saves x and two numbers for each vector: the largest |x|, by which x is divided before its
    squares are summed so that none of them overflows or vanishes, and 1/‖x/largest‖; ε and 1 where
    ‖x‖ < ε.

    Args:
        x: the vectors.
        axis: the axis or axes of their components.
        eps: ε, above 0. An ε that underflows in the dtype counts as its smallest normal number.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no such axis, or eps is not above 0.

    Reference: PyTorch's `normalize` with p = 2.

    Example:
        >>> print(jaxnn.l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    smallest = max(eps, min(float(jnp.finfo(x.dtype).tiny), 1e-7))  # in float16 a subnormal number
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    scaled = lax.stop_gradient(x) / jnp.where(largest > 0, largest, 1)
    norm = largest * jnp.sqrt(jnp.sum(scaled**2, axis, keepdims=True))
    return jnp.where(norm >= smallest, textbook_direction(x, axis), x / smallest)


@l2_normalize.validate
def _(x, *, axis, eps):
    require_floating(x=x)
    require_axes(x, axis)
    require_number("eps", eps, above=0)


@l2_normalize.forward
@wide
def l2_normalize_fwd(x, *, axis=-1, eps=1e-12):
    """y = x/max(‖x‖, ε)."""
    size, length = _size_and_length(x, axis)
    eps = representable(eps, x.dtype)
    is_norm = size * length >= eps
    size, shrink = stored((jnp.where(is_norm, size, eps), 1 / jnp.where(is_norm, length, 1)))
    return x / size * shrink, L2NormalizeResiduals(x, size, shrink, is_norm)


@l2_normalize.backward
@wide
def l2_normalize_bwd(residuals, dy, *, axis=-1, eps=1e-12):
    """dx = (dy − y·⟨y, dy⟩)/‖x‖, or dy/ε."""
    x, size, shrink, is_norm = residuals
    y = x / size * shrink
    inside = jnp.where(is_norm, jnp.sum(y * dy, axis=axis, keepdims=True), 0)
    return ((dy - y * inside) * shrink / size,)


def textbook_direction(x: Numbers, axis: Axes) -> Numbers:
    """x/‖x‖ for the definitions, with derivative 0 at 0."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    scaled = x / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(scaled**2, axis, keepdims=True)
    return jnp.where(squares == 0, 0, scaled / jnp.sqrt(jnp.where(squares == 0, 1, squares)))


def _size_and_length(x: Numbers, axis: Axes) -> tuple[Numbers, Numbers]:
    """The largest |x| of each vector, and ‖x/largest‖; 1 and 0 for a zero vector."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    size = jnp.where(largest > 0, largest, 1)
    squares = jnp.sum((x / size) ** 2, axis=axis, keepdims=True)
    return size, jnp.where(largest > 0, jnp.sqrt(jnp.where(largest > 0, squares, 1)), 0)


def _outputs(v: Numbers, axis: Axes | None) -> tuple[int, ...]:
    """The axes of the outputs, from 0 and in their order."""
    axes = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % v.ndim for a in axes))


def _inputs(v: Numbers, axis: Axes | None) -> tuple[int, ...]:
    """The axes that each norm is over."""
    outputs = _outputs(v, axis)
    return tuple(a for a in range(v.ndim) if a not in outputs)


def _along(g: Numbers, v: Numbers, axis: Axes | None) -> Numbers:
    """g with an axis for each of v."""
    return jnp.expand_dims(g, _inputs(v, axis))
