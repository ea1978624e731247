"""The loss of a classifier from its last layer's input, without building all the logits at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from jaxnn.example_gradients import (
    ExampleGradients,
    places as examples_first,
    require_examples_axis,
)
from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Labels,
    Losses,
    added_at_labels,
    as_labels,
    is_labels,
    nan_out_of_range,
    places_of,
    require_class_weights,
    row_weights,
    weights_of_labels,
    without_ignored,
)
from jaxnn.ops._common.numerics import accumulator, at_least_float32, contract, wide
from jaxnn.ops._common.softcap import softcap_slope, softcapped
from jaxnn.ops._common.tuning import CHUNK_LOGITS, SHORTEST_CHUNK
from jaxnn.ops._common.validation import describe, require_labels, require_number
from jaxnn.ops.activations.softmax import logsumexp
from jaxnn.ops.linear import Params, linear, require_linear

Weights = Float[Array, "K"]
Row = Float[Array, "*N"]


class LinearSoftmaxResiduals(NamedTuple):
    """The arguments, and three numbers a row from which the probabilities follow.

    They are the maximum of z, the sum R of exponentials relative to it, and the label's logit.
    """

    params: Params
    x: Float[Array, "*N I"]
    labels: Labels
    class_weights: Weights | None
    maximum: Row
    others: Row
    of_label: Row


@op
def linear_softmax_cross_entropy(
    params: Params,
    x: Float[Array, "*N I"],
    labels: Labels,
    class_weights: Weights | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> Losses:
    """Softmax cross-entropy of a linear layer, one value per example, in chunks of classes.

    L = Σₖ vₖ·tₖ·(ℓ − zₖ) + ζ·ℓ² with the logits z = x·W + b, ℓ = log Σₖ e^zₖ, the label c,
    t = (1 − s)·δ_c + s/K and the weights v of the classes; no 1/K, no 1/N. With a softcap a, z is
    replaced by a·tanh(z/a). It is `softmax_cross_entropy` of z, and weights and smoothing combine
    in the same way: −(1 − s)·v_c·log p_c − (s/K)·Σₖ vₖ·log pₖ.

    Shapes:
        N batch, any number of axes or none; I inputs; K classes
        params: {"w": (I, K), "b": (K,)}; "b" is optional
        x, dx:  (N, I)
        labels: integers (N,)
        class_weights v, dv: (K,), 1 by default
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0, whatever x holds there; the
    reduction "weighted_mean" omits it. A class with logit −∞ and weight 0, or no share in t, is
    omitted from the sum.

    Backward, from ∂ℓ/∂zⱼ = pⱼ, with q = v ⊙ t:
        dzⱼ = (pⱼ·Σₖ qₖ − qⱼ + 2·ζ·ℓ·pⱼ)·dL,   with a softcap times 1 − tanh²(z/a)
        dW  = xᵀ·dz                            ⟨dz, x·Ẇ⟩ = ⟨xᵀ·dz, Ẇ⟩
        db  = Σₙ dz                            every row n has the same b
        dx  = dz·Wᵀ                            ⟨dz, ẋ·W⟩ = ⟨dz·Wᵀ, ẋ⟩
        dvⱼ = Σₙ tⱼ·(ℓ − zⱼ)·dL
    As in `softmax_cross_entropy`, with R the sum over the classes other than the label,
    1 − p_c = R/(R + e_c) is never computed by a subtraction.

    Tangent, with the dz that belongs to dL = 1:
        L̇ = ⟨dz, ẋ·W + x·Ẇ + ḃ⟩ + Σₖ v̇ₖ·tₖ·(ℓ − zₖ)

    Saves its arguments and the maximum, R and the label's logit of each row, in at least float32.
    Recomputing the logits is a fourth matrix product where autodiff has three; it costs less than
    writing and reading N·K numbers.

    Implementation notes:
        Each class has its own column of W, so N·K logits are never held at once: the forward pass
        loops over chunks of classes and carries for each row the maximum so far and the sum of
        exponentials relative to it, rescaled when the maximum grows. The backward loops over the
        chunks again: it recomputes the logits of each and turns them into dz, which gives the
        chunk's columns of dW and db and its term of dx. The tangent sums ⟨dz, ż⟩ over the chunks
        in the same way. Products and sums of float16 and bfloat16 accumulate in float32.

    Args:
        params: W and, optionally, b.
        x: the input of the linear layer.
        labels: the class of each row.
        class_weights: optional v, the weight of the rows of each class.
        label_smoothing: s, 0 … 1.
        ignore_label: optional, the label of rows to ignore.
        z_loss: ζ, the weight of the squared log-sum-exp, which keeps the logits near 0.
        softcap: optional a, a bound that the logits approach smoothly.
        chunk: the number of classes to process at a time; by default that of about 2²¹ logits, on a
            GPU 2²⁶, but at least 512 classes.

    Raises:
        TypeError: an array is not floating point, or labels are not integers.
        ValueError: the shapes do not fit; an option or a label is out of range (under `jit`, where
            labels are not known, such a row gives NaN).

    Reference: E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025,
    section 4; A. Chowdhery et al., "PaLM", 2022, section 5, for z_loss; Gemma Team, "Gemma 2",
    2024, section 2, for softcap. Weights and smoothing follow `torch.nn.CrossEntropyLoss`.

    Example:
        >>> params = {"w": jnp.zeros((3, 4)), "b": jnp.array([0.0, 0.0, 0.0, 1e4])}
        >>> print(jaxnn.linear_softmax_cross_entropy(params, jnp.ones((2, 3)), jnp.array([3, 0])))
        [    0. 10000.]
    """
    n_classes, s = params["w"].shape[1], label_smoothing
    labels = as_labels(labels)
    ignored = jnp.zeros(labels.shape, bool) if ignore_label is None else labels == ignore_label
    z = linear.definition(params, jnp.where(ignored[..., None], 0, x))
    if softcap is not None:
        info = jnp.finfo(z.dtype)
        a = min(max(softcap, float(info.tiny)), float(info.max))
        reach = min(100 * a, float(info.max))
        z = a * jnp.tanh(jnp.clip(z, -reach, reach) / a)
    log_total = logsumexp.definition(z)
    log_total = jnp.where(jnp.isneginf(log_total), 0, log_total)
    of_label = jnp.take_along_axis(z, labels[..., None], axis=-1, mode="clip")[..., 0]
    losses = (1 - s) * (log_total - of_label)
    weights = jnp.ones(n_classes, z.dtype) if class_weights is None else class_weights
    if class_weights is not None:
        losses = weights.at[labels].get(mode="clip") * losses
    if s:
        minus_log_p = log_total[..., None] - z
        weights = jnp.broadcast_to(weights, z.shape)
        omitted = (weights == 0) & jnp.isposinf(minus_log_p)
        shares = s / n_classes * weights * jnp.where(omitted, 0, minus_log_p)
        losses = losses + jnp.sum(shares, axis=-1)
    if z_loss:
        losses = losses + z_loss * log_total**2
    valid = (labels >= 0) & (labels < n_classes)
    losses = jnp.where(ignored, 0, losses)
    return losses * jnp.where(valid | ignored, jnp.ones_like(losses), jnp.nan)


@linear_softmax_cross_entropy.validate
def _(params, x, labels, class_weights, *, label_smoothing, ignore_label, z_loss, softcap, chunk):
    require_linear(params, x)
    n_classes = params["w"].shape[1]
    if n_classes == 0:
        raise ValueError(f"params['w'] has shape {params['w'].shape}, with no class")
    require_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    require_number("z_loss", z_loss, at_least=0)
    if softcap is not None:
        require_number("softcap", softcap, above=0)
    if ignore_label is not None and type(ignore_label) is not int:
        raise TypeError(f"option ignore_label must be an integer, got {ignore_label!r}")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise ValueError(f"option chunk must be a positive integer, got {chunk!r}")
    if not is_labels(labels):
        raise TypeError(f"labels must be integers, got {describe(labels)}")
    require_labels(labels, x.shape[:-1], n_classes, ignore_label)
    require_class_weights(class_weights, n_classes)


@linear_softmax_cross_entropy.row_weights
def linear_softmax_cross_entropy_row_weights(
    params, x, labels, class_weights=None, *, ignore_label=None, **_
):
    """PyTorch's divisor."""
    return row_weights(labels, x, class_weights, ignore_label)


