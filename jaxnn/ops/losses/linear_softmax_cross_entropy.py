"""The loss of a classifier from its last layer's input, without ever building all the logits."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.labels import (
    Labels,
    Losses,
    is_labels,
    nan_out_of_range,
    without_ignored,
)
from jaxnn.ops._common.numerics import accumulator, at_least_float32, contract, wide
from jaxnn.ops._common.tuning import CHUNK_LOGITS, SHORTEST_CHUNK
from jaxnn.ops._common.validation import describe, require_floating, require_labels, require_number
from jaxnn.ops.linear import Params, linear, require_linear

Weights = Float[Array, "K"]
Row = Float[Array, "*N"]


class LinearSoftmaxResiduals(NamedTuple):
    """The arguments, and the sums of each row that give back the probabilities."""

    params: Params
    x: Float[Array, "*N I"]
    labels: Labels
    class_weights: Weights | None
    maximum: Row
    others: Row
    total: Row
    cross_entropy: Row | None


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

    L = v_c·(log Σₖ e^zₖ − Σₖ tₖ·zₖ) + ζ·(log Σₖ e^zₖ)² with the logits z = x·W + b, the label c and
    t = (1 − s)·δ_c + s/K; no 1/K, no 1/N. With a softcap a, z is replaced by a·tanh(z/a).

    Shapes:
        N batch, any number of axes or none; I inputs; K classes
        params: {"w": (I, K), "b": (K,)}; "b" is optional
        x, dx:  (N, I)
        labels: integers (N,)
        class_weights v, dv: (K,); by default every class weighs 1
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0, whatever x holds there; it still
    counts in a later mean over the batch.

    Backward, from ∂/∂zⱼ log Σₖ e^zₖ = pⱼ, with ℓ = log Σₖ e^zₖ:
        dzⱼ = (v_c·(pⱼ − tⱼ) + 2·ζ·ℓ·pⱼ)·dL,   with a softcap times 1 − (zⱼ/a)²
        dW  = xᵀ·dz                            ⟨dz, x·Ẇ⟩ = ⟨xᵀ·dz, Ẇ⟩
        db  = Σₙ dz                            every row n has the same b
        dx  = dz·Wᵀ                            ⟨dz, ẋ·W⟩ = ⟨dz·Wᵀ, ẋ⟩
        dv_c = Σₙ (ℓ − Σₖ tₖ·zₖ)·dL            over the rows with label c
    As in `softmax_cross_entropy`, with R the sum over the classes other than the label,
    1 − p_c = R/(R + e_c) is never computed by a subtraction.

    Tangent, with the dz that belongs to dL = 1:
        L̇ = ⟨dz, ẋ·W + x·Ẇ + ḃ⟩ + v̇_c·(ℓ − Σₖ tₖ·zₖ)

    Saves its arguments and the maximum, R and R + e_c of each row, in at least float32, and with
    class weights the unweighted loss, for dv. Recomputing the logits is a fourth matrix product
    where autodiff has three; it costs less than writing and reading N·K numbers.

    Implementation notes:
        Each class has its own column of W, so N·K logits are never held at once: the forward pass
        goes over chunks of classes and carries for each row the maximum so far and the sum of
        exponentials measured from it, rescaled when the maximum grows. The backward goes over the
        chunks again: it recomputes the logits of one, turns them into dz, and from that the
        chunk's columns of dW and db and its share of dx. The tangent sums ⟨dz, ż⟩ over the chunks
        in the same way. Products and sums of float16 and bfloat16 accumulate in float32.

    Args:
        params: W and, optionally, b.
        x: the input of the linear layer.
        labels: the class of each row.
        class_weights: optional v, the weight of the rows of each class.
        label_smoothing: s, 0 … 1.
        ignore_label: optional, the label of rows to ignore.
        z_loss: ζ, the weight of the squared log-sum-exp, which holds the logits near 0.
        softcap: optional a, a bound that the logits approach smoothly.
        chunk: how many classes to work on at a time; by default about 2²¹ logits, but at least
            512 classes.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or labels are not integers.
        ValueError: the shapes do not fit; an option or a label is out of range (under `jit`, where
            labels are not known, such a row gives NaN).

    Reference: E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025,
    section 4; A. Chowdhery et al., "PaLM", 2022, section 5, for z_loss; Gemma Team, "Gemma 2",
    2024, section 2, for softcap.

    Example:
        >>> params = {"w": jnp.zeros((3, 4)), "b": jnp.array([0.0, 0.0, 0.0, 1e4])}
        >>> print(jaxnn.linear_softmax_cross_entropy(params, jnp.ones((2, 3)), jnp.array([3, 0])))
        [    0. 10000.]
    """
    n_classes = params["w"].shape[1]
    labels = jnp.asarray(labels, int)
    ignored = jnp.zeros(labels.shape, bool) if ignore_label is None else labels == ignore_label
    z = linear.definition(params, jnp.where(ignored[..., None], 0, x))
    if softcap is not None:
        z = softcap * jnp.tanh(z / softcap)
    log_total = jax.nn.logsumexp(z, axis=-1)
    losses = log_total - jnp.take_along_axis(z, labels[..., None], axis=-1, mode="clip")[..., 0]
    if label_smoothing:
        uniform = log_total - jnp.mean(z, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if class_weights is not None:
        losses = class_weights.at[labels].get(mode="clip") * losses
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
        raise ValueError(f"params['w'] has shape {params['w'].shape}, without any class")
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
    if class_weights is not None:
        require_floating(x=x, class_weights=class_weights)
        if class_weights.shape != (n_classes,):
            raise ValueError(
                f"class_weights has shape {class_weights.shape}; with {n_classes} classes "
                f"it must be ({n_classes},)"
            )


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
    """L = v_c·(ℓ − Σₖ tₖ·zₖ) + ζ·ℓ², from sums that are carried over the chunks of classes."""
    s, n_classes = label_smoothing, params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), _places(labels, n_classes)

    def add(sums, start, size):
        maximum, others, of_label, shifted = sums
        z = _capped(_logits(rows, _columns(params, start, size)), softcap)
        place = places - start
        old, maximum = maximum, lax.stop_gradient(jnp.maximum(maximum, jnp.max(z, axis=-1)))
        of_others = jnp.where(_is_at(place, size), 0, jnp.exp(z - maximum[..., None]))
        others = others * jnp.exp(old - maximum) + jnp.sum(of_others, axis=-1)
        at_place = jnp.take_along_axis(z, place[..., None], axis=-1, mode="clip")[..., 0]
        of_label = jnp.where((place >= 0) & (place < size), at_place, of_label)
        if s:
            before = jnp.asarray(start, z.dtype)
            shifted = shifted + before * (old - maximum) + jnp.sum(z - maximum[..., None], axis=-1)
        return maximum, others, of_label, shifted

    zeros = jnp.zeros_like(x, accumulator(x.dtype), shape=labels.shape)
    lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
    maximum, others, of_label, shifted = _over_chunks(
        add, (lowest, zeros, zeros, zeros), n_classes, _chunk_size(chunk, x, n_classes)
    )
    of_label = of_label - maximum
    total = others + jnp.exp(of_label)
    log_total = jnp.log1p(others + jnp.expm1(of_label))
    losses = log_total - of_label
    if s:
        losses = (1 - s) * losses + s * (log_total - shifted / n_classes)
    unweighted = None
    if class_weights is not None:
        unweighted, losses = losses, _at(places, class_weights) * losses
    if z_loss:
        losses = losses + z_loss * (maximum + log_total) ** 2
    losses = _counted(losses, labels, n_classes=n_classes, ignore=ignore_label)
    return losses, LinearSoftmaxResiduals(
        params, x, labels, class_weights, maximum, others, total, unweighted
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
):
    """dz = (v_c·(p − t) + 2·ζ·ℓ·p)·dL chunk by chunk; dW = xᵀ·dz, db = Σₙ dz, dx = dz·Wᵀ."""
    params, x, labels, class_weights, *_, cross_entropy = residuals
    n_classes = params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), _places(labels, n_classes)
    dlosses = _counted(dy, labels, n_classes=n_classes, ignore=ignore_label)
    gradients_of = _logit_gradients(residuals, dlosses, places, label_smoothing, z_loss, softcap)
    batch = range(x.ndim - 1)

    def add(gradients, start, size):
        dparams, dx = gradients
        columns = _columns(params, start, size)
        dz = gradients_of(_logits(rows, columns), start, size)
        dcolumns = {"b": jnp.sum(dz, axis=batch)} if "b" in params else {}
        dz = dz.astype(x.dtype)
        dcolumns["w"] = contract(rows, dz, batch, batch)
        dparams = {
            name: lax.dynamic_update_slice_in_dim(dparams[name], d.astype(x.dtype), start, axis=-1)
            for name, d in dcolumns.items()
        }
        return dparams, dx + contract(dz, columns["w"], [x.ndim - 1], [1])

    start = jax.tree.map(jnp.zeros_like, params), jnp.zeros_like(x, accumulator(x.dtype))
    dparams, dx = _over_chunks(add, start, n_classes, _chunk_size(chunk, x, n_classes))
    dweights = None
    if class_weights is not None:
        dweights = jnp.zeros_like(class_weights, accumulator(x.dtype))
        dweights = dweights.at[places].add(cross_entropy * dlosses, mode="drop")
    return dparams, dx, None, dweights


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
    """L̇ = ⟨dz, ẋ·W + x·Ẇ + ḃ⟩ + v̇_c·(ℓ − Σₖ tₖ·zₖ) chunk by chunk, with the dz of dL = 1."""
    params, x, labels, *_, cross_entropy = residuals
    params_dot, x_dot, _, weights_dot = tangents
    params_dot = {name: array for name, array in params_dot.items() if array is not None}
    n_classes = params["w"].shape[1]
    rows, places = _unignored(x, labels[..., None], ignore_label), _places(labels, n_classes)
    ones = jnp.ones_like(residuals.total)
    gradients_of = _logit_gradients(residuals, ones, places, label_smoothing, z_loss, softcap)
    if x_dot is not None:
        x_dot = _unignored(x_dot, labels[..., None], ignore_label)

    def add(losses_dot, start, size):
        columns = _columns(params, start, size)
        dz = gradients_of(_logits(rows, columns), start, size)
        z_dot = _logits(rows, _columns(params_dot, start, size))
        if x_dot is not None:
            z_dot = z_dot + _logits(x_dot, {"w": columns["w"]})
        return losses_dot + jnp.sum(dz * z_dot, axis=-1)

    losses_dot = jnp.zeros_like(ones)
    if params_dot or x_dot is not None:
        size = _chunk_size(chunk, x, n_classes)
        losses_dot = _over_chunks(add, losses_dot, n_classes, size)
    if weights_dot is not None:
        losses_dot = losses_dot + _at(places, weights_dot) * cross_entropy
    return _counted(losses_dot, labels, n_classes=n_classes, ignore=ignore_label)


