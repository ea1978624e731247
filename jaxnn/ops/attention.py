"""Scaled dot-product attention, tile by tile: the T×S scores are never held at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnn.op import op
from jaxnn.ops._common.numerics import accumulator, at_least_float32, contract, wide
from jaxnn.ops._common.tiling import Tiles, tiles_of
from jaxnn.ops._common.tuning import TANGENT_TILE_ASPECT, TANGENT_TILE_SCORES
from jaxnn.ops._common.validation import describe, require_floating, require_lengths, require_number

Queries = Float[Array, "B T H D"]
Keys = Float[Array, "B S K D"]
Bias = Float[Array, "#B #H #T #S"]
Mask = Bool[Array, "#B #H #T #S"]
Lengths = Int[Array, "B"]
Statistic = Float[Array, "B T H 1"]


class AttentionResiduals(NamedTuple):
    """The arguments, the output, and two numbers per row that give back the probabilities."""

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

    Shapes:
        B batch; T queries; S keys; H heads; K key/value heads; D components of a head
        q, y, dq, dy: (B, T, H, D)
        k, v, dk, dv: (B, S, K, D); K divides H, and each key/value head serves H/K heads in turn
        bias, dbias:  (B, H, T, S), where any axis may be 1 and is then the same for all
        mask:         the same, of booleans; true where a query sees a key
        q_lengths, kv_lengths: (B,), how many queries and keys of each example count

    A query sees a key if the mask, the lengths and, with `causal`, the order allow it: query t
    sees keys 0 … t. A query that sees none, also because its bias is −∞, has output 0 and
    gradient 0.

    Backward, for one head with s = scale·q·kᵀ + bias, p = softmax(s) and y = p·v:
        dv = pᵀ·dy                            ⟨dy, p·v̇⟩ = ⟨pᵀ·dy, v̇⟩
        dp = dy·vᵀ                            ⟨dy, ṗ·v⟩ = ⟨dy·vᵀ, ṗ⟩
        ds = p ⊙ (dp − δ),                    δₜ = Σⱼ pₜⱼ·dpₜⱼ, as for softmax
        dq = scale·ds·k,  dk = scale·dsᵀ·q    ⟨ds, scale·(q̇·kᵀ + q·k̇ᵀ)⟩
        dbias = ds, summed over the axes that are 1
    The sum over all keys in δ is a sum over components, known before any tile:
        δₜ = Σⱼ pₜⱼ·Σ_d dyₜ_d·vⱼ_d = Σ_d dyₜ_d·yₜ_d

    Tangent, from ṡ = scale·(q̇·kᵀ + q·k̇ᵀ) + ḃias and ṗ = p ⊙ (ṡ − σ) with σₜ = Σⱼ pₜⱼ·ṡₜⱼ:
        ẏ = ṗ·v + p·v̇ = (p ⊙ ṡ)·v + p·v̇ − σ ⊙ y
    Again the sum over all keys leaves the loop: y is known, and σ is a sum like the other two.

    Saves its arguments, y, and of each row the maximum m and the sum l = Σ e^(s − m), in at least
    float32. A tile's p is recomputed, e^(s − m)/l, so memory grows with T and not with T². m and
    l are saved apart: in m + log l a large score would round l away.

    Implementation notes:
        All passes go over tiles of `block` queries by `block` keys; causal attention omits those
        above the diagonal. The forward pass carries for each row the largest score m so far,
        Σ e^(s − m) and Σ e^(s − m)·v; a tile with a larger score scales the two sums down.
        Gradients of heads that share keys are summed by the product itself: the queries of a
        group are rows of one matrix. The two products of ṡ are one of twice the components,
        [q̇, q]·[k, k̇]ᵀ. Products of float16 and bfloat16 accumulate in float32.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: optional, added to the scores.
        mask: optional, which keys each query sees.
        q_lengths: optional; queries from this position on see nothing.
        kv_lengths: optional; keys from this position on are not seen.
        causal: whether a query sees no later key.
        scale: of the products, by default 1/√D.
        block: the most queries, and keys, in a tile; by default chosen from the shapes.

    Raises:
        TypeError: q, k, v and bias are not floating point of one dtype, mask is not boolean,
            lengths are not integers, or an option is of another kind.
        ValueError: the shapes do not fit, K does not divide H, an option is out of range, or a
            length is (under `jit`, where lengths are not known, one beyond the end means the end).

    Reference: A. Vaswani et al., "Attention Is All You Need", 2017, equation 1; T. Dao et al.,
    "FlashAttention", 2022, algorithm 4; J. Ainslie et al., "GQA", 2023, for K < H.

    Example:
        >>> q = k = jnp.zeros((1, 3, 1, 1))
        >>> v = jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1, 1)
        >>> print(jaxnn.attention(q, k, v, causal=True).ravel())
        [1. 2. 4.]
    """
    k, v = (jnp.repeat(a, q.shape[2] // k.shape[2], axis=2) for a in (k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    s = scale * jnp.einsum("bthd,bshd->bhts", q, k)
    if bias is not None:
        s = s + bias
    t, j = (lax.broadcasted_iota(jnp.int32, s.shape, axis) for axis in (2, 3))
    seen = jnp.ones(s.shape, bool) if mask is None else jnp.broadcast_to(mask, s.shape)
    if causal:
        seen &= j <= t
    for position, lengths in ((t, q_lengths), (j, kv_lengths)):
        if lengths is not None:
            seen &= position < jnp.int32(lengths)[:, None, None, None]
    s = jnp.where(seen, s, -jnp.inf)
    largest = lax.stop_gradient(jnp.max(s, -1, keepdims=True, initial=-jnp.inf))
    e = jnp.exp(s - jnp.where(jnp.isneginf(largest), 0, largest))
    total = jnp.sum(e, -1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", e / jnp.where(total == 0, 1, total), v)


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
    scores = _scores(tiles, q, bias, mask, q_lengths, kv_lengths, scale)
    queries, keys, values = tiles.pad_queries(q), tiles.pad_keys(k), tiles.pad_keys(v)

    def step(carry, place):
        i, j = place
        largest, total, weighted = (tiles.queries(a, i) for a in carry)
        s = scores(i, j, tiles.queries(queries, i), tiles.keys(keys, j))
        of_tile = jnp.max(s, -1, keepdims=True, initial=-jnp.inf)
        larger = lax.stop_gradient(jnp.maximum(largest, of_tile))
        e, shrink = jnp.exp(s - larger), jnp.exp(largest - larger)
        total = shrink * total + jnp.sum(e, -1, keepdims=True)
        weighted = shrink * weighted + _weighted(e, tiles.keys(values, j), 3)
        parts = larger, total, weighted
        return tuple(tiles.set_queries(a, i, p) for a, p in zip(carry, parts, strict=True)), None

    # from −∞ as the first maximum, −∞ − (−∞) would be NaN
    lowest = _for_rows(queries, jnp.finfo(accumulator(q.dtype)).min)
    start = lowest, _for_rows(queries, 0), jnp.zeros_like(queries, accumulator(q.dtype))
    carry, _ = lax.scan(step, start, tiles.places)
    maximum, total, weighted = map(tiles.crop_queries, carry)
    y = weighted * _inverse(total)
    return y, AttentionResiduals(q, k, v, bias, mask, q_lengths, kv_lengths, y, maximum, total)


@attention.backward
def attention_bwd(residuals, dy, *, causal=False, scale=None, block=None):
    """dv = pᵀ·dy, ds = p ⊙ (dy·vᵀ − δ), dq = scale·ds·k, dk = scale·dsᵀ·q, dbias = ds."""
    q, k, v, bias, mask, q_lengths, kv_lengths, y, maximum, total = residuals
    tiles = tiles_of(q, k, causal=causal, block=block)
    scores = _scores(tiles, q, bias, mask, q_lengths, kv_lengths, scale)
    of_rows = q, dy, maximum, _inverse(total), _row_products(dy, y)
    by_query = [tiles.pad_queries(a) for a in of_rows]
    by_key = [tiles.pad_keys(a) for a in (k, v)]
    by_pair = None if bias is None else tiles.pad_pairs(bias)

    def step(carry, place):
        i, j = place
        dq, dk, dv, dbias = carry
        qi, dyi, largest, inverse, delta = (tiles.queries(a, i) for a in by_query)
        kj, vj = (tiles.keys(a, j) for a in by_key)
        p = jnp.exp(scores(i, j, qi, kj) - largest) * inverse
        # where p = 1 one key has all the weight, and only rounding would be left of the difference
        ds = jnp.where(p == 1, 0, p * (_products(dyi, vj) - delta))
        if bias is not None:
            dbias = tiles.add_pairs(dbias, i, j, tiles.by_head(ds))
        dq = tiles.add_queries(dq, i, _weighted(ds, kj, 3))
        dk = tiles.add_keys(dk, j, _weighted(ds, qi, 2))
        dv = tiles.add_keys(dv, j, _weighted(p, dyi, 2))
        return (dq, dk, dv, dbias), None

    start = jax.tree.map(
        lambda a: jnp.zeros_like(a, accumulator(q.dtype)), (by_query[0], *by_key, by_pair)
    )
    (dq, dk, dv, dbias), _ = lax.scan(step, start, tiles.places)
    dq = _scale(q, scale) * tiles.crop_queries(dq)
    dk = _scale(q, scale) * tiles.crop_keys(dk)
    dbias = None if bias is None else tiles.crop_pairs(dbias)
    return dq, dk, tiles.crop_keys(dv), dbias, None, None, None


@attention.tangent
def attention_tangent(residuals, tangents, *, causal=False, scale=None, block=None):
    """ẏ = (p ⊙ ṡ)·v + p·v̇ − σ ⊙ y, the two products and σ = Σⱼ p ⊙ ṡ tile by tile."""
    q, k, v, bias, mask, q_lengths, kv_lengths, y, maximum, total = residuals
    q_dot, k_dot, v_dot, bias_dot = tangents[:4]
    tiles = tiles_of(
        q, k, causal=causal, block=block, scores=TANGENT_TILE_SCORES, aspect=TANGENT_TILE_ASPECT
    )
    scores = _scores(tiles, q, bias, mask, q_lengths, kv_lengths, scale)
    score_tangents = _score_tangents(tiles, q, k, q_dot, k_dot, bias_dot, scale)
    by_query = [tiles.pad_queries(a) for a in (q, maximum)]
    by_key = [None if a is None else tiles.pad_keys(a) for a in (k, v, v_dot)]

    def step(carry, place):
        i, j = place
        weighted, sigma = (tiles.queries(a, i) for a in carry)
        qi, largest = (tiles.queries(a, i) for a in by_query)
        kj, vj, vj_dot = (None if a is None else tiles.keys(a, j) for a in by_key)
        e = jnp.exp(scores(i, j, qi, kj) - largest)  # l·p: the sums are divided by l in the end
        if vj_dot is not None:
            weighted = weighted + _weighted(e, vj_dot, 3)
        if score_tangents is not None:
            es = e * score_tangents(i, j)
            weighted = weighted + _weighted(es, vj, 3)
            sigma = sigma + jnp.sum(es, -1, keepdims=True)
        parts = weighted, sigma
        return tuple(tiles.set_queries(a, i, p) for a, p in zip(carry, parts, strict=True)), None

    start = jnp.zeros_like(by_query[0], accumulator(q.dtype)), _for_rows(by_query[0], 0)
    carry, _ = lax.scan(step, start, tiles.places)
    weighted, sigma = map(tiles.crop_queries, carry)
    return (weighted - sigma * at_least_float32(y)) * _inverse(total)


def _scores(tiles: Tiles, q, bias, mask, q_lengths, kv_lengths, scale) -> Callable[..., Array]:
    """The scores s of tile (i, j), −∞ where a key is not seen, from its queries and keys."""
    seen = tiles.seen(mask, q_lengths, kv_lengths)
    bias = None if bias is None else tiles.pad_pairs(bias)

    def scores(i, j, queries, keys):
        s = tiles.by_head(_scale(q, scale) * _products(queries, keys))
        s = _with_bias(s, tiles, bias, i, j)
        return tiles.by_group(jnp.where(seen(i, j), s, -jnp.inf))

    return scores


def _score_tangents(tiles: Tiles, q, k, q_dot, k_dot, bias_dot, scale) -> Callable | None:
    """ṡ = scale·(q̇·kᵀ + q·k̇ᵀ) + ḃias of tile (i, j); `None` if it is 0 everywhere."""
    factors = []
    if q_dot is not None:
        factors.append((q_dot, k))
    if k_dot is not None:
        factors.append((q, k_dot))
    if not factors and bias_dot is None:
        return None
    if factors:
        queries, keys = (jnp.concatenate(parts, -1) for parts in zip(*factors, strict=True))
        queries, keys = tiles.pad_queries(queries), tiles.pad_keys(keys)
    bias_dot = None if bias_dot is None else tiles.pad_pairs(bias_dot)

    def score_tangents(i, j):
        if factors:
            products = _products(tiles.queries(queries, i), tiles.keys(keys, j))
            s_dot = tiles.by_head(_scale(q, scale) * products)
        else:
            shape = q.shape[0], tiles.heads, tiles.rows, tiles.columns
            s_dot = jnp.zeros_like(bias_dot, accumulator(q.dtype), shape=shape)
        return tiles.by_group(_with_bias(s_dot, tiles, bias_dot, i, j))

    return score_tangents


def _with_bias(s, tiles: Tiles, bias, i, j):
    """The scores of a tile, (batch, heads, rows, columns), plus its part of the bias."""
    return s if bias is None else s + at_least_float32(tiles.pairs(bias, i, j))


def _products(rows, columns):
    """Every row of each matrix times every row of the other, in at least float32."""
    return contract(rows, columns, [3], [3], (0, 1))


def _weighted(weights, rows, axis):
    """The sum over an axis of the weights, which the rows have as axis 2, in at least float32.

    The weights are rounded to the dtype of the rows, so that the product is one of that dtype.
    """
    return contract(weights.astype(rows.dtype), rows, [axis], [2], (0, 1))


@wide
def _row_products(a, b):
    """Σ_d aₜ_d·bₜ_d of each query."""
    return jnp.sum(a * b, -1, keepdims=True)


def _for_rows(queries, value):
    """A number for each query of each head, from which a loop starts."""
    shape = (*queries.shape[:3], 1)
    return jnp.full_like(queries, value, accumulator(queries.dtype), shape=shape)


def _inverse(total):
    """1/l, and 0 in a row that sees nothing."""
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _scale(q, scale) -> float:
    return q.shape[3] ** -0.5 if scale is None else scale