@linear_softmax_cross_entropy.forward
def linear_softmax_cross_entropy_fwd(
    params,
    x,
    labels,
    class_weights=None,
    *,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
    chunk=None,
):
    """L = (1 − s)·v_c·(ℓ − z_c) + (s/K)·Σ v·(ℓ − z) + ζ·ℓ², from sums carried over the chunks."""
    s, n_classes = label_smoothing, params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), places_of(labels, n_classes)
    uniform = _uniform(s, class_weights, n_classes)

    def add(sums, start, size):
        old, others, of_label, below = sums
        z = _logits(rows, _columns(params, start, size))
        place = places - start
        maximum = lax.stop_gradient(jnp.maximum(old, jnp.max(z, axis=-1)))
        grown = _capped(old, softcap) - _capped(maximum, softcap)
        shifted = _capped(z, softcap) - _capped(maximum, softcap)[..., None]
        of_others = jnp.where(_is_at(place, size), 0, jnp.exp(shifted))
        others = others * jnp.exp(grown) + jnp.sum(of_others, axis=-1)
        at_place = jnp.take_along_axis(z, place[..., None], axis=-1, mode="clip")[..., 0]
        of_label = jnp.where((place >= 0) & (place < size), at_place, of_label)
        if s:
            before = _sum_before(start, uniform, z)
            u = _of_chunk(uniform, start, size, z.ndim)
            below = below + jnp.where(before == 0, 0, before * grown)
            below = below + jnp.sum(u * jnp.where(u == 0, 0, shifted), axis=-1)
        return maximum, others, of_label, below

    zeros = jnp.zeros_like(x, accumulator(x.dtype), shape=labels.shape)
    lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
    largest, others, of_label, below = _over_chunks(
        add, (lowest, zeros, zeros, zeros), n_classes, _chunk_size(chunk, x, n_classes)
    )
    maximum = _capped(largest, softcap)
    above = _capped(of_label, softcap) - maximum
    of_label = above - lax.stop_gradient(jnp.where(of_label == largest, above, 0))
    maximum = jnp.where(others + jnp.exp(of_label) == 0, 0, maximum)
    log_total, _ = _totals(others, of_label)
    losses = log_total - of_label
    if class_weights is not None:
        weights = weights_of_labels(class_weights, places)
        losses = weights * _unless_excluded(losses, weights)
    losses = (1 - s) * losses
    if s:
        losses = losses + (_sum_before(n_classes, uniform, below) * log_total - below)
    if z_loss:
        losses = losses + z_loss * (maximum + log_total) ** 2
    losses = _counted(losses, labels, n_classes=n_classes, ignore=ignore_label)
    return losses, LinearSoftmaxResiduals(
        params, x, labels, class_weights, maximum, others, of_label
    )