def _logit_gradients(residuals, dlosses, places, s, z_loss, softcap) -> Callable[..., Array]:
    """dz of a chunk of classes, from their logits before a softcap."""
    params, _, _, class_weights, maximum, others, total, _ = residuals
    weighted = dlosses if class_weights is None else _at(places, class_weights) * dlosses
    squared = 2 * z_loss * (maximum + jnp.log(total)) * dlosses
    of_class = (weighted + squared) / total
    of_label = (weighted * (s * total - others) + squared * (total - others)) / total
    of_all = (s / params["w"].shape[1]) * weighted

    def gradients_of(logits, start, size):
        z = _capped(logits, softcap)
        of_others = jnp.exp(z - maximum[..., None]) * of_class[..., None]
        dz = jnp.where(_is_at(places - start, size), of_label[..., None], of_others)
        if s:
            dz = dz - of_all[..., None]
        if softcap is not None:
            dz = dz * (1 - z / softcap) * (1 + z / softcap)
        return dz

    return gradients_of


def _over_chunks(add, carry, n_classes, size):
    """`add(carry, start, size)` over chunks of this size and, at the end, a shorter one."""
    whole, rest = divmod(n_classes, size)
    starts = jnp.arange(0, whole * size, size, dtype=jnp.int32)
    carry, _ = lax.scan(lambda carry, start: (add(carry, start, size), None), carry, starts)
    return add(carry, whole * size, rest) if rest else carry


