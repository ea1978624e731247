"""Normalisation of each example by its own mean and variance: layer, RMS and group norm."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import describe, require_floating, require_keys, require_number

Channels = Float[Array, " C"]
Params = dict[str, Channels]


class LayerNormResiduals(NamedTuple):
    """The arguments, and of each row, less its first number, the mean and r = 1/√(var + ε)."""

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
    """The arguments, and of each group, less its first number, the mean and r = 1/√(var + ε)."""

    params: Params
    x: Float[Array, "N *S C"]
    mean: Float[Array, "N 1 G 1"]
    r: Float[Array, "N 1 G 1"]


@op
def layer_norm(
    params: Params, x: Float[Array, "*N C"], *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Layer norm, y = γ·(x − mean)/√(var + ε) + β, over the last axis.

    var = mean (x − mean)², divided by C, not C − 1.

    Shapes (N batch, any number of axes; C features):
        params: {"scale": γ (C,), "bias": β (C,)}; either may be missing
        x, y, dx, dy: (N, C)

    Backward, with r = 1/√(var + ε), x̂ = r·(x − mean), and means over the features:
        ṙ  = −r³·mean((x − mean)·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·(ẋ − mean ẋ) + ṙ·(x − mean) = r·(ẋ − mean ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, so its transpose is itself. With g = γ·dy, what reaches x̂:
        dx = r·(g − mean g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂
        dβ = Σₙ dy

    Keeps x, the params (β for its presence alone), and two numbers a row in at least float32: to
    take them from x again costs two passes. They are of x less the first number of its row, so
    that a mean far from 0 takes no digits.

    The sums of dy·(x − mean) over each row and each column are matrix–vector products, with γ and
    with r, so that one array serves both. A barrier keeps the compiler from writing the two
    numbers of a row out over the whole row.

    Args:
        params: γ and β.
        x: the rows to normalise.
        eps: ε, above 0; a constant row gives β.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Source: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, equation 3.

    Example:
        >>> params = {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 1.0])}
        >>> [round(float(y), 3) for y in jaxnn.layer_norm(params, jnp.array([10.0, 30.0]))]
        [-1.0, 3.0]
    """
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return affine(params, (x - mean) * lax.rsqrt(var + eps))


@layer_norm.forward
def layer_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    z = from_first(at_least_float32(x), -1)
    mean = jnp.mean(z, axis=-1, keepdims=True)
    var = jnp.mean((z - mean) ** 2, axis=-1, keepdims=True)
    mean, r = lax.optimization_barrier((mean, lax.rsqrt(var + eps)))
    y = affine(params, (z - mean) * r)
    return y.astype(x.dtype), LayerNormResiduals(params, x, mean, r)


