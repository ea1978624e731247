"""Softmax and cross-entropy in one op: the loss of a classifier from its logits."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    added_at_labels,
    as_distribution,
    as_floats,
    as_labels,
    at_label,
    class_axes,
    is_labels,
    nan_out_of_range,
    one_hot,
    require_class_weights,
    require_target,
    row_weights,
    weights_of_labels,
    without_ignored,
)
from jaxnn.ops._common.numerics import unit_columns, wide
from jaxnn.ops._common.softcap import softcap_slope, softcapped
from jaxnn.ops._common.validation import require_number, require_where
from jaxnn.ops.activations.softmax import log_softmax, logsumexp

Logits = Float[Array, "..."]
Target = Integer[Array, "..."] | Float[Array, "..."] | Bool[Array, "..."]
ClassWeights = Float[Array, "..."]
Mask = Bool[Array, "..."]
Row = Float[Array, "..."]


class LabelResiduals(NamedTuple):
    """The arguments, and three numbers a row from which the probabilities follow.

    They are the maximum of x and, capped and relative to it, the sum R of exponentials and the
    label's logit.
    """

    logits: Logits
    labels: Integer[Array, "..."]
    class_weights: ClassWeights | None
    where: Mask | None
    maximum: Row
    others: Row
    of_label: Row


class DistributionResiduals(NamedTuple):
    """The arguments, and two numbers a row from which the probabilities follow.

    They are the maximum of x, and r, where 1 + r is the sum of exponentials relative to it.
    """

    logits: Logits
    target: Float[Array, "..."] | Bool[Array, "..."]
    class_weights: ClassWeights | None
    where: Mask | None
    maximum: Row
    rest: Row


@op
def softmax_cross_entropy(
    logits: Logits,
    target: Target,
    class_weights: ClassWeights | None = None,
    where: Mask | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Row:
    """Cross-entropy of softmax(logits), one value per example, from the logits themselves.

    L = −Σₖ vₖ·tₖ·log pₖ + ζ·ℓ² with p = softmax(x), ℓ = log Σₖ e^xₖ, the weights v of the classes,
    1 by default, and ζ, 0 by default; no 1/K, no 1/N.

    Shapes:
        N batch, any number of axes or none; K classes, in `axis`
        logits x, dx: (N, K)
        target: integer labels (N,), meaning t = a row of the identity, or a distribution t (N, K)
            with its gradient dt, whose rows need not sum to 1; it may hold booleans
        class_weights v, dv: (K,)
        where: booleans that broadcast to (N, K), or (N,)
        L, dL:  (N,)

    With label smoothing s, t is replaced by (1 − s)·t + s/K. The weights apply after it, as in
    PyTorch: the loss of a label c is −(1 − s)·v_c·log p_c − (s/K)·Σₖ vₖ·log pₖ. With a softcap a, x
    is replaced by a·tanh(x/a). A row whose label is `ignore_label` has loss 0 and gradient 0,
    whatever it holds; the reduction "weighted_mean" omits it. A class with logit −∞ and no
    share in the target, or with weight 0, is omitted from the sum.

    Classes where the mask is false are dropped, as in optax: they take no part in p, in K or in the
    sum, their share of the target is dropped too, and their dx is 0, whatever the logits hold
    there. A mask of shape (N,) drops whole rows. A row without any class has p = 0 and ℓ = 0.

    Backward, from ⟨dL, L̇⟩ with q = v ⊙ t, ∂log pₖ/∂xⱼ = δⱼₖ − pⱼ and ∂ℓ/∂xⱼ = pⱼ:
        ∂L/∂xⱼ = pⱼ·Σₖ qₖ − qⱼ + 2·ζ·ℓ·pⱼ,   p − t where t sums to 1
        ∂L/∂tⱼ = −(1 − s)·vⱼ·log pⱼ
        ∂L/∂vⱼ = −tⱼ·log pⱼ, summed over the rows
    and dx is multiplied by 1 − tanh²(x/a) with a softcap.
    p − t loses its digits when p → t = 1, so 1 − p is never computed by a subtraction:
      * labels: with eⱼ = e^(xⱼ − max x), and R the sum of eⱼ over the classes other than the
        label c, the total is R + e_c and 1 − p_c = R/(R + e_c):
            dx = (e, with −R in place c)/(R + e_c)·dL
        with Q = Σq and U = (s/K)·Σv, in place c: (U·(R + e_c) − Q·R + 2·ζ·ℓ·e_c)/(R + e_c)·dL,
        elsewhere (Q + 2·ζ·ℓ)·e/(R + e_c)·dL, and everywhere −(s/K)·v·dL
      * distributions: with 1 + r the total, 1 − p = r/(1 + r) at the largest logit:
            dx = (p ⊙ (Σq − q) − q ⊙ (1 − p) + 2·ζ·ℓ·p)·dL
            dt = −(1 − s)·v ⊙ log(p)·dL

    Saves its arguments and, for each row, the maximum, R and the label's logit, or r, from which p
    and 1 − p follow with one exponential and no further sum. They are saved separately, in at least
    float32: in max x + log(1 + r) a large logit would round r away.

    Implementation notes:
        Both passes write e, with 0 in place c, the same way, so that the compiler computes it once
        when it compiles both. A label out of range makes e_c, and so the loss and gradient, NaN.

    Args:
        logits: x.
        target: labels or distributions. Over several axes, a label is a flat index in C order.
        class_weights: optional v, with the shape of the axes of the classes.
        where: optional, the classes to include.
        axis: the axis of the classes, or a tuple of axes; 1 for the pixels of (N, K, H, W).
        label_smoothing: s, 0 … 1.
        ignore_label: the label of the rows to ignore.
        z_loss: ζ, the weight of the squared log-sum-exp, which keeps the logits near 0. It does not
            depend on the weights of the classes.
        softcap: optional a, a bound that the logits approach smoothly.

    Raises:
        TypeError: logits or class_weights are not floating point, or where does not hold booleans.
        ValueError: the shapes do not fit, or an option or a label is out of range (under `jit`,
            where labels are not known, such a row gives NaN).

    Reference: S. Shamsi, "Neural Nets From Scratch", SHALA 2020, slides "Cross entropy" to
    "ŷ − y", there for Σt = 1; C. Szegedy et al., "Rethinking the Inception Architecture", 2016,
    section 7; A. Chowdhery et al., "PaLM", 2022, section 5, for z_loss; Gemma Team, "Gemma 2",
    2024, section 2, for softcap. Weights and smoothing follow `torch.nn.CrossEntropyLoss`, axis and
    where `optax.softmax_cross_entropy`.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [1e4, 0.0]])
        >>> print(jaxnn.softmax_cross_entropy(logits, jnp.array([0, 1])))
        [6.931472e-01 1.000000e+04]
        >>> rare = jnp.array([1.0, 10.0])
        >>> print(jaxnn.softmax_cross_entropy(logits[:1], jnp.array([1]), rare))
        [6.931472]
    """
    t, seen = as_distribution(target, logits, ignore_label, axis), jnp.ones(logits.shape, bool)
    if where is not None:
        rows = where if where.ndim == logits.ndim else jnp.expand_dims(where, axis)
        seen = jnp.broadcast_to(rows, logits.shape)
    ignored = jnp.zeros(logits.shape, bool)
    if ignore_label is not None:
        of_rows = jnp.expand_dims(as_labels(target) == ignore_label, axis)
        ignored = jnp.broadcast_to(of_rows, logits.shape)
    x = jnp.where(seen & ~ignored, logits, 0)
    if softcap is not None:
        info = jnp.finfo(x.dtype)
        a = min(max(softcap, float(info.tiny)), float(info.max))
        reach = min(100 * a, float(info.max))
        x = a * jnp.tanh(jnp.clip(x, -reach, reach) / a)
    if label_smoothing:
        n_classes = jnp.maximum(jnp.sum(seen, axis, dtype=x.dtype, keepdims=True), 1)
        t = (1 - label_smoothing) * t + label_smoothing / n_classes
    if class_weights is not None:
        axes = [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
        ascending = jnp.transpose(class_weights, sorted(range(len(axes)), key=axes.__getitem__))
        t = t * jnp.expand_dims(ascending, [a for a in range(x.ndim) if a not in axes])
    t = jnp.where(seen & ~ignored, t, 0)
    minus_log_p = -log_softmax.definition(x, seen, axis=axis)
    omitted = (t == 0) & jnp.isposinf(minus_log_p)
    losses = jnp.sum(t * jnp.where(omitted, 0, minus_log_p), axis)
    if z_loss:
        log_total = logsumexp.definition(x, seen, axis=axis)
        log_total = jnp.where(jnp.isneginf(log_total) | jnp.all(ignored, axis), 0, log_total)
        losses = losses + z_loss * log_total**2
    return losses


@softmax_cross_entropy.validate
def _(
    logits,
    target,
    class_weights,
    where,
    *,
    axis,
    label_smoothing,
    ignore_label,
    z_loss,
    softcap,
):
    if label_smoothing != 0:
        require_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    if z_loss != 0:
        require_number("z_loss", z_loss, at_least=0)
    if softcap is not None:
        require_number("softcap", softcap, above=0)
    require_target(target, ignore=ignore_label, axis=axis, logits=logits)
    axes = class_axes(axis, logits.ndim)
    require_class_weights(class_weights, tuple(map(logits.shape.__getitem__, axes)))
    if where is not None:
        rows = tuple(size for a, size in enumerate(logits.shape) if a not in axes)
        if where.ndim != logits.ndim and where.shape != rows:
            raise ValueError(
                f"where has shape {where.shape} and the logits have shape {logits.shape}: it must "
                f"have as many axes, or one boolean for each row, shape {rows}"
            )
        require_where(where, logits.shape if where.ndim == logits.ndim else rows)


@softmax_cross_entropy.row_weights
def softmax_cross_entropy_row_weights(
    logits, target, class_weights=None, where=None, *, axis=-1, ignore_label=None, **_
):
    """The weights that PyTorch's mean divides by; 0 for a row without any class."""
    axes = class_axes(axis, logits.ndim)
    counts = row_weights(target, logits, class_weights, ignore_label, axis)
    seen = _seen(where, logits.shape, axes)
    return counts if seen is None else jnp.where(jnp.any(seen, axes), counts, 0)


