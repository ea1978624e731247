"""Batch norm: in training with the statistics of the batch, in inference with running ones."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxnn.example_gradients import Whole, require_examples_axis, require_examples_first
from jaxnn.op import op
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import require_floating, require_where
from jaxnn.ops.normalisation import (
    Channels,
    Mask,
    Params,
    affine,
    affine_gradient,
    from_origin,
    number_of,
    origin_of,
    require_normalised,
    selected,
    textbook_affine,
    textbook_mean,
    textbook_r,
)

Statistics = dict[str, Channels]


class BatchNormResiduals(NamedTuple):
    """The arguments, and mean and variance of each channel of x minus its origin.

    The origin is the first example or, with a mask, a first estimate of the mean.
    """

    params: Params
    x: Float[Array, "*N C"]
    where: Mask | None
    origin: Float[Array, "*ones C"] | None
    mean: Channels
    var: Channels

    @property
    def batch_mean(self) -> Channels:
        """The mean of x itself."""
        origin = self.x if self.origin is None else self.origin
        return origin[(0,) * (origin.ndim - 1)].astype(self.mean.dtype) + self.mean

    @property
    def counts(self) -> Integer[Array, " C"] | int:
        """The number of entries in a channel of the batch: one for all, or one for each channel."""
        if self.where is None:
            return math.prod(self.x.shape[:-1])
        return jnp.sum(jnp.broadcast_to(self.where, self.x.shape), axis=_batch(self.x))


class BatchNormInferenceResiduals(NamedTuple):
    """The arguments."""

    params: Params
    statistics: Statistics
    x: Float[Array, "*N C"]


@op
def batch_norm(
    params: Params, x: Float[Array, "*N C"], where: Mask | None = None, *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Batch norm in training, y = γ·(x − mean)/√(var + ε) + β, each channel over the batch.

    Mean and var = mean (x − mean)² run over all the axes but the last: over the N numbers that a
    channel has in the batch. `batch_norm_inference` uses running statistics instead.

    With a mask `where`, such as one of shape (N, 1) that omits padded rows, mean and variance are
    those of the entries that it selects. The others may hold anything, even NaN: their y is 0, and
    so is their gradient. (With the same mask Flax normalises the dropped entries as well; the
    selected ones agree.)

    Shapes:
        N examples and places, one or more axes; C channels
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        where:  booleans that broadcast to the shape of x; optional
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ = ⟨dγ, γ̇⟩ + ⟨dβ, β̇⟩ + ⟨dx, ẋ⟩ with ẏ = γ̇·x̂ + β̇ + γ·x̂˙. With
    r = 1/√(var + ε), x̂ = r·(x − mean), and means over the batch:
        ṙ  = −r³·mean((x − mean)·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·(ẋ − mean ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, and γ is constant over the batch, so:
        dβ = Σₙ dy
        dγ = Σₙ dy·x̂
        dx = γ·r·(dy − dβ/N − x̂·dγ/N)
    dx needs the same two sums as the parameters; one pass gives both. With a mask, dy and x̂ count
    as 0 in dropped entries, N is the number of selected entries of a channel, and dx is 0
    elsewhere.

    Saves x, the params (of β only its presence matters), the mask, and two numbers for each channel
    in at least float32, three with a mask: recomputing them from x takes two passes, and running
    statistics use them. They are statistics of x minus its first example, or minus its mean, so
    that a mean far from 0 costs no digits.

    Args:
        params: γ and β.
        x: a batch, channels last.
        where: the entries that count; all by default.
        eps: ε, above 0; a constant channel gives β, and so does a batch of one. An ε that
            underflows in the dtype counts as its smallest normal number.

    Raises:
        TypeError: an array is not floating point, or the mask not boolean.
        ValueError: the shapes do not fit, params has other keys, or eps is not above 0.

    Reference: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 1 and section 3.

    Example:
        >>> y = jaxnn.batch_norm({"bias": jnp.array([5.0])}, jnp.array([[1.0], [3.0]]))
        >>> [round(float(of_example[0]), 3) for of_example in y]
        [4.0, 6.0]
    """
    batch = tuple(range(x.ndim - 1))
    x = x if where is None else jnp.where(jnp.broadcast_to(where, x.shape), x, 0)
    mean = textbook_mean(x, batch, where)
    var = textbook_mean((x - mean) ** 2, batch, where)
    y = textbook_affine(params, (x - mean) * textbook_r(var, eps))
    return y if where is None else jnp.where(jnp.broadcast_to(where, x.shape), y, 0)


