"""Contrastive losses: the class of each example is its partner."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.labels import at_label, one_hot
from jaxnn.ops._common.numerics import contract, representable, wide
from jaxnn.ops._common.validation import require_alike, require_number
from jaxnn.ops.losses.divergences import size_and_shrink
from jaxnn.ops.losses.linear_softmax_cross_entropy import (
    LinearSoftmaxResiduals,
    linear_softmax_cross_entropy_bwd,
    linear_softmax_cross_entropy_fwd,
)

Vectors = Float[Array, "N D"]
Losses = Float[Array, "N"]
Row = Float[Array, "..."]


class Lengths(NamedTuple):
    """The two factors that normalise each row: a direction is x/size·shrink."""

    size: Row
    shrink: Row


class InfoNceResiduals(NamedTuple):
    """The directions u and vᵀ/τ, their lengths, and three numbers of each row of s."""

    u: Vectors
    w: Float[Array, "D N"]
    of_queries: Lengths
    of_keys: Lengths
    maximum: Row
    others: Row
    of_label: Row


class NtXentResiduals(NamedTuple):
    """The directions of all views, their lengths, and three numbers of each row of s."""

    u: Float[Array, "2 N D"]
    of_first: Lengths
    of_second: Lengths
    maximum: Row
    others: Row
    of_partner: Row


@op
def info_nce(queries: Vectors, keys: Vectors, *, temperature: float = 0.1) -> Losses:
    """InfoNCE loss of each query: the cross-entropy of its key among all keys.

    L = −log pₙₙ with p = softmax(s) along the keys and the similarities sₙₘ = ⟨uₙ, vₘ⟩/τ of the
    directions u = q/‖q‖ and v = k/‖k‖. No 1/N, and no sum over the other direction: for CLIP's
    loss, average `info_nce(q, k)` and `info_nce(k, q)`.

    Shapes:
        N queries and as many keys, the n-th key that of the n-th query; D components
        queries q, keys k and their gradients: (N, D)
        L, dL: (N,)

    The zero vector has the direction 0 and the gradient 0.

    Backward, from ⟨dL, L̇⟩ with ds = (p − 1)·dL, where 1 is the identity, as in
    `softmax_cross_entropy`, and u̇ = (q̇ − u·⟨u, q̇⟩)/‖q‖:
        du = ds·v/τ         dv = dsᵀ·u/τ
        dq = (du − u·⟨u, du⟩)/‖q‖,   dk = (dv − v·⟨v, dv⟩)/‖k‖

    Saves u and v instead of its arguments, two numbers for the length of each, and three for each
    row of s: with many examples s is never held at once, see `linear_softmax_cross_entropy`. On
    several devices, forward and backward share the gathered v.

    Args:
        queries: q.
        keys: k.
        temperature: τ, above 0.

    Raises:
        TypeError: an argument is not floating point, or temperature is not a number.
        ValueError: the shapes differ or are not (N, D), or temperature is not above 0.

    Reference: A. van den Oord, Y. Li and O. Vinyals, "Representation Learning with Contrastive
    Predictive Coding", 2018, equation 4; A. Radford et al., "Learning Transferable Visual Models
    From Natural Language Supervision", 2021, figure 3, for the directions and the temperature.

    Example:
        >>> queries = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> keys = jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> print(jaxnn.info_nce(queries, keys, temperature=1.0))
        [0.3132617 0.3132617]
    """
    u, v = _direction(queries), _direction(keys)
    similarities = u @ v.T / max(temperature, float(jnp.finfo(queries.dtype).tiny))
    total = _log_sum_exp(similarities)
    return total - jnp.sum(jnp.where(_identity(queries), similarities, 0), axis=-1)


info_nce.mixes_examples = True


@info_nce.validate
def _(queries, keys, *, temperature):
    _require_pairs(temperature, queries=queries, keys=keys)


@info_nce.forward
@wide
def info_nce_fwd(queries, keys, *, temperature=0.1):
    """L = −log pₙₙ, the cross-entropy of a linear layer with the weights vᵀ/τ."""
    of_queries, of_keys = Lengths(*size_and_shrink(queries)), Lengths(*size_and_shrink(keys))
    u, v = _normalised(queries, of_queries), _normalised(keys, of_keys)
    w = (v / representable(temperature, v.dtype)).T
    losses, sums = linear_softmax_cross_entropy_fwd({"w": w}, u, _labels(u), chunk=_chunk(u))
    return losses, InfoNceResiduals(u, w, of_queries, of_keys, *sums[-3:])


@info_nce.backward
@wide
def info_nce_bwd(residuals, dy, *, temperature=0.1):
    """du = ds·v/τ, dv = dsᵀ·u/τ, and their components that turn q and k."""
    u, w, of_queries, of_keys, *sums = residuals
    of_layer = LinearSoftmaxResiduals({"w": w}, u, _labels(u), None, *sums)
    dparams, du, *_ = linear_softmax_cross_entropy_bwd(of_layer, dy, chunk=_chunk(u))
    temperature = representable(temperature, w.dtype)
    v, dv = w.T * temperature, dparams["w"].T / temperature
    return _turned(u, of_queries, du), _turned(v, of_keys, dv)


@op
def nt_xent(first: Vectors, second: Vectors, *, temperature: float = 0.5) -> Losses:
    """NT-Xent loss of SimCLR for each example, from two views of it.

    Among the 2·N views of a batch, each one's partner is the class: ℓ(i) = −log pᵢⱼ with the
    partner j, p = softmax(s) along all views but i itself, and the similarities sᵢₘ = ⟨uᵢ, uₘ⟩/τ of
    the directions u = z/‖z‖. L = ½·ℓ(first view) + ½·ℓ(second view), so that the mean over the N
    examples is SimCLR's mean over 2·N views.

    Shapes:
        N examples, D components
        first, second and their gradients: (N, D)
        L, dL: (N,)

    The zero vector has the direction 0 and the gradient 0.

    Backward, from ⟨dL, L̇⟩ with ds = (p − t)·dℓ, where t marks the partners, as in
    `softmax_cross_entropy`, and u̇ = (ż − u·⟨u, ż⟩)/‖z‖:
        du = (ds + dsᵀ)·u/τ        every view is a row of s and a column
        dz = (du − u·⟨u, du⟩)/‖z‖

    Saves u instead of its arguments, two numbers for the length of each view, and three for each
    row of s. Recomputing the product s costs less than saving its 4·N² numbers.

    Implementation notes:
        The rows of s are stacked by view: concatenating them would move a batch that is sharded
        over several devices.

    Args:
        first: the first view of each example.
        second: the second view of each example.
        temperature: τ, above 0.

    Raises:
        TypeError: an argument is not floating point, or temperature is not a number.
        ValueError: the shapes differ or are not (N, D), or temperature is not above 0.

    Reference: T. Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", 2020, equation 1 and algorithm 1.

    Example:
        >>> first, second = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> print(jaxnn.nt_xent(first, second, temperature=1.0))
        [0.5514447 0.5514447]
    """
    u = jnp.concatenate([_direction(first), _direction(second)])
    similarities = u @ u.T / max(temperature, float(jnp.finfo(first.dtype).tiny))
    others = jnp.where(_identity(u), -jnp.inf, similarities)
    n = first.shape[0]
    partners = jnp.sum(jnp.where(jnp.roll(_identity(u), n, axis=0), similarities, 0), axis=-1)
    losses = _log_sum_exp(others) - partners
    return 0.5 * (losses[:n] + losses[n:])


nt_xent.mixes_examples = True


@nt_xent.validate
def _(first, second, *, temperature):
    _require_pairs(temperature, first=first, second=second)


@nt_xent.forward
@wide
def nt_xent_fwd(first, second, *, temperature=0.5):
    """L = ½·(ℓ + ℓ of the partner), the cross-entropy of the partner among the other views."""
    of_first, of_second = Lengths(*size_and_shrink(first)), Lengths(*size_and_shrink(second))
    u = jnp.stack([_normalised(first, of_first), _normalised(second, of_second)])
    similarities, itself, partners = _views(u, temperature)
    lowest = float(jnp.finfo(u.dtype).min)
    candidates = jnp.where(itself, lowest, similarities)
    maximum = lax.stop_gradient(jnp.max(candidates, axis=-1, initial=lowest))
    of_partner = at_label(similarities, partners) - maximum
    dropped = itself | one_hot(partners, similarities.shape[-1])
    others = jnp.sum(_exponentials(similarities, dropped, maximum), axis=-1)
    losses = jnp.log1p(others + jnp.expm1(of_partner)) - of_partner
    residuals = NtXentResiduals(u, of_first, of_second, maximum, others, of_partner)
    return 0.5 * jnp.sum(losses, axis=0), residuals


@nt_xent.backward
@wide
def nt_xent_bwd(residuals, dy, *, temperature=0.5):
    """du = (ds + dsᵀ)·u/τ, and its components that turn the views."""
    u, of_first, of_second, maximum, others, of_partner = residuals
    similarities, itself, partners = _views(u, temperature)
    partner = one_hot(partners, similarities.shape[-1])
    half = 0.5 * dy / representable(temperature, dy.dtype)
    slope = jnp.stack([half, half]) / (others + jnp.exp(of_partner))
    e = _exponentials(similarities, itself | partner, maximum)
    ds = jnp.where(partner, -others[..., None], e) * slope[..., None]
    columns = u.reshape(-1, u.shape[2])
    du = contract(ds, columns, [2], [0]) + contract(u, ds, [0, 1], [0, 1]).T.reshape(u.shape)
    return _turned(u[0], of_first, du[0]), _turned(u[1], of_second, du[1])


def _require_pairs(temperature, **arrays):
    require_number("temperature", temperature, above=0)
    require_alike(**arrays)
    for name, array in arrays.items():
        if array.ndim != 2:
            raise ValueError(f"{name} must be (examples, components), got shape {array.shape}")


def _direction(x):
    """x/‖x‖ for the definitions, or 0 where that is not defined."""
    size = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    is_zero = size == 0
    scaled = x / jnp.where(is_zero, 1, size)
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return jnp.where(is_zero, 0, scaled / jnp.sqrt(jnp.where(is_zero, 1, square)))


def _identity(x):
    """The identity over the rows, for the definitions."""
    rows = jnp.arange(x.shape[0])
    return rows[:, None] == rows[None]


def _log_sum_exp(x):
    """log Σ eˣ of each row, for the definitions."""
    largest = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf))
    total = jnp.sum(jnp.exp(x - largest), axis=-1, keepdims=True)
    return (largest + jnp.log(total))[..., 0]


def _normalised(x, lengths: Lengths):
    return x / lengths.size * lengths.shrink


def _turned(direction, lengths: Lengths, d):
    """The gradient of x from that of its direction u: (du − u·⟨u, du⟩)/‖x‖."""
    along = jnp.sum(direction * d, axis=-1, keepdims=True)
    return (d - direction * along) * lengths.shrink / lengths.size


def _labels(u):
    """The key of each query: the one with the same index."""
    return jnp.arange(u.shape[0], dtype=jnp.int32)


def _chunk(u):
    """The chunk size: all keys at once if their number is not known."""
    return u.shape[0] if is_symbolic_dim(u.shape[0]) else None


def _views(u, temperature):
    """The similarities of each view to all views, the mask of itself, and its partner's index."""
    n = u.shape[1]
    similarities = contract(u, u.reshape(-1, u.shape[2]), [2], [1])
    similarities = similarities / representable(temperature, u.dtype)
    side, row = (lax.broadcasted_iota(jnp.int32, u.shape[:2], axis) for axis in (0, 1))
    itself = one_hot(side * n + row, similarities.shape[-1])
    return similarities, itself, (1 - side) * n + row


def _exponentials(similarities, dropped, maximum):
    """e^(s − max s), 0 where an entry is dropped."""
    maximum = maximum[..., None]
    return jnp.where(dropped, 0, jnp.exp(jnp.where(dropped, maximum, similarities) - maximum))