@softmax_cross_entropy.forward
@wide
def softmax_cross_entropy_fwd(
    logits,
    target,
    class_weights=None,
    where=None,
    *,
    axis=-1,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
):
    """L = (1 − s)·v_c·(log Σe − x_c) + (s/K)·Σ v·(log Σe − x) + ζ·ℓ², x from its maximum."""
    axes, s = class_axes(axis, logits.ndim), label_smoothing
    seen = _seen(where, logits.shape, axes)
    if not is_labels(target):
        return _distribution_fwd(
            logits, target, class_weights, where, seen, axes, s, z_loss, softcap
        )
    labels, sizes = target, tuple(map(logits.shape.__getitem__, axes))
    is_label = one_hot(labels, sizes, axes)
    maximum = lax.stop_gradient(_maximum(logits, seen, axes, softcap))
    shifted, top = _shifted(logits, maximum, seen, softcap)
    e = jnp.where(_or_unseen(is_label, seen), 0, jnp.exp(shifted))
    others = jnp.sum(e, axis=axes, keepdims=True)
    of_label = at_label(logits if seen is None else jnp.where(seen, logits, maximum), labels, axes)
    of_label = nan_out_of_range(of_label, labels, math.prod(sizes), ignore_label)
    of_label, _ = _shifted(jnp.expand_dims(of_label, axes), maximum, None, softcap)
    if seen is not None:
        dropped = _dropped(is_label, seen, axes)
        of_label = jnp.where(dropped, jnp.finfo(of_label.dtype).min, of_label)
    log_total, _ = _totals(others, of_label)
    losses = log_total - of_label
    if class_weights is not None or seen is not None:
        weights = _weights_of_rows(class_weights, labels, is_label, seen, axes)
        losses = weights * _minus_log_p(weights, log_total, of_label)
    if s:
        u = _uniform(s, class_weights, seen, logits, axes)
        sum_u = _sum_of_classes(u, logits, axes)
        below = u * jnp.where(u == 0, 0, shifted)
        losses = (1 - s) * losses + (sum_u * log_total - jnp.sum(below, axes, keepdims=True))
    if z_loss:
        losses = losses + z_loss * (top + log_total) ** 2
    losses = jnp.squeeze(losses, axes)
    if ignore_label is not None:
        losses = without_ignored(losses, labels, ignore_label)
    residuals = LabelResiduals(logits, labels, class_weights, where, maximum, others, of_label)
    return losses, residuals