@linear_softmax_cross_entropy.backward
def linear_softmax_cross_entropy_bwd(
    residuals,
    dy,
    *,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
    chunk=None,
    of_params=True,
    of_input=True,
):
    """dz = (p·Σq − q + 2·ζ·ℓ·p)·dL chunk by chunk; dW = xᵀ·dz, db = Σₙ dz, dx = dz·Wᵀ."""
    params, x, labels, class_weights, *_ = residuals
    s, n_classes = label_smoothing, params["w"].shape[1]
    places = places_of(labels, n_classes)
    dlosses = _counted(dy, labels, n_classes=n_classes, ignore=ignore_label)
    minus_log_p = _minus_log_p(residuals, softcap)
    batch = range(x.ndim - 1)

    def add(gradients, start, logits, dz):
        dparams, dx, dweights = gradients
        if dparams is not None:
            dparams = _with_columns(dparams, residuals, start, dz, ignore_label)
        if dx is not None:
            columns = _columns(params, start, dz.shape[-1])
            dx = dx + contract(dz.astype(x.dtype), columns["w"], [x.ndim - 1], [1])
        if dweights is not None and s:
            shares = (s / n_classes) * minus_log_p(logits, start, dz.shape[-1])
            dweights = _put(dweights, jnp.sum(shares * dlosses[..., None], axis=batch), start)
        return dparams, dx, dweights

    wide = accumulator(x.dtype)
    start = (
        jax.tree.map(jnp.zeros_like, params) if of_params else None,
        jnp.zeros_like(x, wide) if of_input else None,
        jnp.zeros_like(class_weights, wide) if of_input and class_weights is not None else None,
    )
    dparams, dx, dweights = _over_gradients(
        add, start, residuals, dlosses, s, ignore_label, z_loss, softcap, chunk
    )
    if dweights is not None:
        of_rows = (1 - s) * _cross_entropy(residuals, places, labels, ignore_label) * dlosses
        dweights = dweights + added_at_labels(of_rows, labels, n_classes)
    return dparams, dx, None, dweights