def _chunk_size(chunk, x, n_classes) -> int:
    """How many classes to work on at a time."""
    n_rows = math.prod(x.shape[:-1])
    fits = SHORTEST_CHUNK if is_symbolic_dim(n_rows) else CHUNK_LOGITS // max(n_rows, 1)
    return min(chunk or max(fits, SHORTEST_CHUNK), n_classes)


def _columns(params, start, size):
    """The parameters of the classes start … start + size − 1."""
    return {
        name: lax.dynamic_slice_in_dim(array, start, size, axis=-1)
        for name, array in params.items()
    }


def _logits(rows, params):
    """x·W + b, or as much of it as params has, in at least float32."""
    z = contract(rows, params["w"], [rows.ndim - 1], [0]) if "w" in params else 0
    if "b" in params:
        z = z + at_least_float32(jnp.expand_dims(params["b"], range(rows.ndim - 1)))
    return z


def _capped(z, softcap):
    return z if softcap is None else softcap * jnp.tanh(z / softcap)


def _places(labels, n_classes):
    """The labels; for one that is out of range, the place after the last class."""
    labels = jnp.asarray(labels, int)
    valid = (labels >= 0) & (labels < n_classes)
    return jnp.asarray(jnp.where(valid, labels, n_classes), jnp.int32)


def _is_at(place, size: int):
    """Where, among the classes of a chunk, the label of each row is."""
    classes = jnp.arange(size, dtype=place.dtype)
    return place[..., None] == jnp.expand_dims(classes, range(place.ndim))


@wide
def _at(places, class_weights):
    """The weight of each row's class."""
    return class_weights.at[places].get(mode="clip")


@wide
def _counted(losses, labels, *, n_classes, ignore):
    """Zero in the rows to be ignored, NaN in those whose label is out of range."""
    return _unignored(nan_out_of_range(losses, labels, n_classes, ignore), labels, ignore)


def _unignored(array, labels, ignore):
    """The array with zeros in the rows to be ignored."""
    return array if ignore is None else without_ignored(array, labels, ignore)