@softmax_cross_entropy.backward
@wide
def softmax_cross_entropy_bwd(
    residuals,
    dy,
    *,
    axis=-1,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
):
    """dx = ((Q + 2·ζ·ℓ)·e, with U·Σe − Q·R + 2·ζ·ℓ·e_c in place c)/Σe·dL − (s/K)·v·dL."""
    logits, target, class_weights, where = residuals[:4]
    axes, s = class_axes(axis, logits.ndim), label_smoothing
    seen = _seen(where, logits.shape, axes)
    if isinstance(residuals, DistributionResiduals):
        return _distribution_bwd(residuals, dy, seen, axes, s, z_loss, softcap)
    labels, sizes = target, tuple(map(logits.shape.__getitem__, axes))
    maximum, others, of_label = residuals[4:]
    dloss = jnp.expand_dims(dy, axes)
    is_label = one_hot(labels, sizes, axes)
    shifted, top = _shifted(logits, maximum, seen, softcap)
    e = jnp.where(_or_unseen(is_label, seen), 0, jnp.exp(shifted))
    log_total, total = _totals(others, of_label)
    if s:
        u = _uniform(s, class_weights, seen, logits, axes)
        sum_u = _sum_of_classes(u, logits, axes)
    if class_weights is None and seen is None:
        of_others, in_place = 1, s * total - others
    else:
        sum_q = (1 - s) * _weights_of_rows(class_weights, labels, is_label, seen, axes)
        in_place = 0
        if s:
            sum_q, in_place = sum_q + sum_u, sum_u * total
        of_others, in_place = sum_q, in_place - sum_q * others
    if z_loss:
        squared = 2 * z_loss * (top + log_total)
        of_others, in_place = of_others + squared, in_place + squared * jnp.exp(of_label)
    slope = dloss / total
    if isinstance(of_others, int):
        dx = jnp.where(is_label, in_place, e) * slope
    else:
        dx = jnp.where(is_label, in_place * slope, e * (of_others * slope))
    if s:
        dx = dx - u * dloss
    if softcap is not None:
        dx = dx * softcap_slope(logits, softcap)
    if seen is not None:
        dx = jnp.where(seen, dx, 0)
    if ignore_label is not None:
        dx = without_ignored(dx, jnp.expand_dims(labels, axes), ignore_label)
    if class_weights is None:
        return dx, None, None, None
    weights = _weights_of_rows(class_weights, labels, is_label, seen, axes)
    of_rows = (1 - s) * _minus_log_p(weights, log_total, of_label)
    if seen is not None:
        of_rows = jnp.where(_dropped(is_label, seen, axes), 0, of_rows)
    of_rows = jnp.squeeze(of_rows * dloss, axes)
    if ignore_label is not None:
        of_rows = without_ignored(of_rows, labels, ignore_label)
    dweights = added_at_labels(of_rows, labels, class_weights.size).reshape(sizes)
    if s:
        share = _uniform(s, None, seen, logits, axes)
        weights = _along(class_weights, axes, logits.ndim)
        of_classes = share * _minus_log_p(weights, log_total, shifted) * dloss
        if ignore_label is not None:
            of_classes = without_ignored(of_classes, jnp.expand_dims(labels, axes), ignore_label)
        dweights = dweights + _of_classes(of_classes, axes)
    return dx, None, dweights, None