@layer_norm.backward
def layer_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂, dβ = Σₙ dy."""
    params, x, *statistics = residuals
    z, dz, mean, r = (_rows(at_least_float32(a)) for a in (x, dy, *statistics))
    z, scale = from_first(z, -1), _scale(params, z)
    product = dz * (z - mean)
    mean_g = _dot(dz, scale) / z.shape[1]
    mean_g_x_hat = r * _dot(product, scale) / z.shape[1]
    g = dz * jnp.broadcast_to(scale.T, z.shape)
    dx = r * (g - mean_g - (z - mean) * r * mean_g_x_hat)
    dparams = affine_gradient(params, _dot(r.T, product), jnp.sum(dz, axis=0))
    return dparams, dx.reshape(x.shape).astype(x.dtype)


@op
def rms_norm(params: Params, x: Float[Array, "*N C"], *, eps: float = 1e-5) -> Float[Array, "*N C"]:
    """RMS norm, y = γ·x/√(mean x² + ε), over the last axis.

    Shapes (N batch, any number of axes; C features):
        params: {"scale": γ (C,)}, or {}
        x, y, dx, dy: (N, C)

    Backward, with r = 1/√(mean x² + ε), x̂ = r·x, and means over the features:
        ṙ  = −r³·mean(x·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·ẋ + ṙ·x = r·(ẋ − x̂·mean(x̂·ẋ)),  symmetric in ẋ; with g = γ·dy
        dx = r·(g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂

    Keeps x, the params, and one number a row in at least float32: to take it from x again costs a
    pass. The sums of dy·x over rows and columns are matrix–vector products, as in `layer_norm`.

    Args:
        params: γ.
        x: the rows to normalise.
        eps: ε, above 0; a row of zeros gives 0.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Source: B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.

    Example:
        >>> params = {"scale": jnp.array([1.0, 10.0])}
        >>> [round(float(y), 3) for y in jaxnn.rms_norm(params, jnp.array([1.0, 7.0]))]
        [0.2, 14.0]
    """
    r = lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)
    return affine(params, x * r)


@rms_norm.forward
def rms_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·x."""
    z = at_least_float32(x)
    r = lax.optimization_barrier(lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + eps))
    return affine(params, z * r).astype(x.dtype), RMSNormResiduals(params, x, r)


@rms_norm.backward
def rms_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = r·(g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂."""
    params, x, r = residuals
    z, dz, r = (_rows(at_least_float32(a)) for a in (x, dy, r))
    scale = _scale(params, z)
    product = dz * z
    mean_g_x_hat = r * _dot(product, scale) / z.shape[1]
    dx = r * (dz * jnp.broadcast_to(scale.T, z.shape) - z * r * mean_g_x_hat)
    dparams = affine_gradient(params, _dot(r.T, product), None)
    return dparams, dx.reshape(x.shape).astype(x.dtype)


@op
def group_norm(
    params: Params, x: Float[Array, "N *S C"], *, groups: int = 32, eps: float = 1e-5
) -> Float[Array, "N *S C"]:
    """Group norm, y = γ·(x − mean)/√(var + ε) + β, over each group of channels of each example.

    Mean and variance run over all the axes but the first, within a group of C/groups channels
    that lie side by side. One group is all that one example has; C groups are an instance norm.

    Shapes (N batch; S places, any number of axes, also none; C channels):
        params: {"scale": γ (C,), "bias": β (C,)}; either may be missing
        x, y, dx, dy: (N, S, C)

    Backward, with r, x̂ and the symmetric map as in `layer_norm`, but means over the group, of
    M = S·C/groups numbers. First come sums over the places, of each example and channel,
        A = Σₛ dy      B = Σₛ dy·x̂      (N, C)
    and from them everything else; with g = γ·dy:
        dβ = Σₙ A,   mean g = (1/M)·Σ γ·A         the sum over the channels of the group
        dγ = Σₙ B,   mean(x̂·g) = (1/M)·Σ γ·B
        dx = r·(g − mean g − x̂·mean(x̂·g))

    Keeps x, the params (β for its presence alone), and two numbers a group in at least float32:
    to take them from x again costs two passes. They are of x less the first number of its group.

    Args:
        params: γ and β.
        x: examples, channels last.
        groups: their number, a divisor of C.
        eps: ε, above 0; a constant group gives β.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or groups is no integer.
        ValueError: the shapes do not fit, params has other keys, groups does not divide C, or eps
            is not above 0.

    Source: Y. Wu and K. He, "Group Normalization", 2018, equations 1 and 2.

    Example:
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> [round(float(y), 3) for y in jaxnn.group_norm({}, x, groups=2)[0]]
        [-1.0, 1.0, -1.0, 1.0]
    """
    z = _grouped(x, groups)
    mean = jnp.mean(z, axis=(1, 3), keepdims=True)
    var = jnp.mean((z - mean) ** 2, axis=(1, 3), keepdims=True)
    return affine(params, ((z - mean) * lax.rsqrt(var + eps)).reshape(x.shape))


@group_norm.forward
def group_norm_fwd(params, x, *, groups=32, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    z = from_first(_grouped(at_least_float32(x), groups), 1, 3)
    mean = _mean_of_group(z)
    r = lax.rsqrt(_mean_of_group((z - mean) ** 2) + eps)
    y = affine(params, ((z - mean) * r).reshape(x.shape))
    return y.astype(x.dtype), GroupNormResiduals(params, x, mean, r)


@group_norm.backward
def group_norm_bwd(residuals, dy, *, groups=32, eps=1e-5):
    """dx = r·(g − mean g − x̂·mean(x̂·g)), dγ = Σ dy·x̂, dβ = Σ dy."""
    params, x, mean, r = residuals
    z, dz = (_grouped(at_least_float32(a), groups) for a in (x, dy))
    x_hat = (from_first(z, 1, 3) - mean) * r
    scale = _scale(params, x).reshape(1, 1, groups, -1)
    a, b = (jnp.sum(summed, axis=1, keepdims=True) for summed in (dz, dz * x_hat))
    size = z.shape[1] * z.shape[3]
    mean_g, mean_g_x_hat = (jnp.sum(scale * s, axis=3, keepdims=True) / size for s in (a, b))
    dx = r * (scale * dz - mean_g - x_hat * mean_g_x_hat)
    dparams = affine_gradient(params, *(jnp.sum(s, axis=0).reshape(-1) for s in (b, a)))
    return dparams, dx.reshape(x.shape).astype(x.dtype)


def from_first(z: Float[Array, "*shape"], *axes: int) -> Float[Array, "*shape"]:
    """z less its first entry along these axes, so that a large mean takes no digits.

    What is normalised does not depend on it, and neither does its gradient.
    """
    first = z
    for axis in axes:
        first = first[(*[slice(None)] * (axis % z.ndim), slice(1))]
    return z - lax.stop_gradient(first)


def affine(params: Params, x_hat: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    """γ·x̂ + β, of what there is of the two."""
    for name, apply in (("scale", jnp.multiply), ("bias", jnp.add)):
        if name in params:
            x_hat = apply(x_hat, jnp.broadcast_to(params[name].astype(x_hat.dtype), x_hat.shape))
    return x_hat


def affine_gradient(params: Params, dscale, dbias) -> Params:
    """The gradients of those of γ and β that there are, in their dtypes and shapes."""
    sums = {"scale": dscale, "bias": dbias}
    return {name: sums[name].reshape(p.shape).astype(p.dtype) for name, p in params.items()}


def require_normalised(params, x, eps, *, optional=("scale", "bias"), axes=1) -> None:
    """What every normalisation asks of its arguments.

    Args:
        op: its name.
        params: the params.
        x: what to normalise.
        eps: the option.
        optional: the keys that params may have.
        axes: how many axes x has at least.
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
    """A number of groups divides the number of channels."""
    if type(groups) is not int:
        raise TypeError(f"groups must be an integer, got {groups!r}")
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")


def _scale(params, z):
    """γ as a column, ones where there is none."""
    if "scale" in params:
        return at_least_float32(params["scale"])[:, None]
    return jnp.ones((z.shape[-1], 1), accumulator(z.dtype))


def _dot(a, b):
    """A matrix product in full precision on every device: it stands for a sum."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _grouped(x, groups):
    """(N, S, C) as (N, places, groups, C/groups)."""
    places = math.prod(x.shape[1:-1])
    return x.reshape(x.shape[0], places, groups, x.shape[-1] // groups)


def _mean_of_group(z):
    """The mean over places, then over the channels of a group: faster than over both at once."""
    return jnp.mean(jnp.mean(z, axis=1, keepdims=True), axis=3, keepdims=True)


@layer_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps)


@rms_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps, optional=["scale"])


@group_norm.validate
def _(params, x, *, groups, eps):
    require_normalised(params, x, eps, axes=2)
    require_groups(groups, x.shape[-1])
