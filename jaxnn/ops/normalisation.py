"""Normalisation by the mean and variance of each example: layer, RMS, group and instance norm."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxnn.example_gradients import (
    Whole,
    require_examples_axis,
    require_examples_first,
    sum_over_places,
)
from jaxnn.op import op
from jaxnn.ops._common.compiler import stored
from jaxnn.ops._common.numerics import representable, wide
from jaxnn.ops._common.validation import (
    describe,
    require_axes,
    require_floating,
    require_keys,
    require_number,
    require_where,
)

Channels = Float[Array, " C"]
Params = dict[str, Float[Array, "..."]]
Elements = Float[Array, "*shape"]
Numbers = Float[Array, "..."]
Mask = Bool[Array, "..."]
Axes = int | tuple[int, ...]


class LayerNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(var + ε) and the mean of each row minus its origin.

    The origin is the first number of a row or, with a mask, a first estimate of the mean.
    """

    params: Params
    x: Numbers
    where: Mask | None
    origin: Numbers | None
    mean: Numbers
    r: Numbers


class RMSNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(mean x² + ε) of each row."""

    params: Params
    x: Numbers
    where: Mask | None
    r: Numbers


class GroupNormResiduals(NamedTuple):
    """The arguments, and r = 1/√(var + ε) and the mean of each group minus its first number."""

    params: Params
    x: Float[Array, "N *S C"]
    mean: Float[Array, "N *ones G 1"]
    r: Float[Array, "N *ones G 1"]


@op
def layer_norm(
    params: Params,
    x: Elements,
    where: Mask | None = None,
    *,
    axis: Axes = -1,
    eps: float = 1e-5,
    scale_offset: float = 0.0,
) -> Elements:
    """Layer norm, y = (γ + s)·(x − mean)/√(var + ε) + β, over the last axis or several.

    var = mean (x − mean)², divided by C, not C − 1. The offset s of the scale is 0 by default.

    With a mask `where`, mean and variance are those of the entries that it selects in each row. The
    others may hold anything, even NaN: their y is 0, and so is their gradient. (With the same mask
    `jax.nn.standardize` and Flax normalise the dropped entries as well; the selected ones agree.)

    Shapes:
        N batch, any number of axes or none; C features, the axes that are normalised
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        where:  booleans that broadcast to the shape of x; optional
        x, y, dx, dy: (N, C); the axes of C may be any, such as (C, N), and then γ and β have
            them in the order of x

    Backward, from ⟨dy, ẏ⟩ = ⟨dγ, γ̇⟩ + ⟨dβ, β̇⟩ + ⟨dx, ẋ⟩ with ẏ = γ̇·x̂ + β̇ + (γ + s)·x̂˙. With
    r = 1/√(var + ε), x̂ = r·(x − mean), and means over the features:
        ṙ  = −r³·mean((x − mean)·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·(ẋ − mean ẋ) + ṙ·(x − mean) = r·(ẋ − mean ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, so it is its own transpose. With g = (γ + s)·dy, the gradient
    of x̂:
        dx = r·(g − mean g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂
        dβ = Σₙ dy
    With a mask, dy and x̂ count as 0 in dropped entries, all means are over the selected entries,
    and dx is 0 elsewhere.

    For example n alone, dγₙ and dβₙ are these sums over its own rows.

    Saves x, the params (of β only its presence matters), the mask, and two numbers for each row in
    at least float32, three with a mask: recomputing them from x takes two passes. They are
    statistics of x minus the first number of its row, or minus its mean, so that a mean far from 0
    costs no digits.

    Implementation notes:
        The sums of dy·(x − mean) over each row and each column are matrix–vector products, with γ
        and with r, so that one array serves both. The batch axes are contracted without merging
        them. `stored` keeps the compiler from broadcasting the two numbers of a row to the whole
        row in memory.

    Args:
        params: γ and β.
        x: the rows to normalise.
        where: the entries that count; all by default.
        axis: the axis or axes of the features.
        eps: ε, above 0; a constant row gives β. An ε that underflows in the dtype counts as its
            smallest normal number.
        scale_offset: s; 1 for scales stored as γ − 1. Without a scale the factor is 1 in any case.

    Raises:
        TypeError: an array is not floating point, or the mask not boolean.
        ValueError: the shapes do not fit, params has other keys, x has no such axis, or eps is not
            above 0.

    Reference: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, equation 3; axes
    and params as in PyTorch's `layer_norm`.

    Example:
        >>> params = {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 1.0])}
        >>> [round(float(y), 3) for y in jaxnn.layer_norm(params, jnp.array([10.0, 30.0]))]
        [-1.0, 3.0]
    """
    x = x if where is None else jnp.where(jnp.broadcast_to(where, x.shape), x, 0)
    mean = textbook_mean(x, axis, where)
    var = textbook_mean((x - mean) ** 2, axis, where)
    x_hat = (x - mean) * textbook_r(var, eps)
    y = textbook_affine(params, x_hat, axis, scale_offset)
    return y if where is None else jnp.where(jnp.broadcast_to(where, x.shape), y, 0)


@layer_norm.validate
def _(params, x, where, *, axis, eps, scale_offset):
    require_normalised(params, x, eps, axis=axis)
    require_where(where, x.shape)
    require_number("scale_offset", scale_offset)


@layer_norm.forward
@wide
def layer_norm_fwd(params, x, where=None, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """y = (γ + s)·r·(x − mean) + β."""
    axes = axes_of(x, axis)
    n = number_of(x, axes, where)
    origin = origin_of(x, axes, where)
    z = from_origin(x, axes, where, origin)
    mean = mean_over(z, axes, n)
    var = mean_over(selected(z - mean, where) ** 2, axes, n)
    mean, r = stored((mean, lax.rsqrt(var + representable(eps, var.dtype))))
    y = selected(affine(params, (z - mean) * r, axes, scale_offset), where)
    return y, LayerNormResiduals(params, x, where, origin, mean, r)


@layer_norm.backward
def layer_norm_bwd(residuals, dy, **options):
    """dx = r·(g − mean g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂, dβ = Σₙ dy."""
    deltas, *gradients = layer_norm_bwd_input(residuals, dy, **options)
    return layer_norm_bwd_params(residuals, deltas, **options), *gradients


@layer_norm.backward_input
@wide
def layer_norm_bwd_input(residuals, dy, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """dx = r·(g − mean g − x̂·mean(x̂·g)); dγ and dβ need dy·(x − mean) and dy."""
    params, x, where, origin, mean, r = residuals
    axes, dy = axes_of(x, axis), selected(dy, where)
    n = number_of(x, axes, where)
    centred = selected(from_origin(x, axes, where, origin) - mean, where)
    product = dy * centred
    scale = scale_of(params, x, axes, scale_offset)
    mean_g = _mean_of_rows(dy, scale, axes, n)
    mean_g_x_hat = r * _mean_of_rows(product, scale, axes, n)
    g = dy * along(axes, scale, dy)
    dx = r * (g - mean_g - centred * r * mean_g_x_hat)
    return (dy, product), selected(dx, where), None


@layer_norm.backward_params
@wide
def layer_norm_bwd_params(residuals, deltas, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """dγ = Σₙ r·(dy·(x − mean)), dβ = Σₙ dy."""
    (dy, product), axes = deltas, axes_of(residuals.x, axis)
    dbias = jnp.sum(dy, axis=others(axes, dy))
    return affine_gradient(residuals.params, _sum_over_batch(residuals.r, product, axes), dbias)


@layer_norm.backward_examples
@wide
def layer_norm_bwd_examples(
    residuals, deltas, *, examples_axis, axis=-1, eps=1e-5, scale_offset=0.0
):
    """dγₙ = Σₜ r·(dy·(x − mean)), dβₙ = Σₜ dy."""
    (dy, product), axes = deltas, axes_of(residuals.x, axis)
    over_places = partial(_sum_over_places, axes=axes, examples_axis=examples_axis)
    return affine_gradient(residuals.params, over_places(residuals.r * product), over_places(dy))


@op
def rms_norm(
    params: Params,
    x: Elements,
    where: Mask | None = None,
    *,
    axis: Axes = -1,
    eps: float = 1e-5,
    scale_offset: float = 0.0,
) -> Elements:
    """RMS norm, y = (γ + s)·x/√(mean x² + ε), over the last axis or several.

    The offset s of the scale is 0 by default; Gemma's is 1. With a mask `where`, the mean is that
    of the entries that it selects; the others may hold anything, and their y and gradient are 0, as
    in `layer_norm`.

    Shapes:
        N batch, any number of axes or none; C features, the axes that are normalised
        params: {"scale": γ (C,)}, or {}
        where:  booleans that broadcast to the shape of x; optional
        x, y, dx, dy: (N, C); the axes of C may be any, and then γ has them in the order of x

    Backward, from ⟨dy, ẏ⟩ = ⟨dγ, γ̇⟩ + ⟨dx, ẋ⟩ with ẏ = γ̇·x̂ + (γ + s)·x̂˙. With
    r = 1/√(mean x² + ε), x̂ = r·x, and means over the features:
        ṙ  = −r³·mean(x·ẋ) = −r²·mean(x̂·ẋ)
        x̂˙ = r·ẋ + ṙ·x = r·(ẋ − x̂·mean(x̂·ẋ))
    The map from ẋ to x̂˙ is symmetric, so it is its own transpose. With g = (γ + s)·dy, the gradient
    of x̂:
        dx = r·(g − x̂·mean(x̂·g))
        dγ = Σₙ dy·x̂
    With a mask, x and dy count as 0 in dropped entries.

    Saves x, the params, the mask, and one number for each row in at least float32: recomputing it
    from x takes a pass.

    Implementation notes:
        The sums of dy·x over rows and columns are matrix–vector products, as in `layer_norm`.

    Args:
        params: γ.
        x: the rows to normalise.
        where: the entries that count; all by default.
        axis: the axis or axes of the features.
        eps: ε, above 0; a row of zeros gives 0. An ε that underflows in the dtype counts as its
            smallest normal number.
        scale_offset: s; 1 for scales stored as γ − 1. Without a scale the factor is 1 in any case.

    Raises:
        TypeError: an array is not floating point, or the mask not boolean.
        ValueError: the shapes do not fit, params has other keys, x has no such axis, or eps is not
            above 0.

    Reference: B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4;
    Gemma Team, "Gemma: Open Models Based on Gemini Research and Technology", 2024, for s = 1.

    Example:
        >>> params = {"scale": jnp.array([1.0, 10.0])}
        >>> [round(float(y), 3) for y in jaxnn.rms_norm(params, jnp.array([1.0, 7.0]))]
        [0.2, 14.0]
    """
    x = x if where is None else jnp.where(jnp.broadcast_to(where, x.shape), x, 0)
    r = textbook_r(textbook_mean(x**2, axis, where), eps)
    return textbook_affine(params, x * r, axis, scale_offset)


@rms_norm.validate
def _(params, x, where, *, axis, eps, scale_offset):
    require_normalised(params, x, eps, optional=["scale"], axis=axis)
    require_where(where, x.shape)
    require_number("scale_offset", scale_offset)


@rms_norm.forward
@wide
def rms_norm_fwd(params, x, where=None, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """y = (γ + s)·r·x."""
    axes, z = axes_of(x, axis), selected(x, where)
    mean = mean_over(z**2, axes, number_of(x, axes, where))
    r = stored(lax.rsqrt(mean + representable(eps, mean.dtype)))
    return affine(params, z * r, axes, scale_offset), RMSNormResiduals(params, x, where, r)


@rms_norm.backward
def rms_norm_bwd(residuals, dy, **options):
    """dx = r·(g − x̂·mean(x̂·g)), dγ = Σₙ dy·x̂."""
    product, *gradients = rms_norm_bwd_input(residuals, dy, **options)
    return rms_norm_bwd_params(residuals, product, **options), *gradients


@rms_norm.backward_input
@wide
def rms_norm_bwd_input(residuals, dy, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """dx = r·(g − x̂·mean(x̂·g)); dγ needs dy·x."""
    params, x, where, r = residuals
    axes = axes_of(x, axis)
    scale = scale_of(params, x, axes, scale_offset)
    x, dy = selected(x, where), selected(dy, where)
    product = dy * x
    mean_g_x_hat = r * _mean_of_rows(product, scale, axes, number_of(x, axes, where))
    g = dy * along(axes, scale, dy)
    return product, r * (g - x * r * mean_g_x_hat), None


@rms_norm.backward_params
@wide
def rms_norm_bwd_params(residuals, product, *, axis=-1, eps=1e-5, scale_offset=0.0):
    """dγ = Σₙ r·(dy·x)."""
    axes = axes_of(residuals.x, axis)
    return affine_gradient(residuals.params, _sum_over_batch(residuals.r, product, axes))


@rms_norm.backward_examples
@wide
def rms_norm_bwd_examples(
    residuals, product, *, examples_axis, axis=-1, eps=1e-5, scale_offset=0.0
):
    """dγₙ = Σₜ r·(dy·x)."""
    axes = axes_of(residuals.x, axis)
    dscale = _sum_over_places(residuals.r * product, axes, examples_axis)
    return affine_gradient(residuals.params, dscale)


@op
def group_norm(
    params: Params, x: Float[Array, "N *S C"], *, groups: int = 32, eps: float = 1e-5
) -> Float[Array, "N *S C"]:
    """Group norm, y = γ·(x − mean)/√(var + ε) + β, over each group of channels of each example.

    Mean and variance run over all the axes but the first, within a group of C/groups neighbouring
    channels. One group holds all the numbers of an example; C groups are an `instance_norm`.

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

    Saves x, the params (of β only its presence matters), and two numbers for each group in at least
    float32: recomputing them from x takes two passes. They are statistics of x minus the first
    number of its group.

    Implementation notes:
        Each sum runs over the places first, then over the channels of a group. On (32, 28, 28, 64)
        with 8 groups, forward and backward take 2.9 ms that way, and 7.3 ms with sums over whole
        groups (two cores of an Intel Xeon). The price: devices among which the places are sharded
        exchange A and B, C numbers for each example, not one for each group. The axes of the places
        are summed without merging them, which would gather sharded places on every device.

    Args:
        params: γ and β.
        x: examples, channels last.
        groups: the number of groups, a divisor of C.
        eps: ε, above 0; a constant group gives β. An ε that underflows in the dtype counts as its
            smallest normal number.

    Raises:
        TypeError: an array is not floating point, or groups is not an integer.
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
    x_hat = (z - mean) * textbook_r(var, eps)
    return textbook_affine(params, x_hat.reshape(x.shape))


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
    var = _mean_of_group((z - mean) ** 2)
    r = lax.rsqrt(var + representable(eps, var.dtype))
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
    scale = scale_of(params, x, (x.ndim - 1,)).reshape((*[1] * (x.ndim - 1), groups, -1))
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


@group_norm.backward_examples
def group_norm_bwd_examples(residuals, deltas, *, examples_axis, groups=32, eps=1e-5):
    """dγₙ = B, dβₙ = A."""
    require_examples_first(examples_axis)
    a, b = (Whole(s.reshape(s.shape[0], -1)) for s in deltas)
    return affine_gradient(residuals.params, b, a)


@op
def instance_norm(
    params: Params, x: Float[Array, "N *S C"], *, eps: float = 1e-5
) -> Float[Array, "N *S C"]:
    """Instance norm, y = γ·(x − mean)/√(var + ε) + β, over the places of each example and channel.

    It is `group_norm` with a group for each channel.

    Shapes:
        N batch; S places, one or more axes; C channels
        params: {"scale": γ (C,), "bias": β (C,)}; each is optional
        x, y, dx, dy: (N, S, C)

    Backward, with r, x̂ and the symmetric map as in `layer_norm`, but means over the places. Since
    γ is the same at all places of a channel, mean g = γ·mean dy and mean(x̂·g) = γ·mean(x̂·dy):
        A = Σₛ dy      B = Σₛ dy·x̂      (N, C)
        dx = γ·r·(dy − A/S − x̂·B/S)
        dγ = Σₙ B
        dβ = Σₙ A

    Saves x, the params (of β only its presence matters), and two numbers for each example and
    channel, as `group_norm` does.

    Args:
        params: γ and β.
        x: examples, channels last.
        eps: ε, above 0; a constant channel gives β. An ε that underflows in the dtype counts as its
            smallest normal number.

    Raises:
        TypeError: an array is not floating point.
        ValueError: the shapes do not fit, params has other keys, x has no axis of places, or eps is
            not above 0.

    Reference: D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing
    Ingredient for Fast Stylization", 2016, equation 8.

    Example:
        >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])
        >>> print(jnp.round(jaxnn.instance_norm({}, x), 3))
        [[[-1. -1.]
          [ 1.  1.]]]
    """
    places = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(x, axis=places, keepdims=True)
    var = jnp.mean((x - mean) ** 2, axis=places, keepdims=True)
    return textbook_affine(params, (x - mean) * textbook_r(var, eps))


@instance_norm.validate
def _(params, x, *, eps):
    require_normalised(params, x, eps, axes=3)
    if x.shape[-1] == 0:
        raise ValueError(f"x is {describe(x)}, with no channels in its last axis")


@instance_norm.forward
def instance_norm_fwd(params, x, *, eps=1e-5):
    """y = γ·r·(x − mean) + β."""
    return group_norm_fwd(params, x, groups=x.shape[-1], eps=eps)


@instance_norm.backward
def instance_norm_bwd(residuals, dy, *, eps=1e-5):
    """dx = γ·r·(dy − A/S − x̂·B/S), dγ = Σₙ B, dβ = Σₙ A."""
    return group_norm_bwd(residuals, dy, groups=dy.shape[-1], eps=eps)


@instance_norm.backward_input
def instance_norm_bwd_input(residuals, dy, *, eps=1e-5):
    """dx = γ·r·(dy − A/S − x̂·B/S); dγ and dβ need B and A."""
    return group_norm_bwd_input(residuals, dy, groups=dy.shape[-1], eps=eps)


@instance_norm.backward_params
def instance_norm_bwd_params(residuals, deltas, *, eps=1e-5):
    """dγ = Σₙ B, dβ = Σₙ A."""
    return group_norm_bwd_params(residuals, deltas, groups=residuals.x.shape[-1], eps=eps)


@instance_norm.backward_examples
def instance_norm_bwd_examples(residuals, deltas, *, examples_axis, eps=1e-5):
    """dγₙ = B, dβₙ = A."""
    return group_norm_bwd_examples(residuals, deltas, examples_axis=examples_axis)


def axes_of(x: Numbers, axis: Axes) -> tuple[int, ...]:
    """The axes of an option, from 0 and in their order."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % x.ndim for a in axes))


def others(axes: Sequence[int], x: Numbers) -> tuple[int, ...]:
    """The axes of `x` that are not among these."""
    return tuple(a for a in range(x.ndim) if a not in axes)


def selected(x: Numbers, where: Mask | None) -> Numbers:
    """`x`, with 0 in the entries that the mask drops, even if they were NaN."""
    return x if where is None else jnp.where(jnp.broadcast_to(where, x.shape), x, 0)


def number_of(x: Numbers, axes: Sequence[int], where: Mask | None = None):
    """The number of entries that each mean is over, at least 1."""
    if where is None:
        return max(math.prod(x.shape[a] for a in axes), 1)
    where = jnp.broadcast_to(where, x.shape)
    return jnp.maximum(jnp.sum(where, axes, jnp.int32, keepdims=True), 1).astype(x.dtype)


def mean_over(x: Numbers, axes: Sequence[int], n) -> Numbers:
    """Σ x/n over these axes."""
    return jnp.sum(x, axis=axes, keepdims=True) / n


def origin_of(x: Numbers, axes: Sequence[int], where: Mask | None) -> Numbers | None:
    """A first estimate of the mean of the selected numbers; `None` without a mask."""
    if where is None:
        return None
    mean = mean_over(selected(x, where), axes, number_of(x, axes, where))
    return lax.stop_gradient(mean)


def from_origin(x: Numbers, axes: Sequence[int], where: Mask | None, origin) -> Numbers:
    """`x` minus a number near its mean, 0 in the entries that the mask drops; see `from_first`."""
    if where is None:
        return from_first(x, axes)
    return selected(x - jnp.broadcast_to(origin, x.shape), where)


def from_first(z: Numbers, axes: Sequence[int]) -> Numbers:
    """`z` minus its first entry along these axes, so that a large mean costs no digits.

    A constant changes neither the normalised numbers nor their gradient.
    """
    first = z[tuple(slice(1 if axis in axes else None) for axis in range(z.ndim))]
    return z - lax.stop_gradient(first)


def along(axes: Sequence[int], param, x: Numbers) -> Numbers:
    """A parameter of these axes of `x`, in the shape of `x`."""
    return jnp.broadcast_to(jnp.expand_dims(param, others(axes, x)), x.shape)


def scale_of(params: Params, x: Numbers, axes: Sequence[int], offset: float = 0.0):
    """γ + s, or ones if there is no γ."""
    if "scale" not in params:
        return jnp.ones_like(x, shape=tuple(x.shape[a] for a in axes))
    return params["scale"] + offset if offset else params["scale"]


def affine(params: Params, x_hat: Numbers, axes: Axes = -1, offset: float = 0.0) -> Numbers:
    """(γ + s)·x̂ + β, with those of γ and β that are present."""
    axes = axes_of(x_hat, axes)
    if "scale" in params:
        x_hat = x_hat * along(axes, scale_of(params, x_hat, axes, offset), x_hat)
    return x_hat + along(axes, params["bias"], x_hat) if "bias" in params else x_hat


def affine_gradient(params: Params, dscale, dbias=None) -> dict:
    """The gradients of those of γ and β that are present."""
    gradients = {"scale": dscale, "bias": dbias}
    return {name: gradients[name] for name in params}


def textbook_affine(params: Params, x_hat: Numbers, axis: Axes = -1, offset=0.0) -> Numbers:
    """(γ + s)·x̂ + β for the definitions, which share nothing with `affine`."""
    wanted = {a % x_hat.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
    shape = [size if a in wanted else 1 for a, size in enumerate(x_hat.shape)]
    ones = jnp.ones(shape, x_hat.dtype)
    scale = params["scale"].reshape(shape) + offset if "scale" in params else ones
    bias = params["bias"].reshape(shape) if "bias" in params else 0 * ones
    return scale * x_hat + bias


def textbook_mean(x: Numbers, axis: Axes, where: Mask | None = None) -> Numbers:
    """The mean for the definitions; with a mask, 0 if it selects nothing."""
    if where is None:
        return jnp.mean(x, axis, keepdims=True)
    seen = jnp.broadcast_to(where, x.shape)
    number = jnp.maximum(jnp.sum(seen, axis, keepdims=True), 1)
    return jnp.sum(jnp.where(seen, x, 0), axis, keepdims=True) / number.astype(x.dtype)


def textbook_r(var: Numbers, eps: float) -> Numbers:
    """1/√(var + ε) for the definitions, with ε at least a small number of the dtype.

    The derivative of 1/√ in one step would overflow where those of √ and of 1/… do not.
    """
    smallest = min(float(jnp.finfo(var.dtype).tiny), 1e-7)  # in float16 a subnormal number
    return 1 / jnp.sqrt(var + max(eps, smallest))


def require_normalised(params, x, eps, *, optional=("scale", "bias"), axes=1, axis=-1) -> None:
    """Raise unless the arguments of a normalisation are valid.

    Args:
        params: the params.
        x: the numbers to normalise.
        eps: the option.
        optional: the keys that params may have.
        axes: the least number of axes that x has.
        axis: the axis or axes of x that the params have.
    """
    require_number("eps", eps, above=0)
    require_keys(params, [], optional)
    require_floating(**{f"params[{name!r}]": p for name, p in params.items()}, x=x)
    if x.ndim < axes:
        wanted = {
            1: "one axis, the features",
            2: "two axes, examples and channels",
            3: "three axes, examples, places and channels",
        }
        raise ValueError(f"x is {describe(x)}; it must have at least {wanted[axes]}")
    require_axes(x, axis)
    shape = tuple(x.shape[a] for a in axes_of(x, axis))
    each = "the last axis" if axis == -1 else f"axis {axis}"
    for name, p in params.items():
        if p.shape != shape:
            raise ValueError(
                f"params[{name!r}] has shape {p.shape} but x has shape {x.shape}: it must "
                f"be {shape}, one number for each entry of {each}"
            )


def require_groups(groups, channels: int) -> None:
    """Raise unless the number of groups divides the number of channels."""
    if type(groups) is not int:
        raise TypeError(f"groups must be an integer, got {groups!r}")
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")


def _mean_of_rows(x, scale, axes, n):
    """mean γ·x of each row, as the product of a matrix and a vector."""
    total = _dot(x, scale[..., None], axes, range(scale.ndim))[..., 0]
    return jnp.expand_dims(total, axes) / n


def _sum_over_batch(r, x, axes):
    """Σₙ r·x of each column, as the product of a vector and a matrix."""
    batch = others(axes, x)
    return jnp.squeeze(_dot(r, x, batch, batch), tuple(range(len(axes))))


def _sum_over_places(x, axes, examples_axis):
    """Σₜ x of each example and column."""
    require_examples_axis(min(axes), examples_axis)
    summed = tuple(a for a in others(axes, x) if a != examples_axis)
    return sum_over_places(x, summed)


def _dot(a, b, a_axes, b_axes):
    """A matrix product in full precision on every device, because it computes a sum."""
    dimensions = (a_axes, b_axes), ((), ())
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)


def _grouped(x, groups):
    """(N, S, C) as (N, S, groups, C/groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _grouped_from_first(x, groups):
    """The groups, each minus its first number."""
    z = _grouped(x, groups)
    return from_first(z, (*_places(z), z.ndim - 1))


def _places(z):
    """The axes of the places of an array of groups."""
    return tuple(range(1, z.ndim - 2))


def _mean_of_group(z):
    """The mean over places, then over the channels of a group: faster than over both at once."""
    return jnp.mean(jnp.mean(z, axis=_places(z), keepdims=True), axis=-1, keepdims=True)