@softmax_cross_entropy.hessian_root
@wide
def softmax_cross_entropy_hessian_root(
    residuals,
    *,
    axis=-1,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
):
    """∂²L/∂x² = Q·(diag(p) − p·pᵀ) = Σ_c Q·p_c·(e_c − p)·(e_c − p)ᵀ, with Q = Σₖ qₖ.

    The sum is Σ_c p_c·e_c·e_cᵀ − p·pᵀ − p·pᵀ + p·pᵀ, because Σ_c p_c = 1. In place c of column c,
    1 − p_c is the sum of the other probabilities, which keeps its digits when p_c is nearly 1.
    """
    logits, target, class_weights, where = residuals[:4]
    if where is not None or z_loss or softcap is not None or axis not in (-1, logits.ndim - 1):
        raise ValueError(
            "softmax_cross_entropy: hessian_root supports no where, z_loss or softcap, and only "
            "classes along the last axis"
        )
    k = logits.shape[-1]
    p = jnp.exp(log_softmax.fwd(logits)[0])
    t = one_hot(target, k) if is_labels(target) else target
    t = (1 - label_smoothing) * t.astype(p.dtype) + label_smoothing / k
    q = t if class_weights is None else t * jnp.broadcast_to(class_weights, t.shape)
    of_row = jnp.sum(q, axis=-1)
    if ignore_label is not None and is_labels(target):
        of_row = jnp.where(target == ignore_label, 0, of_row)
    scale = jnp.sqrt(of_row[..., None] * p)
    unit = unit_columns(p)
    rest = jnp.broadcast_to(p @ (1 - jnp.eye(k, dtype=p.dtype)), unit.shape)
    columns = jnp.where(unit == 1, rest, -jnp.broadcast_to(p, unit.shape))
    return columns * jnp.broadcast_to(jnp.moveaxis(scale, -1, 0)[..., None], columns.shape)


