"""Connectionist temporal classification: the loss of a label sequence without its alignment."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxnn.arrays import is_readable
from jaxnn.op import op
from jaxnn.ops._common.labels import one_hot
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import (
    require_floating,
    require_integers,
    require_lengths,
)

Logits = Float[Array, "*N T K"]
Labels = Integer[Array, "*N S"]
Lengths = Integer[Array, "*N"] | None
Losses = Float[Array, "*N"]


class CTCResiduals(NamedTuple):
    """The arguments, the normalisers of each frame, and α before each frame and after the last.

    There are no normalisers if the op is given log-probabilities.
    """

    logits: Logits
    labels: Labels
    logit_lengths: Lengths
    label_lengths: Lengths
    maximum: Float[Array, "*N T 1"] | None
    total: Float[Array, "*N T 1"] | None
    alpha: Float[Array, "T *N 2S+3"]
    last: Float[Array, "*N 2S+1"]


@op
def ctc_loss(
    logits: Logits,
    labels: Labels,
    logit_lengths: Lengths = None,
    label_lengths: Lengths = None,
    *,
    blank_id: int = 0,
    zero_infinity: bool = False,
    log_probabilities: bool = False,
) -> Losses:
    """Connectionist temporal classification: −log p(labels), with p summed over all alignments.

    An alignment assigns a class to each frame: the labels in their order, each for one or more
    frames, with blanks anywhere and at least one blank between two equal labels. Its probability
    is the product over the frames of softmax(x), or of eˣ if x holds log-probabilities.

    Shapes:
        N batch, any number of axes or none; T frames; K classes with the blank; S labels
        logits x, dx: (N, T, K)
        labels:  (N, S), integers 0 … K − 1 other than the blank
        logit_lengths: (N,), the number of the T frames that count; by default all
        label_lengths: (N,), the number of the S labels that count; by default all
        L, dL:   (N,)

    The padding (frames and labels past the lengths) may hold anything: NaN, infinity, any integer.
    It has no influence, and its gradient is 0.

    The states z are the labels with a blank before, between and after: 2·S + 1. α_t(s) is the
    log-probability of the alignments of the first t frames that end in state s, ⊕ the logarithm
    of a sum of exponentials, and p_tk = softmax(x_t)_k:
        α_t(s) = log p_t(z_s) + (α_{t−1}(s) ⊕ α_{t−1}(s − 1) ⊕ α_{t−1}(s − 2))
    where the last term counts only if z_s is a label other than z_{s−2}. It starts from state 0
    before the first frame, and log p = α_T(2·S) ⊕ α_T(2·S − 1). Labels that do not fit into the
    frames have p = 0: the loss is +∞, or 0 with `zero_infinity`, and the gradient 0.

    Backward, with γ_t(s) = ∂log p/∂α_t(s), the probability that the alignment is in s at t. The
    derivative of ⊕ with respect to a term is its share of the sum, so
        γ_T(s) = the share of α_T(s) in log p, for the two last states
        γ_{t−1}(s) = Σ_{s'} γ_t(s')·(the share of α_{t−1}(s) in α_t(s')),   s' = s, s + 1, s + 2
    and, from ∂log p_t(z)/∂x_tk = [z = k] − p_tk,
        dx_tk = (p_tk·Σₛ γ_t(s) − Σ_{s: z_s = k} γ_t(s))·dL,   p − γ in short
    With log-probabilities, log p_t(z) = x_tz and only −γ remains:
        dx_tk = −Σ_{s: z_s = k} γ_t(s)·dL
    This is the derivative with respect to x_tk alone. PyTorch's ctc_loss also takes
    log-probabilities, but returns p − γ for them. After a log_softmax the two have the same
    gradient with respect to the logits, because Σₖ (p − γ)_tk = 0; without one only −γ is right.

    Shares lie between 0 and 1 and sum to 1 whatever the size of α, which e^(α + β − log p) cannot
    guarantee.

    Saves its arguments, α, and two numbers per frame from which p is recomputed; with
    log-probabilities there is no p.

    Implementation notes:
        The shares are computed for all frames at once, so the loop of the backward holds only
        products and sums. α begins with two impossible states, so that its three terms are slices
        of it: shifts would take half the time of the loop. A finite number represents log 0, so low
        that its exponential is 0 beside any other term: no intermediate result is infinite or NaN.

    Args:
        logits: x.
        labels: the label sequences.
        logit_lengths: optional, lengths in frames.
        label_lengths: optional, lengths in labels.
        blank_id: the class that is the blank.
        zero_infinity: whether an example without an alignment has the loss 0 instead of +∞.
        log_probabilities: whether x holds log-probabilities rather than logits. They are used as
            they are: nothing is normalised.

    Raises:
        TypeError: logits are not floating point, labels or lengths are not integers, or an option
            has the wrong type.
        ValueError: the shapes do not fit; a length or a label is out of range, or a label is the
            blank (under `jit`, where they are not known, such an example gives NaN).

    Reference: A. Graves et al., "Connectionist Temporal Classification", 2006, sections 4.1 and
    4.2; `zero_infinity` is that of PyTorch's ctc_loss.

    Example:
        >>> logits = jnp.zeros((1, 3, 4))  # 3 frames: 12 may be 012, 102, 120, 112, 122
        >>> loss = jaxnn.ctc_loss(logits, jnp.array([[1, 2]]))
        >>> print(jnp.exp(-loss) * 4**3)
        [5.]
    """
    *_, n_frames, n_classes = logits.shape
    *rows, n_labels = labels.shape
    frames = jnp.full(rows, n_frames, jnp.int32) if logit_lengths is None else logit_lengths
    length = jnp.full(rows, n_labels, jnp.int32) if label_lengths is None else label_lengths
    labels, frames, length = (a.astype(int) for a in (labels, frames, length))
    t = jnp.arange(n_frames)
    is_padding = jnp.expand_dims(t, range(len(rows))) >= frames[..., None]
    logits = jnp.where(is_padding[..., None], 0, logits)
    z = jnp.full((*rows, 2 * n_labels + 1), blank_id).at[..., 1::2].set(labels)
    s = lax.broadcasted_iota(z.dtype, z.shape, z.ndim - 1)

    def earlier(a, by, fill):
        """The entries of `a` shifted by this many states."""
        return jnp.where(s < by, fill, jnp.roll(a, by, axis=-1))

    def log_sum(terms):
        """log Σ eˣ, with derivative 0 where every x is −∞."""
        top = lax.stop_gradient(jnp.max(terms, axis=0))
        top = jnp.where(jnp.isneginf(top), 0, top)
        total = jnp.sum(jnp.exp(terms - top[None]), axis=0)
        return jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))

    def step(alpha, frame):
        t, log_p = frame
        ways = [alpha, earlier(alpha, 1, -jnp.inf), earlier(alpha, 2, -jnp.inf)]
        ways[2] = jnp.where((z != blank_id) & (z != earlier(z, 2, blank_id)), ways[2], -jnp.inf)
        new = log_p + log_sum(jnp.stack(ways))
        return jnp.where((t < frames)[..., None], new, alpha), None

    log_p = logits if log_probabilities else jax.nn.log_softmax(logits)
    log_p = jnp.take_along_axis(log_p, z[..., None, :], axis=-1, mode="clip")
    start = jnp.where(s == 0, 0, jnp.full_like(log_p, -jnp.inf, shape=z.shape))
    alpha, _ = lax.scan(step, start, (t, jnp.moveaxis(log_p, -2, 0)))
    is_end = (s == 2 * length[..., None]) | (s == 2 * length[..., None] - 1)
    log_p = log_sum(jnp.moveaxis(jnp.where(is_end, alpha, -jnp.inf), -1, 0))
    losses = jnp.where(zero_infinity & jnp.isneginf(log_p), 0, -log_p)

    past = lax.broadcasted_iota(labels.dtype, labels.shape, labels.ndim - 1) >= length[..., None]
    valid = past | ((labels >= 0) & (labels < n_classes) & (labels != blank_id))
    valid = jnp.all(valid, axis=-1) & (frames >= 0) & (frames <= n_frames)
    valid &= (length >= 0) & (length <= n_labels)
    return losses * jnp.where(valid, jnp.ones_like(losses), jnp.nan)


@ctc_loss.validate
def _(logits, labels, logit_lengths, label_lengths, *, blank_id, zero_infinity, log_probabilities):
    if type(blank_id) is not int:
        raise TypeError(f"option blank_id must be an integer, got {blank_id!r}")
    require_floating(logits=logits)
    if logits.ndim < 2:
        raise ValueError(f"logits must be (…, frames, classes), got shape {logits.shape}")
    *rows, n_frames, n_classes = logits.shape
    if not 0 <= blank_id < n_classes:
        raise ValueError(
            f"option blank_id is {blank_id}; with {n_classes} classes it must be "
            f"0 … {n_classes - 1}"
        )
    require_integers("labels", labels)
    if labels.ndim == 0 or labels.shape[:-1] != tuple(rows):
        raise ValueError(
            f"labels have shape {labels.shape} but logits have shape {logits.shape}; "
            f"labels must have one row for each sequence of frames, shape {(*rows, 'S')}"
        )
    require_lengths("logit_lengths", logit_lengths, tuple(rows), n_frames)
    require_lengths("label_lengths", label_lengths, tuple(rows), labels.shape[-1])
    _require_labels(labels, label_lengths, n_classes, blank_id)


@ctc_loss.forward
@wide
def ctc_loss_fwd(
    logits,
    labels,
    logit_lengths=None,
    label_lengths=None,
    *,
    blank_id=0,
    zero_infinity=False,
    log_probabilities=False,
):
    """L = −log p(labels) by the recursion of α, which is saved."""
    states, skips, counts, lengths = _prepared(
        logits, labels, logit_lengths, label_lengths, blank_id
    )
    log_0, maximum, total = _log_0(logits), None, None
    x = _counted(counts, jnp.maximum(logits, log_0))
    if not log_probabilities:
        maximum = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        maximum = _counted(counts, maximum)
        total = jnp.sum(jnp.exp(x - maximum), axis=-1, keepdims=True)
        x = x - maximum - jnp.log(total)
    emitted = _of_states(x, states)

    def step(alpha, frame):
        counts, log_p = frame
        new = jnp.maximum(_log_sum(*_ways_in(alpha, skips)) + log_p, log_0)
        return _where(counts, _padded(new, 2, 0, log_0), alpha), alpha

    last, alpha = lax.scan(step, _start(emitted), (counts, emitted))
    last = last[..., 2:]
    ends = _at_the_ends(last, lengths)
    of_impossible = 0 if zero_infinity else jnp.inf
    losses = jnp.where(_impossible(ends), of_impossible, -_log_sum(*ends))
    losses = losses * _one_or_nan(losses, logits, labels, logit_lengths, label_lengths, blank_id)
    given = logits, labels, logit_lengths, label_lengths
    return losses, CTCResiduals(*given, maximum, total, alpha, last)


@ctc_loss.backward
@wide
def ctc_loss_bwd(residuals, dy, *, blank_id=0, zero_infinity=False, log_probabilities=False):
    """dx = (p·Σγ − γ)·dL, with γ by a recursion from the last frame to the first."""
    *given, maximum, total, alpha, last = residuals
    states, skips, counts, lengths = _prepared(*given, blank_id)
    stay, one, two = _shares(*_ways_in(alpha, skips))
    shares = _where(counts, stay, 1), _where(counts, one, 0), _where(counts, two, 0)

    def step(gamma, shares):
        stay, one, two = (gamma * share for share in shares)
        return stay + _padded(one, -1, 1, 0) + _padded(two, -2, 2, 0), gamma

    ends = _at_the_ends(last, lengths)
    of_ends = [jnp.where(_impossible(ends), 0, share)[..., None] for share in _shares(*ends)]
    gamma = sum(map(jnp.where, _ends(last, lengths), of_ends, (0, 0)))
    _, gamma = lax.scan(step, gamma, shares, reverse=True)
    logits = given[0]
    of_class = one_hot(states, logits.shape[-1]).astype(gamma.dtype)
    gamma = jnp.einsum(
        "t...s,...sk->...tk", _where(counts, gamma, 0), of_class, precision=lax.Precision.HIGHEST
    )
    dlosses = (dy * _one_or_nan(dy, *given, blank_id))[..., None, None]
    if log_probabilities:
        return -gamma * dlosses, None, None, None
    x = _counted(counts, jnp.maximum(logits, _log_0(logits)))
    p = jnp.exp(x - maximum) / total
    return (p * jnp.sum(gamma, axis=-1, keepdims=True) - gamma) * dlosses, None, None, None


def _require_labels(labels, label_lengths, n_classes, blank_id):
    """Raise unless labels within their length, where known, are classes other than the blank."""
    if not (is_readable(labels) and is_readable(label_lengths)):
        return
    known = np.asarray(labels)
    counted = np.ones(known.shape, bool)
    if label_lengths is not None:
        counted = np.arange(known.shape[-1]) < np.asarray(label_lengths)[..., None]
    wrong = counted & ((known < 0) | (known >= n_classes))
    if wrong.any():
        raise ValueError(
            f"label {known[wrong][0]} is out of range; with {n_classes} classes the "
            f"labels are 0 … {n_classes - 1}"
        )
    if (counted & (known == blank_id)).any():
        raise ValueError(
            f"a label is {blank_id}, which is the blank; pass label_lengths if some label "
            "sequences are shorter than others"
        )


def _prepared(logits, labels, logit_lengths, label_lengths, blank_id):
    """The states, the mask of those that may be skipped to, the valid frames, the label lengths."""
    states = _states(labels, blank_id)
    counts = _counting(_wide_integers(logit_lengths), logits)
    return states, _skips(states, blank_id), counts, _wide_integers(label_lengths)


def _wide_integers(array):
    """Labels or lengths in at least 32 bits: narrow integers compare modulo their range."""
    if array is None or array.dtype.itemsize >= 4:
        return array
    return array.astype(jnp.int32)


def _log_0(logits):
    """A finite number in place of log 0: beside any other logarithm, its exponential is 0."""
    return jnp.finfo(logits.dtype).min / 4


def _impossible(ends):
    """Whether there is no alignment."""
    return jnp.maximum(*ends) < _log_0(ends[0]) / 2


def _states(labels, blank_id):
    """The labels with a blank before, between and after them."""
    labels = _wide_integers(labels)[..., None]
    pairs = jnp.concatenate([jnp.full_like(labels, blank_id), labels], axis=-1)
    pairs = pairs.reshape(*labels.shape[:-2], 2 * labels.shape[-2])
    return _padded(pairs, 0, 1, blank_id)


def _skips(states, blank_id):
    """True where a state may be reached from two before it: its label differs from that one's."""
    return (states != blank_id) & (states != _padded(states, 2, -2, blank_id))


def _of_states(frames, states):
    """The entries of the class of each state, frame by frame: (N, T, K) to (T, N, 2·S + 1)."""
    picked = jnp.take_along_axis(frames, states[..., None, :], axis=-1, mode="clip")
    return jnp.moveaxis(picked, -2, 0)


def _start(emitted):
    """α before the first frame: the first state has probability 1."""
    nowhere = jnp.full_like(emitted, _log_0(emitted), shape=emitted.shape[1:])
    first = lax.broadcasted_iota(jnp.int32, nowhere.shape, nowhere.ndim - 1) == 0
    return _padded(jnp.where(first, 0, nowhere), 2, 0, _log_0(emitted))


def _padded(array, before, after, fill):
    """The array with its last axis padded, or cropped, on either side."""
    padding = [*[(0, 0, 0)] * (array.ndim - 1), (before, after, 0)]
    return lax.pad(array, jnp.asarray(fill, array.dtype), padding)


def _ways_in(alpha, skips):
    """log-probabilities of reaching each state by staying, by one step and by two.

    α begins with two impossible states, so that all three are slices of it.
    """
    two = alpha[..., :-2]
    two = jnp.where(jnp.broadcast_to(skips, two.shape), two, _log_0(alpha))
    return alpha[..., 2:], alpha[..., 1:-1], two


def _log_sum(*terms):
    """log Σ eˣ over the terms."""
    top, exponentials = _from_the_top(terms)
    return top + jnp.log(sum(exponentials))


def _shares(*terms):
    """The share of each eˣ in their sum."""
    _, exponentials = _from_the_top(terms)
    total = sum(exponentials)
    return tuple(exponential / total for exponential in exponentials)


def _from_the_top(terms):
    """The largest of the terms, and e^(term − largest)."""
    top = lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    return top, [jnp.exp(term - top) for term in terms]


def _counting(frames, logits):
    """The mask of the valid frames, (T, N, 1), from their number; `None` if all are valid."""
    if frames is None:
        return None
    shape = (logits.shape[-2], *frames.shape, 1)
    return lax.broadcasted_iota(frames.dtype, shape, 0) < frames[None, ..., None]


def _counted(counts, frames):
    """The frames (N, T, …), with 0 in place of the padding."""
    return frames if counts is None else jnp.where(jnp.moveaxis(counts, 0, -2), frames, 0)


def _where(counts, counted, otherwise):
    """`counted` in valid frames, `otherwise` in the padding."""
    return counted if counts is None else jnp.where(counts, counted, otherwise)


def _ends(last, lengths):
    """The states where an alignment may end: the blank after the last label, or that label."""
    dtype = jnp.int32 if lengths is None else lengths.dtype
    state = lax.broadcasted_iota(dtype, last.shape, last.ndim - 1)
    blank = last.shape[-1] - 1 if lengths is None else 2 * lengths[..., None]
    return state == blank, state == blank - 1


def _at_the_ends(last, lengths):
    """α of the last frame in the states that an alignment may end in."""
    return tuple(
        jnp.max(jnp.where(is_end, last, _log_0(last)), axis=-1) for is_end in _ends(last, lengths)
    )


def _one_or_nan(like, logits, labels, frames, lengths, blank_id):
    """1 for examples whose lengths and labels are in range, else NaN."""
    *_, n_frames, n_classes = logits.shape
    labels, frames, lengths = map(_wide_integers, (labels, frames, lengths))
    wrong = (labels < 0) | (labels >= n_classes) | (labels == blank_id)
    valid = jnp.ones(labels.shape[:-1], bool)
    if lengths is not None:
        valid &= (lengths >= 0) & (lengths <= labels.shape[-1])
        position = lax.broadcasted_iota(lengths.dtype, labels.shape, labels.ndim - 1)
        wrong &= position < lengths[..., None]
    if frames is not None:
        valid &= (frames >= 0) & (frames <= n_frames)
    valid &= ~jnp.any(wrong, axis=-1)
    return jnp.where(valid, jnp.ones_like(like), jnp.nan)
