"""Batch norm: the training form with the statistics of the batch, and the inference form."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import require_floating
from jaxnn.ops.normalisation import (
    Channels,
    Params,
    affine,
    affine_gradient,
    from_first,
    require_normalised,
)

Statistics = dict[str, Channels]


class BatchNormResiduals(NamedTuple):
    """The arguments, and of each channel mean and variance of x less its first example."""

    params: Params
    x: Float[Array, "*N C"]
    mean: Channels
    var: Channels

    @property
    def batch_mean(self) -> Channels:
        """The mean of x itself."""
        first = self.x[(0,) * (self.x.ndim - 1)]
        return first.astype(self.mean.dtype) + self.mean


class BatchNormInferenceResiduals(NamedTuple):
    """The arguments."""

    params: Params
    statistics: Statistics
    x: Float[Array, "*N C"]


@op
def batch_norm(
    params: Params, x: Float[Array, "*N C"], *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Batch norm while training, y = γ·(x − mean)/√(var + ε) + β, each channel over the batch.

    Mean and var = mean (x − mean)² run over all the axes but the last: over the N numbers that a
    channel has in the batch. `batch_norm_inference` has running statistics in their place.

    Shapes (N examples and places, one or more axes; C channels):
        params: {"scale": γ (C,), "bias": β (C,)}; either may be missing
        x, y, dx, dy: (N, C)

    Backward, with r = 1/√(var + ε), x̂ = r·(x − mean), and means over the batch:
        ṙ  = −r³·mean((x − mean)·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·(ẋ − mean ẋ − x̂·mean(x̂·ẋ)),  symmetric in ẋ; γ is constant over the batch, so
        dβ = Σₙ dy
        dγ = Σₙ dy·x̂
        dx = γ·r·(dy − dβ/N − x̂·dγ/N)
    The two sums of the parameters are those that dx needs: one pass gives both.

    Keeps x, the params (β for its presence alone), and two numbers a channel in at least float32:
    to take them from x again costs two passes, and running statistics are gathered from them.
    They are of x less its first example, so that a mean far from 0 takes no digits.

    Args:
        params: γ and β.
        x: a batch, channels last.
        eps: ε, above 0; a constant channel gives β, and so does a batch of one.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 1 and section 3.

    Example:
        >>> y = jaxnn.batch_norm({"bias": jnp.array([5.0])}, jnp.array([[1.0], [3.0]]))
        >>> [round(float(of_example[0]), 3) for of_example in y]
        [4.0, 6.0]
    """
    batch = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axis=batch, keepdims=True)
    var = jnp.mean((x - mean) ** 2, axis=batch, keepdims=True)
    return affine(params, (x - mean) * lax.rsqrt(var + eps))


@batch_norm.forward
def batch_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    batch = tuple(range(x.ndim - 1))
    z = from_first(at_least_float32(x), *batch)
    mean = jnp.mean(z, axis=batch)
    centred = z - jnp.broadcast_to(mean, z.shape)
    var = jnp.mean(centred**2, axis=batch)
    y = affine(params, _scaled(centred, lax.rsqrt(var + eps)))
    return y.astype(x.dtype), BatchNormResiduals(params, x, mean, var)