def _distribution_fwd(logits, target, class_weights, where, seen, axes, s, z_loss, softcap):
    """L = Σₖ qₖ·(log(1 + r) − (xₖ − max x)) + ζ·ℓ²."""
    maximum = _maximum(logits, seen, axes, softcap)
    shifted, top = _shifted(logits, maximum, seen, softcap)
    rest = _rest(shifted, _attained(logits, maximum, seen), seen, axes)
    q = _weighted(_smoothed(as_floats(target, logits), s, seen, axes), class_weights, axes)
    log_total = jnp.log1p(rest)
    losses = jnp.sum(q * _minus_log_p(q, log_total, shifted), axis=axes)
    if z_loss:
        losses = losses + z_loss * jnp.squeeze(top + log_total, axes) ** 2
    residuals = DistributionResiduals(logits, target, class_weights, where, maximum, rest)
    return losses, residuals


def _distribution_bwd(residuals, dy, seen, axes, s, z_loss, softcap):
    """dx = (p ⊙ (Σq − q) − q ⊙ (1 − p) + 2·ζ·ℓ·p)·dL, dt = −(1 − s)·v ⊙ log(p)·dL."""
    logits, target, class_weights, _, maximum, rest = residuals
    shifted, top = _shifted(logits, maximum, seen, softcap)
    t, dloss = _smoothed(as_floats(target, logits), s, seen, axes), jnp.expand_dims(dy, axes)
    q = _weighted(t, class_weights, axes)
    p = jnp.exp(shifted) / (1 + rest)
    complement = jnp.where(_attained(logits, maximum, seen), rest / (1 + rest), 1 - p)
    dx = p * (jnp.sum(q, axis=axes, keepdims=True) - q) - q * complement
    if z_loss:
        dx = dx + 2 * z_loss * (top + jnp.log1p(rest)) * p
    dx = dx * dloss
    if softcap is not None:
        dx = dx * softcap_slope(logits, softcap)
    minus_log_p = _minus_log_p(q, jnp.log1p(rest), shifted)
    dt = _weighted((1 - s) * minus_log_p * dloss, class_weights, axes)
    if seen is not None:
        dx, dt = jnp.where(seen, dx, 0), jnp.where(seen, dt, 0)
    dweights = None
    if class_weights is not None:
        dweights = _of_classes(t * minus_log_p * dloss, axes)
    return dx, None if target.dtype == bool else dt, dweights, None


def _seen(where, shape, axes):
    """The mask in this shape; `None` if there is none."""
    if where is None:
        return None
    return jnp.broadcast_to(
        where if where.ndim == len(shape) else jnp.expand_dims(where, axes), shape
    )


def _or_unseen(is_label, seen):
    return is_label if seen is None else is_label | ~seen


def _maximum(z, seen, axes, softcap) -> Row:
    """The largest logit of each row, and 0 where none is above −∞, which a softcap makes finite."""
    lowest = jnp.finfo(z.dtype).min
    counted = z if seen is None else jnp.where(seen, z, lowest)
    initial = lowest if 0 in z.shape else None
    maximum = jnp.max(counted, axis=axes, keepdims=True, initial=initial)
    if seen is not None:
        maximum = jnp.where(jnp.any(seen, axes, keepdims=True), maximum, 0)
    return maximum if softcap is not None else jnp.where(maximum < lowest, 0, maximum)


