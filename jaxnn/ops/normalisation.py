"""Normalisation of each example by its own mean and variance: layer, RMS and group norm."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.compiler import stored
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_floating, require_keys, require_number

Channels = Float[Array, " C"]
Params = dict[str, Channels]


class LayerNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(var + ε) and the mean of each row minus its first number."""

    params: Params
    x: Float[Array, "*N C"]
    mean: Float[Array, "*N 1"]
    r: Float[Array, "*N 1"]


class RMSNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(mean x² + ε) of each row."""

    params: Params
    x: Float[Array, "*N C"]
    r: Float[Array, "*N 1"]


class GroupNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(var + ε) and the mean of each group minus its first number."""

    params: Params
    x: Float[Array, "N *S C"]
    mean: Float[Array, "N *ones G 1"]
    r: Float[Array, "N *ones G 1"]


@op
def layer_norm(
    params: Params, x: Float[Array, "*N C"], *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Layer norm, y = γ·(x − mean)/√(var + ε) + β, over the last axis.

    var = mean (x − mean)², divided by C, not C − 1.

    Shapes:
        N batch, any number of axes or none; C features
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dγ, γ̇⟩ + ⟨dβ, β̇⟩ + ⟨dx, ẋ⟩ with ẏ = γ̇·x̂ + β̇ + γ·x̂˙. With
    r = 1/√(var + ε), x̂ = r·(x − mean), and means over the features:
        ṙ  = −r³·mean((x − mean)·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·(ẋ − mean ẋ) + ṙ·(x − mean) = r·(ẋ − mean ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, so it is its own transpose. With g = γ·dy, the gradient of x̂:
        dx = r·(g − mean g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂
        dβ = Σₙ dy

    Saves x, the params (β for its presence alone), and two numbers for each row in at least
    float32: to compute them from x again costs two passes. They are of x minus the first number of
    its row, so that a mean far from 0 takes no digits.

    Implementation notes:
        The sums of dy·(x − mean) over each row and each column are matrix–vector products, with γ
        and with r, so that one array serves both. The axes of the batch are contracted where they
        are. `stored` keeps the compiler from writing the two numbers of a row out over the whole
        row.

    Args:
        params: γ and β.
        x: the rows to normalise.
        eps: ε, above 0; a constant row gives β.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Reference: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, equation 3.

    Example:
        >>> params = {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 1.0])}
        >>> [round(float(y), 3) for y in jaxnn.layer_norm(params, jnp.array([10.0, 30.0]))]
        [-1.0, 3.0]
    """
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return textbook_affine(params, (x - mean) * lax.rsqrt(var + eps))


@layer_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps)


@layer_norm.forward
@wide
def layer_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    z = from_first(x, [x.ndim - 1])
    mean = jnp.mean(z, axis=-1, keepdims=True)
    var = jnp.mean((z - mean) ** 2, axis=-1, keepdims=True)
    mean, r = stored((mean, lax.rsqrt(var + eps)))
    return affine(params, (z - mean) * r), LayerNormResiduals(params, x, mean, r)


@layer_norm.backward
def layer_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂, dβ = Σₙ dy."""
    deltas, dx = layer_norm_bwd_input(residuals, dy, eps=eps)
    return layer_norm_bwd_params(residuals, deltas, eps=eps), dx


@layer_norm.backward_input
@wide
def layer_norm_bwd_input(residuals, dy, *, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)); dγ and dβ need dy·(x − mean) and dy."""
    params, x, mean, r = residuals
    centred = from_first(x, [x.ndim - 1]) - mean
    product = dy * centred
    scale = _scale(params, x)
    mean_g = _mean_of_rows(dy, scale)
    mean_g_x_hat = r * _mean_of_rows(product, scale)
    g = dy * jnp.broadcast_to(scale, dy.shape)
    dx = r * (g - mean_g - centred * r * mean_g_x_hat)
    return (dy, product), dx


@layer_norm.backward_params
@wide
def layer_norm_bwd_params(residuals, deltas, *, eps=1e-5):
    """dγ = Σₙ r·(dy·(x − mean)), dβ = Σₙ dy."""
    params, _, _, r = residuals
    dy, product = deltas
    dbias = jnp.sum(dy, axis=range(dy.ndim - 1))
    return affine_gradient(params, _sum_over_batch(r, product), dbias)


@op
def rms_norm(params: Params, x: Float[Array, "*N C"], *, eps: float = 1e-5) -> Float[Array, "*N C"]:
    """RMS norm, y = γ·x/√(mean x² + ε), over the last axis.

    Shapes:
        N batch, any number of axes or none; C features
        params: {"scale": γ (C,)}, or {}
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dγ, γ̇⟩ + ⟨dx, ẋ⟩ with ẏ = γ̇·x̂ + γ·x̂˙. With r = 1/√(mean x² + ε),
    x̂ = r·x, and means over the features:
        ṙ  = −r³·mean(x·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·ẋ + ṙ·x = r·(ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, so it is its own transpose. With g = γ·dy, the gradient of x̂:
        dx = r·(g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂

    Saves x, the params, and one number for each row in at least float32: to compute it from x again
    costs a pass.

    Implementation notes:
        The sums of dy·x over rows and columns are matrix–vector products, as in `layer_norm`.

    Args:
        params: γ.
        x: the rows to normalise.
        eps: ε, above 0; a row of zeros gives 0.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Reference: B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.

    Example:
        >>> params = {"scale": jnp.array([1.0, 10.0])}
        >>> [round(float(y), 3) for y in jaxnn.rms_norm(params, jnp.array([1.0, 7.0]))]
        [0.2, 14.0]
    """
    r = lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)
    return textbook_affine(params, x * r)


@rms_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps, optional=["scale"])


@rms_norm.forward
@wide
def rms_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·x."""
    r = stored(lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps))
    return affine(params, x * r), RMSNormResiduals(params, x, r)


@rms_norm.backward
def rms_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = r·(g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂."""
    product, dx = rms_norm_bwd_input(residuals, dy, eps=eps)
    return rms_norm_bwd_params(residuals, product, eps=eps), dx


@rms_norm.backward_input
@wide
def rms_norm_bwd_input(residuals, dy, *, eps=1e-5):
    """dx = r·(g − x̂·mean(x̂·g)); dγ needs dy·x."""
    params, x, r = residuals
    scale, product = _scale(params, x), dy * x
    mean_g_x_hat = r * _mean_of_rows(product, scale)
    g = dy * jnp.broadcast_to(scale, dy.shape)
    return product, r * (g - x * r * mean_g_x_hat)


@rms_norm.backward_params
@wide
def rms_norm_bwd_params(residuals, product, *, eps=1e-5):
    """dγ = Σₙ r·(dy·x)."""
    return affine_gradient(residuals.params, _sum_over_batch(residuals.r, product))


@op
def group_norm(
    params: Params, x: Float[Array, "N *S C"], *, groups: int = 32, eps: float = 1e-5
) -> Float[Array, "N *S C"]:
    """Group norm, y = γ·(x − mean)/√(var + ε) + β, over each group of channels of each example.

    Mean and variance run over all the axes but the first, within a group of C/groups neighbouring
    channels. One group holds all the numbers of an example; C groups are an instance norm.

    Shapes:
        N batch; S places, any number of axes or none; C channels
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        x, y, dx, dy: (N, S, C)

    Backward, with r, x̂ and the symmetric map as in `layer_norm`, but means over the group, of
    M = S·C/groups numbers. First come sums over the places, for each example and channel,
        A = Σₛ dy      B = Σₛ dy·x̂      (N, C)
    and all the other sums follow from them; with g = γ·dy:
        dβ = Σₙ A,   mean g = (1/M)·Σ γ·A         the sum over the channels of the group
        dγ = Σₙ B,   mean(x̂·g) = (1/M)·Σ γ·B
        dx = r·(g − mean g − x̂·mean(x̂·g))

    Saves x, the params (β for its presence alone), and two numbers for each group in at least
    float32: to compute them from x again costs two passes. They are of x minus the first number of
    its group.

    Implementation notes:
        Each sum runs over the places first, then over the channels of a group. On (32, 28, 28, 64)
        with 8 groups, forward and backward take 2.9 ms that way, and 7.3 ms with sums over whole
        groups (two cores of an Intel Xeon). The price: devices that share the places exchange A and
        B, C numbers for each example, not one for each group. The axes of the places are summed
        where they are, for merging them would gather sharded places on every device.

    Args:
        params: γ and β.
        x: examples, channels last.
        groups: the number of groups, a divisor of C.
        eps: ε, above 0; a constant group gives β.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or groups is not an integer.
        ValueError: the shapes do not fit, params has other keys, groups does not divide C, or eps
            is not above 0.

    Reference: Y. Wu and K. He, "Group Normalization", 2018, equations 1 and 2.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> [round(float(y), 3) for y in jaxnn.group_norm({}, x, groups=2)[0]]
        [-1.0, 1.0, -1.0, 1.0]
    """
    z = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    group = (*range(1, x.ndim - 1), x.ndim)
    mean = jnp.mean(z, axis=group, keepdims=True)
    var = jnp.mean((z - mean) ** 2, axis=group, keepdims=True)
    return textbook_affine(params, ((z - mean) * lax.rsqrt(var + eps)).reshape(x.shape))


@group_norm.validate
def _(params, x, *, groups, eps):
    require_normalised(params, x, eps, axes=2)
    require_groups(groups, x.shape[-1])


@group_norm.forward
@wide
def group_norm_fwd(params, x, *, groups=32, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    z = _grouped_from_first(x, groups)
    mean = _mean_of_group(z)
    r = lax.rsqrt(_mean_of_group((z - mean) ** 2) + eps)
    y = affine(params, ((z - mean) * r).reshape(x.shape))
    return y, GroupNormResiduals(params, x, mean, r)


@group_norm.backward
def group_norm_bwd(residuals, dy, *, groups=32, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)), dγ = Σ dy·x̂, dβ = Σ dy."""
    deltas, dx = group_norm_bwd_input(residuals, dy, groups=groups, eps=eps)
    return group_norm_bwd_params(residuals, deltas, groups=groups, eps=eps), dx


@group_norm.backward_input
@wide
def group_norm_bwd_input(residuals, dy, *, groups=32, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)); dγ and dβ need B and A."""
    params, x, mean, r = residuals
    x_hat = (_grouped_from_first(x, groups) - mean) * r
    dz, places = _grouped(dy, groups), _places(x_hat)
    scale = _scale(params, x).reshape((*[1] * (x.ndim - 1), groups, -1))
    a, b = (jnp.sum(summed, axis=places, keepdims=True) for summed in (dz, dz * x_hat))
    size = math.prod(x_hat.shape[axis] for axis in (*places, -1))
    mean_g, mean_g_x_hat = (jnp.sum(scale * s, axis=-1, keepdims=True) / size for s in (a, b))
    dx = r * (scale * dz - mean_g - x_hat * mean_g_x_hat)
    return (a, b), dx.reshape(x.shape)


@group_norm.backward_params
@wide
def group_norm_bwd_params(residuals, deltas, *, groups=32, eps=1e-5):
    """dγ = Σₙ B, dβ = Σₙ A."""
    a, b = (jnp.sum(s, axis=0).reshape(-1) for s in deltas)
    return affine_gradient(residuals.params, b, a)


def from_first(z: Float[Array, "*shape"], axes: Sequence[int]) -> Float[Array, "*shape"]:
    """`z` minus its first entry along these axes, so that a large mean takes no digits.

    A constant changes neither the normalised numbers nor their gradient.
    """
    first = z[tuple(slice(1 if axis in axes else None) for axis in range(z.ndim))]
    return z - lax.stop_gradient(first)


def affine(params: Params, x_hat: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    """γ·x̂ + β, with those of γ and β that there are."""
    for name, apply in (("scale", jnp.multiply), ("bias", jnp.add)):
        if name in params:
            x_hat = apply(x_hat, jnp.broadcast_to(params[name], x_hat.shape))
    return x_hat


def affine_gradient(params: Params, dscale, dbias=None) -> Params:
    """The gradients of those of γ and β that there are."""
    gradients = {"scale": dscale, "bias": dbias}
    return {name: gradients[name] for name in params}


def textbook_affine(params: Params, x_hat: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    """γ·x̂ + β for the definitions, which share nothing with `affine`."""
    ones = jnp.ones(x_hat.shape[-1:], x_hat.dtype)
    scale, bias = params.get("scale", ones), params.get("bias", 0 * ones)
    return jnp.broadcast_to(scale, x_hat.shape) * x_hat + jnp.broadcast_to(bias, x_hat.shape)


def require_normalised(params, x, eps, *, optional=("scale", "bias"), axes=1) -> None:
    """Raise unless the arguments fit a normalisation.

    Args:
        params: the params.
        x: the numbers to normalise.
        eps: the option.
        optional: the keys that params may have.
        axes: the least number of axes that x has.
    """
    require_number("eps", eps, above=0)
    require_keys(params, [], optional)
    require_floating(**{f"params[{name!r}]": p for name, p in params.items()}, x=x)
    if x.ndim < axes:
        wanted = "one axis, the features" if axes == 1 else "two axes, examples and channels"
        raise ValueError(f"x is {describe(x)}; it must have at least {wanted}")
    for name, p in params.items():
        if p.shape != x.shape[-1:]:
            raise ValueError(
                f"params[{name!r}] has shape {p.shape} but x has shape {x.shape}: it must "
                f"be {x.shape[-1:]}, one number for each entry of the last axis"
            )


def require_groups(groups, channels: int) -> None:
    """Raise unless the number of groups divides the number of channels."""
    if type(groups) is not int:
        raise TypeError(f"groups must be an integer, got {groups!r}")
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")


def _scale(params, x):
    """γ, ones where there is none."""
    return params["scale"] if "scale" in params else jnp.ones_like(x, shape=x.shape[-1:])


def _mean_of_rows(x, scale):
    """mean γ·x of each row, as the product of a matrix and a vector."""
    return _dot(x, scale[:, None], [x.ndim - 1], [0]) / x.shape[-1]


def _sum_over_batch(r, x):
    """Σₙ r·x of each column, as the product of a vector and a matrix."""
    batch = range(x.ndim - 1)
    return _dot(r, x, batch, batch)[0]


def _dot(a, b, a_axes, b_axes):
    """A matrix product in full precision on every device, for it stands for a sum."""
    dimensions = (a_axes, b_axes), ((), ())
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)


def _grouped(x, groups):
    """(N, S, C) as (N, S, groups, C/groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _grouped_from_first(x, groups):
    """The groups, each less its first number."""
    z = _grouped(x, groups)
    return from_first(z, (*_places(z), z.ndim - 1))


def _places(z):
    """The axes of the places of an array of groups."""
    return tuple(range(1, z.ndim - 2))


def _mean_of_group(z):
    """The mean over places, then over the channels of a group: faster than over both at once."""
    return jnp.mean(jnp.mean(z, axis=_places(z), keepdims=True), axis=-1, keepdims=True)
