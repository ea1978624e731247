"""Scaled dot-product attention, tile by tile: the T×S scores are never held at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnn.op import op
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.tiling import Tiles, tiles_of
from jaxnn.ops._common.validation import describe, require_floating, require_lengths, require_number

Queries = Float[Array, "B T H D"]
Keys = Float[Array, "B S K D"]
Bias = Float[Array, "#B #H #T #S"]
Mask = Bool[Array, "#B #H #T #S"]
Lengths = Int[Array, "B"]
Statistic = Float[Array, "B T H 1"]


class AttentionResiduals(NamedTuple):
    """The arguments, the output, and two numbers a row from which probabilities come back."""

    q: Queries
    k: Keys
    v: Keys
    bias: Bias | None
    mask: Mask | None
    q_lengths: Lengths | None
    kv_lengths: Lengths | None
    y: Queries
    maximum: Statistic
    total: Statistic


@op
def attention(
    q: Queries,
    k: Keys,
    v: Keys,
    bias: Bias | None = None,
    mask: Mask | None = None,
    q_lengths: Lengths | None = None,
    kv_lengths: Lengths | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    block: int | None = None,
) -> Queries:
    """Scaled dot-product attention, y = softmax(scale·q·kᵀ + bias)·v for each head.

    Shapes (B batch, T queries, S keys, H heads, K key/value heads, D components of a head):
        q, y, dq, dy: (B, T, H, D)
        k, v, dk, dv: (B, S, K, D); K divides H, and each key/value head serves H/K heads in turn
        bias, dbias:  (B, H, T, S), each axis may be 1 and is then the same for all
        mask:         the same of booleans, true where a query sees a key
        q_lengths, kv_lengths: (B,), how many queries and keys of each example count

    A query sees a key if the mask, the lengths and, with `causal`, the order allow it: query t
    sees the keys 0 … t. A query that sees none, also because its bias is −∞, has the output 0 and
    the gradient 0.

    Backward, for one head with s = scale·q·kᵀ + bias, p = softmax(s) and y = p·v:
        dv = pᵀ·dy                        ⟨dy, p·v̇⟩ = ⟨pᵀ·dy, v̇⟩
        dp = dy·vᵀ                        ⟨dy, ṗ·v⟩ = ⟨dy·vᵀ, ṗ⟩
        ds = p ⊙ (dp − δ),                δₜ = Σⱼ pₜⱼ·dpₜⱼ, as for softmax
        dq = scale·ds·k,  dk = scale·dsᵀ·q,  dbias = ds, summed over the axes that are 1
    The sum over all keys in δ is one over components, known before any tile:
        δₜ = Σⱼ pₜⱼ·Σ_d dyₜ_d·vⱼ_d = Σ_d dyₜ_d·yₜ_d

    Both passes go over tiles of `block` queries by `block` keys; of a causal attention those above
    the diagonal are left out. The forward pass holds for each row the maximum m of the scores so
    far, l = Σ e^(s − m) and Σ e^(s − m)·v; a tile with a larger score scales the two sums down.
    Gradients of heads that share keys are summed by the product itself: the queries of a group
    are rows of one matrix.

    Keeps its arguments, y, and of each row m and l in at least float32; a tile's p is computed
    again, e^(s − m)/l, so memory grows with T and not with T². m and l are kept apart: in
    m + log l a large score would round l away.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: what is added to the scores.
        mask: which keys each query sees.
        q_lengths: queries from this on see nothing.
        kv_lengths: keys from this on are not seen.
        causal: whether the order restricts.
        scale: of the products, by default 1/√D.
        block: the most queries, and keys, of a tile; by default chosen from the shapes.

    Raises:
        TypeError: q, k, v and bias are not floating point of one dtype, mask is not boolean,
            lengths are not integers, or an option is of another kind.
        ValueError: the shapes do not fit, K does not divide H, an option is out of range, or a
            length is (under `jit`, where lengths are not known, one beyond the end means the end).

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, equation 1; T. Dao et al.,
    "FlashAttention", 2022, algorithm 4; J. Ainslie et al., "GQA", 2023, for K < H.

    Example:
        >>> q = k = jnp.zeros((1, 3, 1, 1))
        >>> v = jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1, 1)
        >>> print(jaxnn.attention(q, k, v, causal=True).ravel())
        [1. 2. 4.]
    """
    k, v = (jnp.repeat(a, q.shape[2] // k.shape[2], axis=2) for a in (k, v))
    s = _scale(q, scale) * jnp.einsum("bthd,bshd->bhts", q, k)
    if bias is not None:
        s = s + bias
    rows, columns = (jnp.arange(a.shape[1], dtype=jnp.int32) for a in (q, k))
    s = jnp.where(_seen(rows, columns, mask, q_lengths, kv_lengths, causal), s, -jnp.inf)
    largest = lax.stop_gradient(_row_maximum(s))
    e = jnp.exp(s - jnp.where(jnp.isneginf(largest), 0, largest))
    total = jnp.sum(e, -1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", e / jnp.where(total == 0, 1, total), v)


@attention.forward
def attention_fwd(
    q,
    k,
    v,
    bias=None,
    mask=None,
    q_lengths=None,
    kv_lengths=None,
    *,
    causal=False,
    scale=None,
    block=None,
):
    """y = Σ e^(s − m)·v/Σ e^(s − m), the maximum m and the two sums tile by tile."""
    tiles = tiles_of(q, k, causal=causal, block=block)
    scores = _scores(tiles, q, k, bias, mask, q_lengths, kv_lengths, causal, scale)
    queries, keys, values = tiles.pad_queries(q), tiles.pad_keys(k), tiles.pad_keys(v)

    def step(carry, place):
        i, j = place
        largest, total, weighted = (tiles.queries(a, i) for a in carry)
        s = scores(i, j, tiles.queries(queries, i), tiles.keys(keys, j))
        larger = lax.stop_gradient(jnp.maximum(largest, _row_maximum(s)))
        e, shrink = jnp.exp(s - larger), jnp.exp(largest - larger)
        total = shrink * total + jnp.sum(e, -1, keepdims=True)
        weighted = shrink * weighted + _product(e.astype(v.dtype), tiles.keys(values, j), 3, 2)
        parts = larger, total, weighted
        return tuple(tiles.set_queries(a, i, p) for a, p in zip(carry, parts, strict=True)), None

    wide = accumulator(q.dtype)
    column = (*queries.shape[:3], 1)
    start = (
        jnp.full(column, jnp.finfo(wide).min, wide),  # from −∞, −∞ − (−∞) would be NaN
        jnp.zeros(column, wide),
        jnp.zeros(queries.shape, wide),
    )
    carry, _ = lax.scan(step, start, tiles.places)
    maximum, total, weighted = (a[:, : q.shape[1]] for a in carry)
    y = (weighted * _inverse(total)).astype(q.dtype)
    return y, AttentionResiduals(q, k, v, bias, mask, q_lengths, kv_lengths, y, maximum, total)


@attention.backward
def attention_bwd(residuals, dy, *, causal=False, scale=None, block=None):
    """dv = pᵀ·dy, ds = p ⊙ (dy·vᵀ − δ), dq = scale·ds·k, dk = scale·dsᵀ·q, dbias = ds."""
    q, k, v, bias, mask, q_lengths, kv_lengths, y, maximum, total = residuals
    tiles = tiles_of(q, k, causal=causal, block=block)
    scores = _scores(tiles, q, k, bias, mask, q_lengths, kv_lengths, causal, scale)
    delta = jnp.sum(at_least_float32(dy) * at_least_float32(y), -1, keepdims=True)
    by_query = [tiles.pad_queries(a) for a in (q, dy, maximum, _inverse(total), delta)]
    by_key = [tiles.pad_keys(a) for a in (k, v)]
    by_pair = None if bias is None else tiles.pad_pairs(bias)

    def step(carry, place):
        i, j = place
        dq, dk, dv, dbias = carry
        qi, dyi, largest, inverse, shift = (tiles.queries(a, i) for a in by_query)
        kj, vj = (tiles.keys(a, j) for a in by_key)
        p = jnp.exp(scores(i, j, qi, kj) - largest) * inverse
        # where p = 1 one key has all the weight, and what the difference left would be rounding
        ds = jnp.where(p == 1, 0, p * (_product(dyi, vj, 3, 3) - shift))
        if bias is not None:
            dbias = tiles.add_pairs(dbias, i, j, tiles.by_head(ds))
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        dq = tiles.add_queries(dq, i, _product(ds, kj, 3, 2))
        dk = tiles.add_keys(dk, j, _product(ds, qi, 2, 2))
        dv = tiles.add_keys(dv, j, _product(p, dyi, 2, 2))
        return (dq, dk, dv, dbias), None

    start = jax.tree.map(
        lambda a: jnp.zeros(a.shape, accumulator(q.dtype)), (by_query[0], *by_key, by_pair)
    )
    (dq, dk, dv, dbias), _ = lax.scan(step, start, tiles.places)
    factor = _scale(q, scale)
    dq = (factor * dq[:, : q.shape[1]]).astype(q.dtype)
    dk = (factor * dk[:, : k.shape[1]]).astype(q.dtype)
    dv = dv[:, : v.shape[1]].astype(q.dtype)
    if bias is not None:
        dbias = dbias[:, :, : bias.shape[2], : bias.shape[3]].astype(q.dtype)
    return dq, dk, dv, dbias, None, None, None


def _scores(
    tiles: Tiles, q, k, bias, mask, q_lengths, kv_lengths, causal, scale
) -> Callable[..., Array]:
    """The scores s of tile (i, j), −∞ where a key is not seen, from its queries and keys."""
    factor = _scale(q, scale)
    q_lengths = _within(q_lengths, q.shape[1], tiles.rows)
    kv_lengths = _within(kv_lengths, k.shape[1], tiles.columns)
    bias, mask = (None if a is None else tiles.pad_pairs(a) for a in (bias, mask))

    def scores(i, j, queries, keys):
        s = tiles.by_head(factor * _product(queries, keys, 3, 3))
        if bias is not None:
            s = s + at_least_float32(tiles.pairs(bias, i, j))
        rows = i * tiles.rows + jnp.arange(tiles.rows, dtype=jnp.int32)
        columns = j * tiles.columns + jnp.arange(tiles.columns, dtype=jnp.int32)
        masked = None if mask is None else tiles.pairs(mask, i, j)
        seen = _seen(rows, columns, masked, q_lengths, kv_lengths, causal)
        return tiles.by_group(jnp.where(seen, s, -jnp.inf))

    return scores


def _seen(rows, columns, mask, q_lengths, kv_lengths, causal) -> Mask:
    """Which of these keys each of these queries sees."""
    seen = jnp.ones((1, 1, rows.size, columns.size), bool) if mask is None else mask
    if causal:
        seen = seen & (columns[None, :] <= rows[:, None])[None, None]
    if q_lengths is not None:
        seen = seen & (rows[None, :] < q_lengths.astype(rows.dtype)[:, None])[:, None, :, None]
    if kv_lengths is not None:
        of_keys = columns[None, :] < kv_lengths.astype(rows.dtype)[:, None]
        seen = seen & of_keys[:, None, None, :]
    return seen


def _within(lengths, n, size):
    """Lengths that leave out what was filled up behind position n to whole tiles."""
    if size == 0 or n % size == 0:
        return lengths
    return jnp.full(1, n, jnp.int32) if lengths is None else jnp.minimum(lengths, n)


def _product(a, b, axis_of_a, axis_of_b):
    """The sum over these axes for each example and key/value head, in at least float32."""
    return lax.dot_general(
        a,
        b,
        (((axis_of_a,), (axis_of_b,)), ((0, 1), (0, 1))),
        preferred_element_type=accumulator(a.dtype),
    )


def _row_maximum(s):
    """The largest score of each row, −∞ where there are no keys."""
    return jnp.max(s, -1, keepdims=True, initial=-jnp.inf)


def _inverse(total):
    """1/l, and 0 in a row that sees nothing."""
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _scale(q, scale) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


@attention.validate
def _(q, k, v, bias, mask, q_lengths, kv_lengths, *, causal, scale, block):
    floating = {"q": q, "k": k, "v": v} | ({} if bias is None else {"bias": bias})
    require_floating(**floating)
    for name, a, axes in (("q", q, "(B, T, H, D)"), ("k", k, "(B, S, K, D)")):
        if a.ndim != 4 or 0 in a.shape[2:]:
            raise ValueError(f"{name} must be {axes}, got shape {a.shape}")
    if v.shape != k.shape:
        raise ValueError(f"v has shape {v.shape} and k {k.shape}; they must be equal")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q has shape {q.shape} and k {k.shape}; the batch, axis 0, and the components, "
            "axis 3, must be equal"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"k has {k.shape[2]} heads, which do not divide the {q.shape[2]} heads of q"
        )
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for name, a in (("bias", bias), ("mask", mask)):
        if a is not None and (
            a.ndim != 4 or any(n not in (1, m) for n, m in zip(a.shape, scores, strict=True))
        ):
            raise ValueError(
                f"{name} has shape {a.shape}; it must be (B, H, T, S) = {scores}, where any "
                "axis may be 1"
            )
    if mask is not None and mask.dtype != bool:
        raise TypeError(
            f"mask must be boolean, got {describe(mask)}; what is added to the scores is bias"
        )
    require_lengths("q_lengths", q_lengths, q.shape[:1], q.shape[1])
    require_lengths("kv_lengths", kv_lengths, q.shape[:1], k.shape[1])
    if not isinstance(causal, bool):
        raise TypeError(f"option causal must be True or False, got {causal!r}")
    if scale is not None:
        require_number("scale", scale)
    if block is not None and (type(block) is not int or block < 1):
        raise ValueError(f"option block must be a positive integer or None, got {block!r}")
