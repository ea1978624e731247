"""The loss of a classifier from its last layer's input, without ever building all the logits."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.labels import Labels, Losses, is_labels, nan_out_of_range
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import describe, require_floating, require_labels, require_number
from jaxnn.ops.linear import Params, linear, require_linear

CHUNK_LOGITS = 2**21  # logits that are worked on at a time: 8 MiB of float32
LEAST_CHUNK = 512  # classes: with fewer the matrix products become narrow

Weights = Float[Array, "K"]
Row = Float[Array, "N"]


class LinearSoftmaxResiduals(NamedTuple):
    """The arguments, and the sums of each row from which probabilities come back."""

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

    Shapes (N batch, any number of axes; I inputs; K classes):
        params: {"w": (I, K), "b": (K,)}; without "b" there is no bias
        x, dx:  (N, I)
        labels: integers (N,)
        class_weights v, dv: (K,); left out, every class weighs 1
        L, dL:  (N,)

    A row whose label is `ignore_label` has loss 0 and gradient 0, whatever x holds there; it still
    counts in a later mean over the batch.

    Backward, from ∂/∂zⱼ log Σₖ e^zₖ = pⱼ, with ℓ = log Σₖ e^zₖ:
        dzⱼ = (v_c·(pⱼ − tⱼ) + 2·ζ·ℓ·pⱼ)·dL,   with a softcap times 1 − (zⱼ/a)²
        dW  = xᵀ·dz,   db = Σₙ dz,   dx = dz·Wᵀ,   dv_c = Σₙ (ℓ − Σₖ tₖ·zₖ)·dL over label c
    Each class has its own columns of W, so N·K logits are never there at once: the forward pass
    goes over chunks of classes and carries for each row the maximum so far and the sum of
    exponentials measured from it, rescaled when the maximum grows. The backward goes over the
    chunks again: it computes the logits of one, turns them into dz, and from that the chunk's
    columns of dW and db and its share of dx. As in `softmax_cross_entropy`, with R the sum over
    the classes other than the label, 1 − p_c = R/(R + e_c) is never computed by a subtraction.

    Keeps its arguments and the maximum, R and R + e_c of each row, in at least float32, and with
    class weights the unweighted loss, for dv. Computing the logits again is a fourth matrix
    product where autodiff has three; it costs less than writing and reading N·K numbers. Products
    and sums of float16 and bfloat16 accumulate in float32.

    Args:
        params: W and b.
        x: the input of the linear layer.
        labels: the class of each row.
        class_weights: v, the weight of the rows of each class.
        label_smoothing: s, 0 … 1.
        ignore_label: the label of rows to leave out.
        z_loss: ζ, the weight of the squared log-sum-exp, which holds the logits near 0.
        softcap: a, a bound that the logits approach smoothly.
        chunk: how many classes to work on at a time; by default about 2²¹ logits, but at least
            512 classes.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or labels are not integers.
        ValueError: the shapes do not fit; an option or a label is out of range (under `jit`, where
            labels are not known, such a row gives NaN).

    Source: E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025, section
    4; A. Chowdhery et al., "PaLM", 2022, section 5, for z_loss; Gemma Team, "Gemma 2", 2024,
    section 2, for softcap.

    Example:
        >>> params = {"w": jnp.zeros((3, 4)), "b": jnp.array([0.0, 0.0, 0.0, 1e4])}
        >>> print(jaxnn.linear_softmax_cross_entropy(params, jnp.ones((2, 3)), jnp.array([3, 0])))
        [    0. 10000.]
    """
    n_classes = params["w"].shape[1]
    x = _without_ignored(x, labels[..., None], ignore_label)
    logits = _capped(linear.definition(params, x), softcap)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    places = _places(labels, n_classes)
    of_label = jnp.take_along_axis(logits, places[..., None], axis=-1, mode="clip")[..., 0]
    losses = log_total - of_label
    if label_smoothing:
        uniform = log_total - jnp.mean(logits, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if class_weights is not None:
        losses = class_weights.at[places].get(mode="clip") * losses
    if z_loss:
        losses = losses + z_loss * log_total**2
    losses = nan_out_of_range(losses, labels, n_classes, ignore_label)
    return _without_ignored(losses, labels, ignore_label)


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
    rows, places = _rows(x, labels, ignore_label), _places(labels, n_classes).reshape(-1)

    def add(sums, start, size):
        maximum, others, of_label, shifted = sums
        z = _capped(_logits(_columns(params, start, size), rows), softcap)
        place = places - start
        old, maximum = maximum, lax.stop_gradient(jnp.maximum(maximum, jnp.max(z, axis=-1)))
        of_others = jnp.where(_is_at(place, size), 0, jnp.exp(z - maximum[:, None]))
        others = others * jnp.exp(old - maximum) + jnp.sum(of_others, axis=-1)
        at_place = jnp.take_along_axis(z, place[:, None], axis=-1, mode="clip")[:, 0]
        of_label = jnp.where((place >= 0) & (place < size), at_place, of_label)
        if s:
            before = jnp.asarray(start, z.dtype)
            shifted = shifted + before * (old - maximum) + jnp.sum(z - maximum[:, None], axis=-1)
        return maximum, others, of_label, shifted

    zeros = jnp.zeros(len(rows), accumulator(x.dtype))
    lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
    maximum, others, of_label, shifted = _over_chunks(
        add, (lowest, zeros, zeros, zeros), n_classes, _chunk_size(chunk, rows, n_classes)
    )
    of_label = of_label - maximum
    total = others + jnp.exp(of_label)
    log_total = jnp.log1p(others + jnp.expm1(of_label))
    losses = log_total - of_label
    if s:
        losses = (1 - s) * losses + s * (log_total - shifted / n_classes)
    unweighted = None
    if class_weights is not None:
        unweighted, losses = losses, _of_rows(class_weights, places) * losses
    if z_loss:
        losses = losses + z_loss * (maximum + log_total) ** 2
    losses = nan_out_of_range(losses.reshape(labels.shape), labels, n_classes, ignore_label)
    losses = _without_ignored(losses, labels, ignore_label).astype(x.dtype)
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
    params, x, labels, class_weights, maximum, others, total, unweighted = residuals
    s, n_classes = label_smoothing, params["w"].shape[1]
    rows, places = _rows(x, labels, ignore_label), _places(labels, n_classes).reshape(-1)
    dloss = nan_out_of_range(at_least_float32(dy), labels, n_classes, ignore_label)
    dloss = _without_ignored(dloss, labels, ignore_label).reshape(-1)
    weighted = dloss if class_weights is None else _of_rows(class_weights, places) * dloss
    squared = 2 * z_loss * (maximum + jnp.log(total)) * dloss
    of_class = (weighted + squared) / total
    of_label = (weighted * (s * total - others) + squared * (total - others)) / total
    of_all = (s / n_classes) * weighted

    def add(gradients, start, size):
        dparams, dx = gradients
        columns = _columns(params, start, size)
        z = _capped(_logits(columns, rows), softcap)
        of_others = jnp.exp(z - maximum[:, None]) * of_class[:, None]
        dz = jnp.where(_is_at(places - start, size), of_label[:, None], of_others)
        if s:
            dz = dz - of_all[:, None]
        if softcap is not None:
            dz = dz * (1 - z / softcap) * (1 + z / softcap)
        dcolumns = {"w": _product(rows, dz.astype(x.dtype), 0, 0)}
        if "b" in params:
            dcolumns["b"] = jnp.sum(dz, axis=0)
        dparams = {
            name: lax.dynamic_update_slice_in_dim(dparams[name], d.astype(x.dtype), start, axis=-1)
            for name, d in dcolumns.items()
        }
        return dparams, dx + _product(dz.astype(x.dtype), columns["w"], 1, 1)

    dparams, dx = _over_chunks(
        add,
        (jax.tree.map(jnp.zeros_like, params), jnp.zeros_like(at_least_float32(rows))),
        n_classes,
        _chunk_size(chunk, rows, n_classes),
    )
    dweights = None
    if class_weights is not None:
        dweights = jnp.zeros_like(at_least_float32(class_weights))
        dweights = dweights.at[places].add(unweighted * dloss, mode="drop")
        dweights = dweights.astype(class_weights.dtype)
    return dparams, dx.reshape(x.shape).astype(x.dtype), None, dweights


def _over_chunks(add, carry, n_classes, size):
    """`add(carry, start, size)` over chunks of this size and what is left over."""
    whole, rest = divmod(n_classes, size)
    starts = jnp.arange(0, whole * size, size, dtype=jnp.int32)
    carry, _ = lax.scan(lambda carry, start: (add(carry, start, size), None), carry, starts)
    return add(carry, whole * size, rest) if rest else carry


def _chunk_size(chunk, rows, n_classes) -> int:
    """How many classes to work on at a time."""
    return min(chunk or max(CHUNK_LOGITS // max(len(rows), 1), LEAST_CHUNK), n_classes)


def _columns(params, start, size):
    """The parameters of the classes start … start + size − 1."""
    return {
        name: lax.dynamic_slice_in_dim(array, start, size, axis=-1)
        for name, array in params.items()
    }


def _logits(params, rows):
    """x·W + b in the dtype to sum in."""
    z = _product(rows, params["w"], 1, 0)
    return z + at_least_float32(params["b"])[None, :] if "b" in params else z


def _capped(z, softcap):
    return z if softcap is None else softcap * jnp.tanh(z / softcap)


def _product(a, b, a_axis: int, b_axis: int):
    """The sum over these axes of two matrices, in the dtype to sum in."""
    axes = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, axes, preferred_element_type=accumulator(a.dtype))


def _rows(x, labels, ignore_label):
    """x as a matrix, with zeros in the rows to be left out."""
    kept = _without_ignored(x, labels[..., None], ignore_label)
    return kept.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _places(labels, n_classes):
    """The labels; for one that is out of range, the place after the last class."""
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    valid = (labels >= 0) & (labels < n_classes)
    return jnp.where(valid, labels, n_classes).astype(jnp.int32)


def _is_at(place, size: int):
    """Where, of a chunk's classes, each row's label is."""
    return place[:, None] == jnp.arange(size, dtype=place.dtype)[None, :]


def _of_rows(class_weights, places):
    """The weight of each row's class."""
    return at_least_float32(class_weights).at[places].get(mode="clip")


def _without_ignored(array, labels, ignore_label):
    """0 in the rows whose label is to be ignored."""
    return array if ignore_label is None else jnp.where(labels != ignore_label, array, 0)


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