@linear_softmax_cross_entropy.backward_input
def linear_softmax_cross_entropy_bwd_input(residuals, dy, **options):
    """dx = dz·Wᵀ and dv; the gradients of the params need dL itself."""
    _, *gradients = linear_softmax_cross_entropy_bwd(residuals, dy, of_params=False, **options)
    return dy, *gradients


@linear_softmax_cross_entropy.backward_params
def linear_softmax_cross_entropy_bwd_params(residuals, dy, **options):
    """dW = xᵀ·dz, db = Σₙ dz, from the logits once more."""
    return linear_softmax_cross_entropy_bwd(residuals, dy, of_input=False, **options)[0]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("residuals", "dlosses"),
    meta_fields=("name", "examples_axis", "options"),
)
@dataclass(frozen=True)
class LinearSoftmaxExamples(ExampleGradients):
    """dWₙ = Xₙᵀ·dZₙ or dbₙ = Σₜ dzₙₜ, with dZ computed chunk by chunk.

    Attributes:
        residuals: the op's.
        dlosses: dL.
        name: "w" or "b".
        examples_axis: the axis of the examples.
        options: the op's options, as pairs.
    """

    residuals: Any
    dlosses: Any
    name: str
    examples_axis: int
    options: tuple

    def squared_norms(self):
        """Σₜₛ (X·Xᵀ)ₜₛ·(Σ over the chunks of dZ·dZᵀ)ₜₛ; for b, Σₖ (Σₜ dzₜₖ)²."""
        options = dict(self.options)
        s, ignore = options.pop("label_smoothing"), options.pop("ignore_label")
        _, x, labels, *_ = self.residuals
        dlosses = _counted(self.dlosses, labels, n_classes=self._n_classes, ignore=ignore)
        rows = at_least_float32(_unignored(x, labels[..., None], ignore))
        rows = examples_first(rows, self.examples_axis)

        def add(total, start, logits, dz):
            dz = at_least_float32(examples_first(dz, self.examples_axis))
            if self.name == "b":
                return total + jnp.sum(jnp.sum(dz, axis=1) ** 2, axis=-1)
            return total + contract(dz, dz, [2], [2], [0])

        n, t, _ = rows.shape
        start = jnp.zeros_like(dlosses, shape=(n,) if self.name == "b" else (n, t, t))
        total = _over_gradients(add, start, self.residuals, dlosses, s, ignore, **options)
        if self.name == "b":
            return total
        return jnp.sum(contract(rows, rows, [2], [2], [0]) * total, axis=(1, 2))

    def whole(self):
        """One backward for each example, with the example's dL and 0 for the others."""
        n = self.dlosses.shape[self.examples_axis]

        def of_one(weights):
            shape = [1] * self.dlosses.ndim
            shape[self.examples_axis] = n
            weights = jnp.broadcast_to(weights.reshape(shape), self.dlosses.shape)
            options = dict(self.options)
            return linear_softmax_cross_entropy_bwd_params(
                self.residuals, self.dlosses * weights, **options
            )[self.name]

        return lax.map(of_one, jnp.eye(n, dtype=self.dlosses.dtype))

    @property
    def _n_classes(self) -> int:
        return self.residuals.params["w"].shape[1]


@linear_softmax_cross_entropy.backward_examples
def linear_softmax_cross_entropy_bwd_examples(residuals, dy, *, examples_axis, **options):
    """dWₙ = Xₙᵀ·dZₙ, dbₙ = Σₜ dzₙₜ, never holding N·K numbers."""
    require_examples_axis(dy.ndim, examples_axis)
    given = tuple(options.items())
    return {
        name: LinearSoftmaxExamples(residuals, dy, name, examples_axis, given)
        for name in residuals.params
    }