@batch_norm.validate
def _(params, x, where, *, eps):
    require_normalised(params, x, eps, axes=2)
    require_where(where, x.shape)


@batch_norm.forward
@wide
def batch_norm_fwd(params, x, where=None, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    n = _number_of(x, where)
    origin = origin_of(x, _batch(x), where)
    z = from_origin(x, _batch(x), where, origin)
    mean = jnp.sum(z, axis=_batch(z)) / n
    centred = selected(z - jnp.broadcast_to(mean, z.shape), where)
    var = jnp.sum(centred**2, axis=_batch(z)) / n
    y = selected(affine(params, _by_channel(centred, _r(var, eps))), where)
    return y, BatchNormResiduals(params, x, where, origin, mean, var)


@batch_norm.backward
def batch_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = γ·r·(dy − dβ/N − x̂·dγ/N), dγ = Σₙ dy·x̂, dβ = Σₙ dy."""
    deltas, *gradients = batch_norm_bwd_input(residuals, dy, eps=eps)
    return batch_norm_bwd_params(residuals, deltas, eps=eps), *gradients


@batch_norm.backward_input
@wide
def batch_norm_bwd_input(residuals, dy, *, eps=1e-5):
    """dx = γ·r·(dy − dβ/N − x̂·dγ/N), and, along the way, dγ and dβ."""
    params, x, where, origin, mean, var = residuals
    r, n, dy = _r(var, eps), _number_of(x, where), selected(dy, where)
    x_hat, dscale, dbias = _sums(from_origin(x, _batch(x), where, origin), dy, mean, r)
    mean_dy, mean_dy_x_hat = (jnp.broadcast_to(s / n, x.shape) for s in (dbias, dscale))
    dx = _by_channel(dy - mean_dy - x_hat * mean_dy_x_hat, _slope(params, r))
    return (dscale, dbias), selected(dx, where), None


@batch_norm.backward_params
def batch_norm_bwd_params(residuals, deltas, *, eps=1e-5):
    """dγ and dβ, which `batch_norm_bwd_input` has computed."""
    return affine_gradient(residuals.params, *deltas)


@batch_norm.backward_examples
def batch_norm_bwd_examples(residuals, deltas, *, examples_axis, eps=1e-5):
    """Raises: the statistics belong to the whole batch."""
    raise ValueError(
        "the gradient of one example is not defined in training, because the examples of a batch "
        "share its mean and variance; use LayerNorm or GroupNorm"
    )


@op
def batch_norm_inference(
    params: Params, statistics: Statistics, x: Float[Array, "*N C"], *, eps: float = 1e-5
) -> Float[Array, "*N C"]:
    """Batch norm with given statistics, y = γ·(x − mean)/√(var + ε) + β.

    Shapes:
        N examples and places, any number of axes or none; C channels
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        statistics: {"mean": (C,), "var": (C,)}
        x, y, dx, dy: (N, C)

    Backward, from ⟨dy, ẏ⟩ with ẏ = γ̇·x̂ + β̇ + γ·r·(ẋ − ṁean) + γ·ṙ·(x − mean), where
    r = 1/√(var + ε), x̂ = r·(x − mean) and ṙ = −½·r³·v̇ar:
        dx    = γ·r·dy
        dβ    = Σₙ dy
        dγ    = Σₙ dy·x̂
        dmean = −γ·r·Σₙ dy = −γ·r·dβ
        dvar  = −½·γ·r³·Σₙ dy·(x − mean) = −½·γ·r²·dγ

    Saves its arguments (of β only its presence matters); r costs C square roots.

    Args:
        params: γ and β.
        statistics: the mean and the variance of each channel, such as those of `BatchNorm`.
        x: channels last.
        eps: ε, above 0, as in training. An ε that underflows in the dtype counts as its smallest
            normal number.

    Raises:
        TypeError: an array is not floating point, or statistics is not a dict.
        ValueError: the shapes do not fit, params or statistics has other keys, or eps is not
            above 0.

    Reference: S. Ioffe and C. Szegedy, "Batch Normalization", 2015, algorithm 2.

    Example:
        >>> statistics = {"mean": jnp.array([2.0, 20.0]), "var": jnp.array([1.0, 100.0])}
        >>> y = jaxnn.batch_norm_inference({}, statistics, jnp.array([3.0, 0.0]))
        >>> [round(float(channel), 3) for channel in y]
        [1.0, -2.0]
    """
    mean, r = statistics["mean"], textbook_r(statistics["var"], eps)
    x_hat = (x - jnp.broadcast_to(mean, x.shape)) * jnp.broadcast_to(r, x.shape)
    return textbook_affine(params, x_hat)


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


@batch_norm_inference.forward
@wide
def batch_norm_inference_fwd(params, statistics, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    mean, r = _mean_and_r(statistics, eps)
    y = affine(params, _by_channel(x - jnp.broadcast_to(mean, x.shape), r))
    return y, BatchNormInferenceResiduals(params, statistics, x)


@batch_norm_inference.backward
@wide
def batch_norm_inference_bwd(residuals, dy, *, eps=1e-5):
    """dx = γ·r·dy, dγ = Σₙ dy·x̂, dβ = Σₙ dy, dmean = −γ·r·dβ, dvar = −½·γ·r²·dγ."""
    params, statistics, x = residuals
    mean, r = _mean_and_r(statistics, eps)
    _, *sums = _sums(x, dy, mean, r)
    return affine_gradient(params, *sums), *_inference_input(params, r, dy, *sums)


@batch_norm_inference.backward_input
@wide
def batch_norm_inference_bwd_input(residuals, dy, *, eps=1e-5):
    """dx = γ·r·dy, dmean = −γ·r·dβ, dvar = −½·γ·r²·dγ, and, along the way, dγₙ and dβₙ."""
    params, statistics, x = residuals
    mean, r = _mean_and_r(statistics, eps)
    x_hat = _by_channel(x - jnp.broadcast_to(mean, x.shape), r)
    deltas = tuple(jnp.sum(s, axis=tuple(range(1, x.ndim - 1))) for s in (dy * x_hat, dy))
    return deltas, *_inference_input(params, r, dy, *map(_over_examples, deltas))


@batch_norm_inference.backward_params
def batch_norm_inference_bwd_params(residuals, deltas, *, eps=1e-5):
    """dγ and dβ, the sums over the examples."""
    return affine_gradient(residuals.params, *map(_over_examples, deltas))


@batch_norm_inference.backward_examples
def batch_norm_inference_bwd_examples(residuals, deltas, *, examples_axis, eps=1e-5):
    """dγₙ = Σ dyₙ·x̂ₙ and dβₙ = Σ dyₙ over the places of each example."""
    require_examples_first(examples_axis)
    require_examples_axis(residuals.x.ndim - 1, examples_axis)
    return affine_gradient(residuals.params, *map(Whole, deltas))


def _batch(x):
    return tuple(range(x.ndim - 1))


def _number_of(x, where):
    """The number of entries of each channel, at least 1: one number, or an array (C,)."""
    n = number_of(x, _batch(x), where)
    return n if where is None else n.reshape(-1)


def _r(var, eps):
    """1/√(var + ε)."""
    return lax.rsqrt(var + representable(eps, var.dtype))


def _mean_and_r(statistics, eps):
    """The mean and 1/√(var + ε)."""
    return statistics["mean"], _r(statistics["var"], eps)


def _sums(z, dy, mean, r):
    """x̂, Σₙ dy·x̂ and Σₙ dy."""
    x_hat = _by_channel(z - jnp.broadcast_to(mean, z.shape), r)
    return x_hat, jnp.sum(dy * x_hat, axis=_batch(dy)), jnp.sum(dy, axis=_batch(dy))


def _inference_input(params, r, dy, dscale, dbias):
    """dstatistics and dx of the inference form, from dγ and dβ."""
    slope = _slope(params, r)
    dstatistics = {"mean": -slope * dbias, "var": -0.5 * slope * (r * dscale)}
    return dstatistics, _by_channel(dy, slope)


def _over_examples(x):
    """The sum over the examples, if there is an axis of them."""
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _by_channel(x, factor):
    return x * jnp.broadcast_to(factor, x.shape)


def _slope(params, r):
    """∂y/∂x with the statistics held fixed, γ·r."""
    return r * params["scale"] if "scale" in params else r