def _shifted(x, maximum, seen, softcap):
    """The capped logits minus their capped maximum, and that maximum.

    The difference is exactly 0 at the maximum and for dropped classes. Two evaluations of tanh in
    one program may differ in the last bit, so these places are found before it.
    """
    x = x if seen is None else jnp.where(seen, x, maximum)
    if softcap is None:
        return x - maximum, maximum
    top = softcapped(maximum, softcap)
    shifted = softcapped(x, softcap) - top
    return shifted - lax.stop_gradient(jnp.where(x == maximum, shifted, 0)), top


def _totals(others, of_label) -> tuple[Row, Row]:
    """log(R + e_c) and R + e_c; 0 and 1 for a row in which all is −∞."""
    rest, total = others + jnp.expm1(of_label), others + jnp.exp(of_label)
    return jnp.log1p(jnp.where(rest < 0, 0, rest)), jnp.where(total < 1, 1, total)


def _attained(x, maximum, seen):
    """True where a logit is the maximum of its row."""
    return x == maximum if seen is None else (x == maximum) & seen


def _rest(shifted, attained, seen, axes) -> Row:
    """r for which Σ e^(x − max x) = 1 + r: the sum over all but one of the maxima."""
    others = jnp.where(_or_unseen(attained, seen), 0, jnp.exp(shifted))
    others = jnp.sum(others, axis=axes, keepdims=True)
    ties = jnp.sum(attained, axis=axes, keepdims=True, dtype=shifted.dtype) - 1
    return jnp.where(others + ties < 0, 0, others + ties)


def _along(class_weights, axes, ndim):
    """The weights of the classes, shaped to broadcast along the axes of the classes."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    return jnp.expand_dims(
        jnp.transpose(class_weights, order), [a for a in range(ndim) if a not in axes]
    )


def _of_classes(array, axes):
    """The sum over the rows, in the shape of the weights of the classes."""
    total = jnp.sum(array, [a for a in range(array.ndim) if a not in axes])
    ascending = sorted(axes)
    return jnp.transpose(total, [ascending.index(a) for a in axes])


def _dropped(is_label, seen, axes):
    """Whether the label of each row is a class that the mask drops."""
    return jnp.any(is_label & ~seen, axes, keepdims=True)


def _weights_of_rows(class_weights, labels, is_label, seen, axes):
    """v_c of each row, and 0 where class c is dropped."""
    of_rows = 1.0
    if class_weights is not None:
        of_rows = jnp.expand_dims(weights_of_labels(class_weights, labels), axes)
    return of_rows if seen is None else jnp.where(_dropped(is_label, seen, axes), 0, of_rows)


def _uniform(s, class_weights, seen, z, axes):
    """(s/K)·v, with K the number of classes that the mask keeps."""
    if seen is None:
        share = s / math.prod(z.shape[a] for a in axes)
    else:
        n_classes = jnp.sum(seen, axes, keepdims=True, dtype=z.dtype)
        share = jnp.where(seen, s / jnp.maximum(n_classes, 1), 0)
    return share if class_weights is None else share * _along(class_weights, axes, z.ndim)


def _sum_of_classes(u, z, axes):
    """Σₖ uₖ."""
    if isinstance(u, float):
        return u * math.prod(z.shape[a] for a in axes)
    return jnp.sum(u, axes, keepdims=True)


def _smoothed(t, s, seen, axes):
    """(1 − s)·t + s/K, 0 where a class is dropped."""
    t = t if seen is None else jnp.where(seen, t, 0)
    return (1 - s) * t + _uniform(s, None, seen, t, axes) if s else t


def _weighted(t, class_weights, axes):
    return t if class_weights is None else t * _along(class_weights, axes, t.ndim)


def _minus_log_p(q, log_total, shifted):
    """log Σe − (x − max x), and 0 for a class that x = −∞ excludes and that has no share."""
    minus_log_p = log_total - shifted
    infinite = minus_log_p > jnp.finfo(minus_log_p.dtype).max
    return jnp.where((q == 0) & infinite, 0, minus_log_p)