@linear_softmax_cross_entropy.tangent
def linear_softmax_cross_entropy_tangent(
    residuals,
    tangents,
    *,
    label_smoothing=0.0,
    ignore_label=None,
    z_loss=0.0,
    softcap=None,
    chunk=None,
):
    """L̇ = ⟨dz, ẋ·W + x·Ẇ + ḃ⟩ + Σₖ v̇ₖ·tₖ·(ℓ − zₖ) chunk by chunk, with the dz of dL = 1."""
    params, x, labels, *_ = residuals
    params_dot, x_dot, _, weights_dot = tangents
    params_dot = {name: array for name, array in params_dot.items() if array is not None}
    s, n_classes = label_smoothing, params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), places_of(labels, n_classes)
    ones = jnp.ones_like(residuals.others)
    gradients_of = _logit_gradients(residuals, ones, places, s, z_loss, softcap)
    minus_log_p = _minus_log_p(residuals, softcap)
    if x_dot is not None:
        x_dot = _unignored(x_dot, labels[..., None], ignore_label)

    def add(losses_dot, start, size):
        columns = _columns(params, start, size)
        logits = _logits(rows, columns)
        dz = gradients_of(logits, start, size)
        if params_dot or x_dot is not None:
            z_dot = _logits(rows, _columns(params_dot, start, size))
            if x_dot is not None:
                z_dot = z_dot + _logits(x_dot, {"w": columns["w"]})
            losses_dot = losses_dot + jnp.sum(dz * z_dot, axis=-1)
        if weights_dot is not None and s:
            shares = _of_chunk(_uniform(s, weights_dot, n_classes), start, size, logits.ndim)
            losses_dot = losses_dot + jnp.sum(shares * minus_log_p(logits, start, size), axis=-1)
        return losses_dot

    losses_dot = jnp.zeros_like(ones)
    if params_dot or x_dot is not None or (s and weights_dot is not None):
        size = _chunk_size(chunk, x, n_classes)
        losses_dot = _over_chunks(add, losses_dot, n_classes, size)
    if weights_dot is not None:
        of_rows = (1 - s) * _cross_entropy(residuals, places, labels, ignore_label)
        losses_dot = losses_dot + weights_of_labels(weights_dot, places) * of_rows
    return _counted(losses_dot, labels, n_classes=n_classes, ignore=ignore_label)


def _logit_gradients(residuals, dlosses, places, s, z_loss, softcap) -> Callable[..., Array]:
    """dz of a chunk of classes, from their logits before a softcap."""
    params, _, _, class_weights, maximum, others, of_label = residuals
    log_total, total = _totals(others, of_label)
    n_classes = params["w"].shape[1]
    uniform = _uniform(s, class_weights, n_classes)
    squared = 2 * z_loss * (maximum + log_total)
    sum_u = _sum_before(n_classes, uniform, total)
    weights = 1 if class_weights is None else weights_of_labels(class_weights, places)
    sum_q = (1 - s) * weights + sum_u
    of_class = (sum_q + squared) * (dlosses / total)
    in_place = (sum_u * total - sum_q * others + squared * jnp.exp(of_label)) * (dlosses / total)

    def gradients_of(logits, start, size):
        z = _capped(logits, softcap)
        of_others = jnp.exp(z - maximum[..., None]) * of_class[..., None]
        dz = jnp.where(_is_at(places - start, size), in_place[..., None], of_others)
        if s:
            dz = dz - _of_chunk(uniform, start, size, z.ndim) * dlosses[..., None]
        return dz if softcap is None else dz * softcap_slope(logits, softcap)

    return gradients_of


def _minus_log_p(residuals, softcap) -> Callable[..., Array]:
    """ℓ − z of a chunk of classes, 0 where z = −∞ and the weight is 0; from logits uncapped."""
    maximum, others, of_label = residuals[-3:]
    log_total, _ = _totals(others, of_label)

    def of_logits(logits, start, size):
        above = log_total[..., None] - (_capped(logits, softcap) - maximum[..., None])
        v = _of_chunk(residuals.class_weights, start, size, logits.ndim)
        return _unless_excluded(above, v)

    return of_logits


def _cross_entropy(residuals, places, labels, ignore_label) -> Row:
    """ℓ − z_c of each row, 0 where the row is ignored."""
    log_total, _ = _totals(residuals.others, residuals.of_label)
    weights = weights_of_labels(residuals.class_weights, places)
    losses = _unless_excluded(log_total - residuals.of_label, weights)
    return _unignored(losses, labels, ignore_label)


def _unless_excluded(minus_log_p, weights):
    """−log p, 0 for a class that z = −∞ excludes and that has weight 0."""
    infinite = minus_log_p > jnp.finfo(minus_log_p.dtype).max
    return jnp.where((weights == 0) & infinite, 0, minus_log_p)


def _totals(others, of_label) -> tuple[Row, Row]:
    """log(R + e_c) and R + e_c; 0 and 1 for a row in which all is −∞."""
    rest, total = others + jnp.expm1(of_label), others + jnp.exp(of_label)
    return jnp.log1p(jnp.where(rest < 0, 0, rest)), jnp.where(total < 1, 1, total)