@batch_norm.backward
def batch_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = γ·r·(dy − dβ/N − x̂·dγ/N), dγ = Σₙ dy·x̂, dβ = Σₙ dy."""
    params, x, mean, var = residuals
    n, r = math.prod(x.shape[:-1]), lax.rsqrt(var + eps)
    z = from_first(at_least_float32(x), *range(x.ndim - 1))
    dz, x_hat, dscale, dbias = _sums(z, dy, mean, r)
    mean_dy, mean_dy_x_hat = (jnp.broadcast_to(s / n, x.shape) for s in (dbias, dscale))
    dx = _scaled(dz - mean_dy - x_hat * mean_dy_x_hat, _slope(params, r))
    return affine_gradient(params, dscale, dbias), dx.astype(x.dtype)


@op
def batch_norm_inference(
    params: Params, statistics: Statistics, x: Float[Array, "*N C"], *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Batch norm with given statistics, y = γ·(x − mean)/√(var + ε) + β.

    Shapes (N examples and places, any number of axes, also none; C channels):
        params: {"scale": γ (C,), "bias": β (C,)}; either may be missing
        statistics: {"mean": (C,), "var": (C,)}, of any floating dtype
        x, y, dx, dy: (N, C)

    Backward, with r = 1/√(var + ε) and x̂ = r·(x − mean), where each number of x stands alone:
        dx    = γ·r·dy
        dβ    = Σₙ dy
        dγ    = Σₙ dy·x̂
        dmean = −γ·r·Σₙ dy = −γ·r·dβ
        dvar  = −½·γ·r³·Σₙ dy·(x − mean) = −½·γ·r²·dγ

    Keeps its arguments (β for its presence alone); r costs C square roots.

    Args:
        params: γ and β.
        statistics: the mean and the variance of each channel, such as `BatchNorm` gathers.
        x: channels last.
        eps: ε, above 0, as in the training form.

    Raises:
        TypeError: an array is not floating point, the dtypes of params and x differ, or statistics
            is no dict.
        ValueError: the shapes do not fit, params or statistics has other keys, or eps is not
            above 0.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 2.

    Example:
        >>> statistics = {"mean": jnp.array([2.0, 20.0]), "var": jnp.array([1.0, 100.0])}
        >>> y = jaxnn.batch_norm_inference({}, statistics, jnp.array([3.0, 0.0]))
        >>> [round(float(channel), 3) for channel in y]
        [1.0, -2.0]
    """
    mean, var = (
        jnp.broadcast_to(statistics[name].astype(x.dtype), x.shape) for name in ("mean", "var")
    )
    return affine(params, (x - mean) * lax.rsqrt(var + eps))


@batch_norm_inference.forward
def batch_norm_inference_fwd(params, statistics, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    z = at_least_float32(x)
    mean, var = (statistics[name].astype(z.dtype) for name in ("mean", "var"))
    centred = z - jnp.broadcast_to(mean, z.shape)
    y = affine(params, _scaled(centred, lax.rsqrt(var + eps)))
    return y.astype(x.dtype), BatchNormInferenceResiduals(params, statistics, x)


@batch_norm_inference.backward
def batch_norm_inference_bwd(residuals, dy, *, eps=1e-5):
    """dx = γ·r·dy, dγ = Σₙ dy·x̂, dβ = Σₙ dy, dmean = −γ·r·dβ, dvar = −½·γ·r²·dγ."""
    params, statistics, x = residuals
    mean, var = (statistics[name].astype(accumulator(x.dtype)) for name in ("mean", "var"))
    r = lax.rsqrt(var + eps)
    dz, _, dscale, dbias = _sums(at_least_float32(x), dy, mean, r)
    slope = _slope(params, r)
    dstatistics = {"mean": -slope * dbias, "var": -0.5 * slope * r * dscale}
    dstatistics = {name: d.astype(statistics[name].dtype) for name, d in dstatistics.items()}
    dx = _scaled(dz, slope).astype(x.dtype)
    return affine_gradient(params, dscale, dbias), dstatistics, dx


def _sums(z, dy, mean, r):
    """dy and x̂ in at least float32, Σₙ dy·x̂ and Σₙ dy."""
    dz, batch = at_least_float32(dy), tuple(range(z.ndim - 1))
    x_hat = _scaled(z - jnp.broadcast_to(mean, z.shape), r)
    return dz, x_hat, jnp.sum(dz * x_hat, axis=batch), jnp.sum(dz, axis=batch)


def _scaled(x, by_channel):
    return x * jnp.broadcast_to(by_channel, x.shape)


def _slope(params, r):
    """∂y/∂x with the statistics held still, γ·r."""
    return r * params["scale"].astype(r.dtype) if "scale" in params else r


@batch_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps, axes=2)


@batch_norm_inference.validate
def _(params, statistics, x, *, eps):
    require_normalised(params, x, eps)
    if not isinstance(statistics, dict):
        raise TypeError(f"statistics must be a dict of arrays, got {type(statistics).__name__}")
    if set(statistics) != {"mean", "var"}:
        raise ValueError(
            f"statistics must have the keys 'mean' and 'var'; its keys are {sorted(statistics)}"
        )
    for name, array in statistics.items():
        require_floating(**{f"statistics[{name!r}]": array})
        if array.shape != x.shape[-1:]:
            raise ValueError(
                f"statistics[{name!r}] has shape {array.shape} but x has shape {x.shape}: "
                f"it must be {x.shape[-1:]}, one number for each channel"
            )