def _over_gradients(add, carry, residuals, dlosses, s, ignore_label, z_loss, softcap, chunk):
    """`add(carry, start, logits, dz)` for each chunk of classes in turn."""
    params, x, labels, *_ = residuals
    n_classes = params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), places_of(labels, n_classes)
    gradients_of = _logit_gradients(residuals, dlosses, places, s, z_loss, softcap)

    def add_chunk(carry, start, size):
        logits = _logits(rows, _columns(params, start, size))
        return add(carry, start, logits, gradients_of(logits, start, size))

    return _over_chunks(add_chunk, carry, n_classes, _chunk_size(chunk, x, n_classes))


def _with_columns(dparams, residuals, start, dz, ignore_label):
    """The gradients of W and b, with the columns of one chunk."""
    _, x, labels, *_ = residuals
    batch, rows = range(x.ndim - 1), _unignored(x, labels[..., None], ignore_label)
    dcolumns = {"b": jnp.sum(dz, axis=batch)} if "b" in dparams else {}
    dcolumns["w"] = contract(rows, dz.astype(x.dtype), batch, batch)
    return {name: _put(dparams[name], d, start) for name, d in dcolumns.items()}


def _over_chunks(add, carry, n_classes, size):
    """`add(carry, start, size)` over chunks of this size and, at the end, a shorter one."""
    if n_classes == 0:
        return carry
    whole, rest = divmod(n_classes, size)
    if whole == 1 and not rest:
        return add(carry, 0, size)
    starts = jnp.arange(0, whole * size, size, dtype=jnp.int32)
    carry, _ = lax.scan(lambda carry, start: (add(carry, start, size), None), carry, starts)
    return add(carry, whole * size, rest) if rest else carry


def _chunk_size(chunk, x, n_classes) -> int:
    """The number of classes to process at a time."""
    n_rows = math.prod(x.shape[:-1])
    fits = SHORTEST_CHUNK if is_symbolic_dim(n_rows) else CHUNK_LOGITS.here // max(n_rows, 1)
    return min(chunk or max(fits, SHORTEST_CHUNK), n_classes)


def _columns(params, start, size):
    """The parameters of the classes start … start + size − 1."""
    return {name: _slice(array, start, size) for name, array in params.items()}


def _slice(array, start, size):
    """A slice of the last axis; the array itself if that is all of it."""
    if size == array.shape[-1]:
        return array
    return lax.dynamic_slice_in_dim(array, start, size, axis=-1)


def _logits(rows, params):
    """x·W + b, with those of W and b that params has, in at least float32."""
    terms = []
    if "w" in params:
        terms.append(contract(rows, params["w"], [rows.ndim - 1], [0]))
    if "b" in params:
        terms.append(jnp.expand_dims(params["b"], range(rows.ndim - 1)))
    return _sum(*terms)


@wide
def _sum(*terms):
    return sum(terms)


def _capped(z, softcap):
    return z if softcap is None else softcapped(z, softcap)


def _put(array, columns, start):
    """The array with these columns from `start` on."""
    columns = columns.astype(array.dtype)
    if columns.shape == array.shape:
        return columns
    return lax.dynamic_update_slice_in_dim(array, columns, start, axis=-1)


def _uniform(s, class_weights, n_classes):
    """(s/K)·v, one for each class or for all."""
    share = s / n_classes if s else 0.0
    return share if class_weights is None else share * at_least_float32(class_weights)


def _sum_before(start, uniform, like):
    """The sum of (s/K)·v over the classes 0 … start − 1, in the dtype of `like`."""
    if isinstance(uniform, float):
        return uniform * jnp.asarray(start, like.dtype) if uniform else 0.0
    return jnp.sum(jnp.where(jnp.arange(uniform.size, dtype=jnp.int32) < start, uniform, 0))


def _of_chunk(of_classes, start, size, ndim):
    """One number for each class of a chunk, or for all, beside the chunk's logits."""
    if isinstance(of_classes, float):
        return of_classes
    return jnp.expand_dims(_slice(of_classes, start, size), range(ndim - 1))


def _is_at(place, size: int):
    """True at the label of each row, among the classes of a chunk."""
    classes = jnp.arange(size, dtype=place.dtype)
    return place[..., None] == jnp.expand_dims(classes, range(place.ndim))


@wide
def _counted(losses, labels, *, n_classes, ignore):
    """The losses, 0 where the label is ignored and NaN where it is out of range."""
    return _unignored(nan_out_of_range(losses, labels, n_classes, ignore), labels, ignore)


def _unignored(array, labels, ignore):
    """The array, with 0 in the rows whose label is ignored."""
    return array if ignore is None else without_ignored(array, labels, ignore)
