"""Scaled dot-product attention, tile by tile: the T×S scores are never held at once."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray

from jaxnn.op import op
from jaxnn.ops._common import cudnn
from jaxnn.ops._common.numerics import accumulator, at_least_float32, contract, wide
from jaxnn.ops._common.softcap import softcap_slope, softcapped
from jaxnn.ops._common.tiling import Band, clamped, tiles_of
from jaxnn.ops._common.tuning import TANGENT_TILE_ASPECT, TANGENT_TILE_SCORES
from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_integers,
    require_lengths,
    require_number,
    require_one_key,
)

Queries = Float[Array, "B T H D"]
Keys = Float[Array, "B S K D"]
Values = Float[Array, "B S K E"]
Output = Float[Array, "B T H E"]
Bias = Float[Array, "..."]
Mask = Bool[Array, "..."]
Lengths = Integer[Array, "B"]
Start = Integer[Array, ""] | Integer[Array, "B"]
Sinks = Float[Array, "H"]
Statistic = Float[Array, "B T H 1"]
Implementation = Literal["tiles", "cudnn"]
Window = int | tuple[int | None, int | None]

LARGEST_POSITION = 2**30  # so that no difference of two positions overflows an int32


class AttentionArguments(NamedTuple):
    """All the positional arguments."""

    q: Queries
    k: Keys
    v: Values
    bias: Bias | None = None
    mask: Mask | None = None
    q_lengths: Lengths | None = None
    kv_lengths: Lengths | None = None
    q_start: Start | None = None
    sinks: Sinks | None = None
    key: PRNGKeyArray | None = None


class AttentionResiduals(NamedTuple):
    """The arguments, the output, and three numbers for each row of probabilities."""

    arguments: AttentionArguments
    y: Output
    maximum: Statistic
    total: Statistic
    leader: Int[Array, "B T H 1"]


class AttentionOptions(NamedTuple):
    """The options, with their defaults."""

    causal: bool | Literal["lower_right"] = False
    window: Window | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0
    scale: float | None = None
    block: int | None = None
    implementation: Implementation | None = None


@op
def attention(
    q: Queries,
    k: Keys,
    v: Values,
    bias: Bias | None = None,
    mask: Mask | None = None,
    q_lengths: Lengths | None = None,
    kv_lengths: Lengths | None = None,
    q_start: Start | None = None,
    sinks: Sinks | None = None,
    key: PRNGKeyArray | None = None,
    *,
    causal: bool | Literal["lower_right"] = False,
    window: Window | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    scale: float | None = None,
    block: int | None = None,
    implementation: Implementation | None = None,
) -> Output:
    """Scaled dot-product attention, y = softmax(scale·q·kᵀ + bias)·v for each head.

    Shapes:
        B batch; T queries; S keys; H heads; K key/value heads; D components of a query and a key;
        E components of a value
        q, dq:        (B, T, H, D)
        k, dk:        (B, S, K, D); K divides H, and each key/value head serves H/K heads in turn
        v, dv:        (B, S, K, E)
        y, dy:        (B, T, H, E)
        bias, dbias:  (B, H, T, S), where any axis may be 1 and is then the same for all, and
                      leading axes may be omitted: (T, S), (H, 1, 1), …
        mask:         the same, of booleans; true where a query sees a key
        q_lengths, kv_lengths: (B,), the number of queries and keys of each example that count
        q_start:      () or (B,), the position of the first query among the keys
        sinks, dsinks: (H,)

    A query sees a key if the mask, the lengths, a bias other than −∞ and the order allow it. Query
    t is at position t + q_start, and key j at position j. With `causal` a query sees no later key;
    with the window (before, after) it sees keys from `before` positions before it to `after`
    positions after it. A query that sees none has output 0 and gradient 0. A key and a query that
    do not see each other have no influence on each other, even if they hold NaN or infinity. A
    query that sees a key or a value with a NaN or an infinity has the output NaN.

    A sink is a further key of a head that every query sees, with its own logit and the value 0: it
    adds e^sink to the denominator of the softmax. A softcap a bounds the scores before the bias is
    added, s = a·tanh(scale·q·kᵀ/a) + bias. Dropout multiplies each probability by 0 or by 1 over
    the fraction that is kept.

    Backward, for one head with s = scale·q·kᵀ + bias, p = softmax(s) and y = p·v:
        dv = pᵀ·dy                            ⟨dy, p·v̇⟩ = ⟨pᵀ·dy, v̇⟩
        dp = dy·vᵀ                            ⟨dy, ṗ·v⟩ = ⟨dy·vᵀ, ṗ⟩
        ds = p ⊙ (dp − δ),                    δₜ = Σⱼ pₜⱼ·dpₜⱼ, as for softmax
        dq = scale·ds·k,  dk = scale·dsᵀ·q    ⟨ds, scale·(q̇·kᵀ + q·k̇ᵀ)⟩
        dbias = ds, summed over the axes that are 1
    The sum over all keys in δ is a sum over components, known before any tile:
        δₜ = Σⱼ pₜⱼ·Σ_d dyₜ_d·vⱼ_d = Σ_d dyₜ_d·yₜ_d
    Where one key has almost all the weight, dp − δ cancels. The sum Σⱼ dsₜⱼ is 0, so a tile that
    holds all the keys computes ds of a key with p > ½ as minus the sum of the others. With several
    tiles, where p rounds to 1, dp − δ = Σ_d dyₜ_d·(vⱼ_d − yₜ_d), which is 0 where y is that v.

    With the options, ds stays the gradient of the scores that enter the softmax:
        softcap:  ds ⊙ (1 − tanh²(scale·q·kᵀ/a)) takes the place of ds in dq and dk
        sinks:    dsinkₕ = −Σ_b Σₜ p_sink·δₜ, which is p ⊙ (dp − δ) of a key with the value 0
        dropout:  with w = m ⊙ p/(1 − rate) in place of p in y, dv = wᵀ·dy and
                  dp = m ⊙ (dy·vᵀ)/(1 − rate); δₜ = Σ_d dyₜ_d·yₜ_d as before

    Tangent, from ṡ = scale·(q̇·kᵀ + q·k̇ᵀ) + ḃias and ṗ = p ⊙ (ṡ − σ) with σₜ = Σⱼ pₜⱼ·ṡₜⱼ:
        ẏ = ṗ·v + p·v̇ = (p ⊙ ṡ)·v + p·v̇ − σ ⊙ y
    Again the sum over all keys leaves the loop: y is known, and σ is a sum like the other two. A
    sink adds p_sink·ṡink to σ.

    Saves its arguments, y, and of each row the maximum m and the sum l = Σ e^(s − m), in at least
    float32, and the position of its largest score where that has all the weight. A tile's p is
    recomputed, e^(s − m)/l, so memory grows with T and not with T². m and l are saved separately:
    in m + log l a large score would round l away.

    Implementation notes:
        All passes loop over tiles of `block` queries by `block` keys and omit those that the order
        excludes, if it is known while tracing: with `causal` those above the diagonal. The forward
        pass carries for each row the largest score m so far, Σ e^(s − m) and Σ e^(s − m)·v; a tile
        with a larger score scales the sums down. Σ e^(s − m)·j, in the same product as Σ e^(s − m),
        gives the position of a key that has all the weight. Gradients of heads that share keys are
        summed by the product itself: the queries of a group are rows of one matrix. The two
        products of ṡ are one of twice the components, [q̇, q]·[k, k̇]ᵀ. Products of float16 and
        bfloat16 accumulate in float32. In a product whose weights are 0 where a key is not seen,
        0 replaces NaN and infinity, because 0·NaN is NaN.
        On a GPU, cuDNN's kernels compute calls in float16 and bfloat16 that have no bias, mask or
        lengths and no options but causal ones and their windows. In these kernels a NaN reaches
        queries that do not see it, and the last bits of dq differ between runs unless XLA is set to
        be deterministic.
        The mask of dropout is drawn from the key with the example, the head, the query and the key
        folded in, so it does not depend on the tiles, and the backward draws it again.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: optional, added to the scores.
        mask: optional, true for the keys that each query sees.
        q_lengths: optional; queries from this position on see nothing.
        kv_lengths: optional; keys from this position on are not seen.
        q_start: optional, by default 0. With a cache of keys and values it is the number of
            positions before the new queries.
        sinks: optional, a logit for each head.
        key: a PRNG key, for `dropout_rate` above 0.
        causal: whether a query sees no later key; "lower_right" aligns the last query with the last
            key, as if q_start were S − T.
        window: optional, the number of positions that a query sees before and after its own: an
            integer, or a pair with `None` for no bound.
        softcap: optional, the bound a of the scores.
        dropout_rate: the fraction of the probabilities that dropout drops, below 1.
        scale: the factor of the products, by default 1/√D.
        block: the most queries, and keys, in a tile; by default chosen from the shapes.
        implementation: "tiles" or "cudnn"; by default cuDNN if it can compute the call, the arrays
            are on no mesh and `block` is not given.

    Raises:
        TypeError: q, k, v, bias and sinks are not floating point, mask is not boolean, lengths or
            q_start are not integers, key is not a PRNG key, or an option has a wrong type.
        ValueError: the shapes do not fit, K does not divide H, an option is out of range, dropout
            has no key, q_start is given with "lower_right", cuDNN is chosen and cannot run, or a
            length is out of range (under `jit`, where lengths are not known, one beyond the end
            counts as the end).

    Reference: A. Vaswani et al., "Attention Is All You Need", 2017, equation 1; T. Dao et al.,
    "FlashAttention", 2022, algorithm 4; J. Ainslie et al., "GQA", 2023, for K < H; Gemma 2, 2024,
    section 2, for the softcap; gpt-oss, 2025, for sinks. Window and lengths are those of
    `jax.nn.dot_product_attention`, "lower_right" that of `torch.nn.attention.bias`.

    Example:
        >>> q = k = jnp.zeros((1, 3, 1, 1))
        >>> v = jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1, 1)
        >>> print(jaxnn.attention(q, k, v, causal=True).ravel())
        [1. 2. 4.]
    """
    (n_queries, n_heads, d), n_keys = q.shape[1:], k.shape[1]
    k, v = (jnp.repeat(a, n_heads // a.shape[2], axis=2) for a in (k, v))
    shape = q.shape[0], n_heads, n_queries, n_keys
    t, j = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (2, 3))
    seen = jnp.ones(shape, bool)
    for a in (mask, None if bias is None else ~jnp.isneginf(bias)):
        if a is not None:
            seen &= jnp.broadcast_to(a, shape)
    for position, lengths in ((t, q_lengths), (j, kv_lengths)):
        if lengths is not None:
            if lengths.dtype.itemsize < 4:
                lengths = lengths.astype(jnp.int32)
            seen &= position.astype(lengths.dtype) < lengths[:, None, None, None]
    if causal == "lower_right":
        t = t + (n_keys - n_queries)
    if q_start is not None:
        t = t + jnp.reshape(q_start.astype(jnp.int32), (-1, 1, 1, 1))
    before, after = window if isinstance(window, tuple) else (window, window)
    if causal:
        seen &= j <= t
    if before is not None:
        seen &= j >= t - before
    if after is not None:
        seen &= j <= t + after
    hides = any(a is not None for a in (bias, mask, q_lengths, kv_lengths, q_start))
    if hides:  # a query or a key that takes no part has no influence, even if it holds NaN
        row_seen, column_seen = (jnp.swapaxes(seen.any(a), 1, 2)[..., None] for a in (3, 2))
        q = jnp.where(row_seen, q, 0)
        k, v = jnp.where(column_seen, k, 0), jnp.where(column_seen, v, 0)
    s = jnp.einsum("bthd,bshd->bhts", q, k) * (d**-0.5 if scale is None else scale)
    if softcap is not None:
        dtype = jnp.float32 if s.dtype.itemsize < 4 else s.dtype
        cap = max(softcap, float(jnp.finfo(dtype).tiny))
        s = (cap * jnp.tanh(s.astype(dtype) / cap)).astype(s.dtype)
    if bias is not None:
        s = s + jnp.broadcast_to(bias, shape)
    s = jnp.where(seen, s, -jnp.inf)
    largest = jnp.max(s, -1, keepdims=True, initial=-jnp.inf)
    if sinks is not None:
        sinks = sinks[None, :, None, None]
        largest = jnp.maximum(largest, sinks)
    largest = lax.stop_gradient(jnp.where(jnp.isneginf(largest), 0, largest))
    e = jnp.exp(s - largest)
    total = jnp.sum(e, -1, keepdims=True)
    if sinks is not None:
        total = total + jnp.exp(sinks - largest)
    p = e / jnp.where(total == 0, 1, total)
    if key is not None and dropout_rate:
        drawn = key
        for axis, size in enumerate(shape):
            fold = jax.vmap(jax.random.fold_in, (None, 0))
            for _ in range(axis):
                fold = jax.vmap(fold, (0, None))
            drawn = fold(drawn, jnp.arange(size))
        dropped = round(dropout_rate * 2**32)
        kept = jax.random.key_data(drawn)[..., -1] >= jnp.uint32(min(dropped, 2**32 - 1))
        p = jnp.where(kept, p / (1 - min(dropped, 2**32 - 1) / 2**32), 0)
    y = jnp.einsum("bhts,bshd->bthd", p, v)
    return jnp.where(row_seen, y, 0) if hides else y


@attention.validate
def _(
    q,
    k,
    v,
    bias,
    mask,
    q_lengths,
    kv_lengths,
    q_start,
    sinks,
    key,
    *,
    causal,
    window,
    softcap,
    dropout_rate,
    scale,
    block,
    implementation,
):
    given = {"q": q, "k": k, "v": v, "bias": bias, "sinks": sinks}
    require_floating(**{name: a for name, a in given.items() if a is not None})
    for name, a, axes in (
        ("q", q, "(B, T, H, D)"),
        ("k", k, "(B, S, K, D)"),
        ("v", v, "(B, S, K, E)"),
    ):
        if a.ndim != 4 or 0 in a.shape[2:]:
            raise ValueError(f"{name} must be {axes}, got shape {a.shape}")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"v has shape {v.shape} and k {k.shape}; all axes but the last must be equal"
        )
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
            a.ndim > 4
            or any(n not in (1, m) for n, m in zip(a.shape, scores[4 - a.ndim :], strict=True))
        ):
            raise ValueError(
                f"{name} has shape {a.shape}; it must be (B, H, T, S) = {scores}, where any "
                "axis may be 1 and leading axes may be omitted"
            )
    if mask is not None and mask.dtype != bool:
        raise TypeError(
            f"mask must be boolean, got {describe(mask)}; to add it to the scores, pass it as bias"
        )
    require_lengths("q_lengths", q_lengths, q.shape[:1], q.shape[1])
    require_lengths("kv_lengths", kv_lengths, q.shape[:1], k.shape[1])
    if sinks is not None and sinks.shape != q.shape[2:3]:
        raise ValueError(
            f"sinks has shape {sinks.shape}; there must be one for each head of q, "
            f"shape {q.shape[2:3]}"
        )
    _require_order(q, q_start, causal, window)
    if softcap is not None:
        require_number("softcap", softcap, above=0)
    _require_dropout(key, dropout_rate)
    if scale is not None:
        require_number("scale", scale)
    if block is not None and (type(block) is not int or block < 1):
        raise ValueError(f"option block must be a positive integer or None, got {block!r}")
    if implementation not in (None, "tiles", "cudnn"):
        raise ValueError(
            f"option implementation must be None, 'tiles' or 'cudnn', got {implementation!r}"
        )
    if implementation == "cudnn":
        arguments = AttentionArguments(
            q, k, v, bias, mask, q_lengths, kv_lengths, q_start, sinks, key
        )
        options = AttentionOptions(causal, window, softcap, dropout_rate, scale, block)
        if why := _obstacle(arguments, options):
            raise ValueError(f"option implementation is 'cudnn', which cannot run here: {why}")


@attention.forward
def attention_fwd(
    q,
    k,
    v,
    bias=None,
    mask=None,
    q_lengths=None,
    kv_lengths=None,
    q_start=None,
    sinks=None,
    key=None,
    **options,
):
    """y = Σ e^(s − m)·v/Σ e^(s − m), the maximum m and the sums tile by tile."""
    arguments = AttentionArguments(q, k, v, bias, mask, q_lengths, kv_lengths, q_start, sinks, key)
    problem = _for_cudnn(arguments, options)
    if problem is None:
        parts = _forward(arguments, options)
    else:
        parts = cudnn.on_cuda(
            lambda *a: _forward_by_cudnn(*a, problem),
            lambda *a: _forward(AttentionArguments(*a), options),
            *(q, k, v),
        )
    return parts[0], AttentionResiduals(arguments, *parts)


def _forward(arguments, options):
    """The output, and for each row the maximum, the sum and the leading key."""
    q, k, v = arguments[:3]
    scores = _Scores(arguments, options)
    tiles, visible = scores.tiles, scores.visible
    queries, keys, values = tiles.pad_queries(q), tiles.pad_keys(k), tiles.pad_keys(v)
    if scores.seen is not None:
        spoiled = tiles.pad_keys(~jnp.isfinite(v).all(-1, keepdims=True))

    def step(carry, place):
        i, j = place
        largest, sums, weighted = (tiles.queries(a, i) for a in carry)
        kj, vj = tiles.keys(keys, j), tiles.keys(values, j)
        if scores.seen is not None:
            kj = jnp.where(tiles.keys(spoiled, j), jnp.nan, kj)
        s = scores(i, j, tiles.queries(queries, i), kj).s
        of_tile = jnp.max(s, -1, keepdims=True, initial=-jnp.inf)
        larger = lax.stop_gradient(jnp.maximum(largest, of_tile))
        e, shrink = jnp.exp(s - larger), jnp.exp(largest - larger)
        sums = shrink * sums + contract(e, scores.ones_and_places(j), [3], [0])
        weighted = shrink * weighted + _weighted(scores.dropped(e, i, j), visible(vj), 3)
        parts = larger, sums, weighted
        return tuple(tiles.set_queries(a, i, p) for a, p in zip(carry, parts, strict=True)), None

    # from −∞ as the first maximum, −∞ − (−∞) would be NaN
    lowest = _for_rows(queries, jnp.finfo(accumulator(q.dtype)).min)
    start = lowest, _for_rows(queries, 0, 2), _for_rows(queries, 0, v.shape[3])
    carry, _ = lax.scan(step, start, tiles.places)
    maximum, sums, weighted = map(tiles.crop_queries, carry)
    total, place = sums[..., :1], sums[..., 1:]
    if arguments.sinks is not None:
        keys_alone, sink = maximum, _of_heads(arguments.sinks)
        maximum = lax.stop_gradient(jnp.maximum(keys_alone, sink))
        shrink, nothing = jnp.exp(keys_alone - maximum), total == 0
        total = jnp.where(nothing, 0, shrink * total + jnp.exp(sink - maximum))
        weighted = shrink * weighted
    y = weighted * _inverse(total)
    leader = jnp.round(jnp.where(total == 1, place, 0)).astype(jnp.int32)
    return y, maximum, total, leader


@attention.backward
def attention_bwd(residuals, dy, **options):
    """dv = pᵀ·dy, ds = p ⊙ (dy·vᵀ − δ), dq = scale·ds·k, dk = scale·dsᵀ·q, dbias = ds."""
    problem = _for_cudnn(residuals.arguments, options)
    if problem is None:
        return _backward(residuals, dy, options)
    gradients = cudnn.on_cuda(
        lambda residuals, dy: _backward_by_cudnn(residuals, dy, problem),
        lambda residuals, dy: _backward(residuals, dy, options)[:3],
        *(residuals, dy),
    )
    return *gradients, *[None] * 7


def _backward(residuals, dy, options):
    """The gradient of each argument, tile by tile."""
    arguments, y, maximum, total, leader = residuals
    q, k, v, bias = arguments[:4]
    scores = _Scores(arguments, options)
    tiles, visible = scores.tiles, scores.visible
    by_key = [tiles.pad_keys(a) for a in (k, v)]
    delta = jnp.where(total == 0, 0, _row_products(dy, y))
    of_sink = scores.sink_probabilities(maximum, total)
    if scores.rows_are_whole:
        leading = of_sink * delta
    else:
        leading = _row_products(dy, scores.leading_value(by_key[1], leader) - y)
        leading = jnp.where(total == 1, leading, 0)
    of_rows = q, dy, maximum, _inverse(total), delta, leading
    by_query = [tiles.pad_queries(a) for a in of_rows]
    by_pair = None if bias is None else tiles.pad_pairs(_of_pairs(bias))

    def step(carry, place):
        i, j = place
        dq, dk, dv, dbias = carry
        qi, dyi, largest, inverse, delta, leading = (tiles.queries(a, i) for a in by_query)
        kj, vj = (tiles.keys(a, j) for a in by_key)
        dyi = jnp.where(inverse == 0, 0, dyi)
        s, slope, where_seen = scores(i, j, qi, kj)
        p = where_seen(jnp.exp(s - largest) * inverse)
        dp = scores.dropped(_products(dyi, vj), i, j)
        leads = p > 0.5 if scores.rows_are_whole else p == 1
        ds = where_seen(jnp.where(leads, 0, p * (dp - delta)))
        if scores.rows_are_whole:
            leading = leading - jnp.sum(ds, -1, keepdims=True)
        ds = jnp.where(leads, leading, ds)
        if bias is not None:
            dbias = tiles.add_pairs(dbias, i, j, tiles.by_head(ds))
        dz = ds if slope is None else where_seen(ds * slope)
        dq = tiles.add_queries(dq, i, _weighted(dz, visible(kj), 3))
        dk = tiles.add_keys(dk, j, _weighted(dz, visible(qi), 2))
        dv = tiles.add_keys(dv, j, _weighted(scores.dropped(p, i, j), dyi, 2))
        return (dq, dk, dv, dbias), None

    start = jax.tree.map(
        lambda a: jnp.zeros_like(a, accumulator(q.dtype)), (by_query[0], *by_key, by_pair)
    )
    (dq, dk, dv, dbias), _ = lax.scan(step, start, tiles.places)
    dq = scores.scale * tiles.crop_queries(dq)
    dk = scores.scale * tiles.crop_keys(dk)
    if bias is not None:
        dbias = tiles.crop_pairs(dbias).reshape(bias.shape)
    dsinks = None if arguments.sinks is None else -jnp.sum(of_sink * delta, (0, 1, 3))
    return dq, dk, tiles.crop_keys(dv), dbias, None, None, None, None, dsinks, None


@attention.tangent
def attention_tangent(residuals, tangents, **options):
    """ẏ = (p ⊙ ṡ)·v + p·v̇ − σ ⊙ y, the two products and σ = Σⱼ p ⊙ ṡ tile by tile."""
    arguments, y, maximum, total, _ = residuals
    q, k, v = arguments[:3]
    v_dot, sinks_dot = tangents[2], tangents[8]
    scores = _Scores(arguments, options, scores=TANGENT_TILE_SCORES, aspect=TANGENT_TILE_ASPECT)
    tiles, visible = scores.tiles, scores.visible
    score_tangents = _score_tangents(scores, arguments, tangents)
    by_query = [tiles.pad_queries(a) for a in (q, maximum)]
    by_key = [None if a is None else tiles.pad_keys(a) for a in (k, v, v_dot)]

    def step(carry, place):
        i, j = place
        weighted, sigma = (tiles.queries(a, i) for a in carry)
        qi, largest = (tiles.queries(a, i) for a in by_query)
        kj, vj, vj_dot = (None if a is None else tiles.keys(a, j) for a in by_key)
        s, slope, where_seen = scores(i, j, qi, kj)
        e = jnp.exp(s - largest)  # l·p: the sums are divided by l at the end
        if vj_dot is not None:
            vj_dot = scores.where_a_query_sees(vj_dot, i, j)
            weighted = weighted + _weighted(scores.dropped(e, i, j), vj_dot, 3)
        if score_tangents is not None:
            es = where_seen(e * score_tangents(i, j, slope))
            weighted = weighted + _weighted(scores.dropped(es, i, j), visible(vj), 3)
            sigma = sigma + jnp.sum(es, -1, keepdims=True)
        parts = weighted, sigma
        return tuple(tiles.set_queries(a, i, p) for a, p in zip(carry, parts, strict=True)), None

    start = _for_rows(by_query[0], 0, v.shape[3]), _for_rows(by_query[0], 0)
    carry, _ = lax.scan(step, start, tiles.places)
    weighted, sigma = map(tiles.crop_queries, carry)
    if sinks_dot is not None:
        of_sink = scores.sink_probabilities(maximum, total)
        sigma = sigma + total * of_sink * _of_heads(sinks_dot)
    return (weighted - sigma * at_least_float32(y)) * _inverse(total)


class _Tile(NamedTuple):
    """The scores of a tile, from its products of queries and keys.

    Attributes:
        s: the scores, −∞ where a key is not seen.
        slope: the slope of the softcap, or `None` without one.
        where_seen: a function that sets an array of this tile to 0 where a key is not seen.
    """

    s: Array
    slope: Array | None
    where_seen: Callable[[Array], Array]


class _Scores:
    """The tiles of a call, and the operations of the passes on one tile."""

    def __init__(self, arguments: AttentionArguments, options: dict, **size):
        q, k, _, bias, mask, q_lengths, kv_lengths, q_start, self.sinks, key = arguments
        self.options = AttentionOptions(**options)
        band = _band(self.options, q, k, q_start)
        self.tiles = tiles_of(q, k, band=band, block=self.options.block, **size)
        self.scale = _scale(q, self.options.scale)
        self.bias = None if bias is None else self.tiles.pad_pairs(_of_pairs(bias))
        mask = None if mask is None else _of_pairs(mask)
        self.seen = self._with_bias(self.tiles.seen(mask, q_lengths, kv_lengths))
        self.dtype = accumulator(q.dtype)
        if key is not None and self.options.dropout_rate:
            if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
                key = jax.random.wrap_key_data(key)
            heads = _folded(_folded(key, jnp.arange(q.shape[0])), jnp.arange(q.shape[2]))
            self.keys = _folded(heads, jnp.arange(self.tiles.padded_queries))

    def __call__(self, i, j, queries, keys) -> _Tile:
        """The scores of tile (i, j) from its queries and keys, grouped by key/value heads."""
        tiles, cap = self.tiles, self.options.softcap
        s, slope = self.scale * _products(queries, keys), None
        if cap is not None:
            s, slope = softcapped(s, cap), softcap_slope(s, cap)
        if self.seen is None:
            return _Tile(s, slope, lambda a: a)
        seen, s = self.seen(i, j), tiles.by_head(s)
        if self.bias is not None:
            s = s + at_least_float32(tiles.pairs(self.bias, i, j))
        s = tiles.by_group(jnp.where(seen, s, -jnp.inf))
        return _Tile(s, slope, lambda a: tiles.by_group(jnp.where(seen, tiles.by_head(a), 0)))

    def _with_bias(self, seen):
        """The mask of the pairs of a tile, without those whose bias is −∞."""
        if self.bias is None:
            return seen

        def of_tile(i, j):
            finite = self.tiles.pairs(self.bias, i, j) != -jnp.inf
            return finite if seen is None else finite & seen(i, j)

        return of_tile

    def visible(self, rows):
        """Rows to multiply by weights that are 0 where a row is not seen: 0 for NaN and infinity.

        0·NaN is NaN, so a row that is not seen must be finite. A row that is seen has already made
        its scores NaN.
        """
        return rows if self.seen is None else jnp.where(jnp.isfinite(rows), rows, 0)

    def where_a_query_sees(self, rows, i, j):
        """The rows of column j, with 0 where no query of tile (i, j) sees a key."""
        if self.seen is None:
            return rows
        tiles, seen = self.tiles, jnp.any(self.seen(i, j), 2)
        seen = jnp.broadcast_to(seen, (seen.shape[0], tiles.heads, tiles.columns))
        groups = tiles.kv_heads, tiles.heads // tiles.kv_heads
        seen = jnp.any(seen.reshape(seen.shape[0], *groups, tiles.columns), 2)
        return jnp.where(seen[..., None], rows, 0)

    def ones_and_places(self, j):
        """A 1 and the position of each key of column j, side by side: (columns, 2)."""
        places = self.tiles.key_places(j)
        return jnp.stack([jnp.ones_like(places), places], -1).astype(self.dtype)

    def dropped(self, weights, i, j):
        """The weights of tile (i, j) times the mask of dropout, over the fraction that it keeps."""
        if not self.options.dropout_rate:
            return weights
        tiles = self.tiles
        keys = lax.dynamic_slice_in_dim(self.keys, i * tiles.rows, tiles.rows, 2)
        drawn = _folded(keys, tiles.key_places(j))
        return _dropped(weights, tiles.by_group(_words(drawn)), self.options.dropout_rate)

    @property
    def rows_are_whole(self) -> bool:
        """Whether a tile holds all the keys, as far as it is known."""
        return not is_symbolic_dim(self.tiles.n_keys) and self.tiles.columns == self.tiles.n_keys

    def sink_probabilities(self, maximum, total):
        """The weight of the sink in each row, 0 without one."""
        if self.sinks is None:
            return 0
        return jnp.exp(_of_heads(self.sinks) - maximum) * _inverse(total)

    def leading_value(self, values, leader):
        """The value of the leading key of each query, times its mask, (batch, T, heads, E)."""
        batch, n_queries, heads, _ = leader.shape
        groups = batch, n_queries, self.tiles.kv_heads, heads // self.tiles.kv_heads, 1
        places = leader.reshape(groups)
        values = jnp.take_along_axis(values[:, :, :, None], places, 1, mode="clip")
        values = values.reshape(batch, n_queries, heads, values.shape[-1])
        if not self.options.dropout_rate:
            return values
        fold = jax.random.fold_in
        for _ in range(3):
            fold = jax.vmap(fold)
        drawn = fold(self.keys[:, :, :n_queries], leader[..., 0].transpose(0, 2, 1))
        words = _words(drawn).transpose(0, 2, 1)
        return _dropped(values, words[..., None], self.options.dropout_rate)


def _score_tangents(scores: _Scores, arguments, tangents) -> Callable | None:
    """ṡ = scale·(q̇·kᵀ + q·k̇ᵀ) + ḃias of tile (i, j); `None` if it is 0 everywhere."""
    tiles, (q, k), (q_dot, k_dot, _, bias_dot) = scores.tiles, arguments[:2], tangents[:4]
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
    bias_dot = None if bias_dot is None else tiles.pad_pairs(_of_pairs(bias_dot))

    def score_tangents(i, j, slope):
        s_dot = 0
        if factors:
            products = _products(tiles.queries(queries, i), tiles.keys(keys, j))
            s_dot = scores.scale * products
            if slope is not None:
                s_dot = slope * s_dot
            s_dot = tiles.by_head(s_dot)
        if bias_dot is not None:
            s_dot = s_dot + at_least_float32(tiles.pairs(bias_dot, i, j))
        shape = q.shape[0], tiles.heads, tiles.rows, tiles.columns
        return tiles.by_group(jnp.broadcast_to(s_dot, shape))

    return score_tangents


def _obstacle(arguments: AttentionArguments, options: AttentionOptions) -> str | None:
    """The reason why cuDNN cannot compute this, or `None` if it can."""
    q, k, v, *others = arguments
    for name, a in zip(arguments._fields[3:-1], others[:-1], strict=True):
        if a is not None:
            return f"jaxnn passes it no {name}"
    before, after = _sides(options.window)
    if options.softcap is not None or options.dropout_rate:
        return "jaxnn passes it neither softcap nor dropout_rate"
    if options.causal == "lower_right" and q.shape[1] != k.shape[1]:
        return "it aligns the first query with the first key, but q and k have different lengths"
    if options.window is not None and (
        q.shape[1] != k.shape[1] or before is None or not (options.causal or after == 0)
    ):
        return "it takes only causal windows over as many keys as queries"
    return cudnn.obstacle(q, k, v, _problem(q, options))


def _problem(q, options: AttentionOptions) -> cudnn.Problem:
    before, after = _sides(options.window)
    causal = bool(options.causal) or after == 0
    return cudnn.Problem(_scale(q, options.scale), causal, before)


def _for_cudnn(arguments: AttentionArguments, options: dict) -> cudnn.Problem | None:
    """The call in cuDNN's terms, or `None` if attention loops over tiles."""
    chosen = AttentionOptions(**options)
    if chosen.implementation == "tiles":
        return None
    if chosen.implementation is None:
        on_a_mesh = not jax.typeof(arguments.q).sharding.mesh.empty
        if chosen.block is not None or on_a_mesh or _obstacle(arguments, chosen):
            return None
    return _problem(arguments.q, chosen)


def _forward_by_cudnn(q, k, v, problem: cudnn.Problem):
    """The results of `_forward`, with m = log Σ e^s − 1 and l = e, so that no l is 1."""
    y, log_total = cudnn.forward(q, k, v, problem)
    total, leader = jnp.full_like(log_total, jnp.e), jnp.zeros_like(log_total, jnp.int32)
    return at_least_float32(y), log_total - 1, total, leader


def _backward_by_cudnn(residuals: AttentionResiduals, dy, problem: cudnn.Problem):
    """The gradients of q, k and v, in float32 like those of the tiles."""
    q, k, v = residuals.arguments[:3]
    y, dy = residuals.y.astype(q.dtype), dy.astype(q.dtype)
    log_total = residuals.maximum + jnp.log(residuals.total)
    return tuple(map(at_least_float32, cudnn.backward(q, k, v, y, log_total, dy, problem)))


def _band(options: AttentionOptions, q, k, q_start) -> Band:
    """The keys that a query sees, given its position and the options causal and window."""
    before, after = _sides(options.window)
    if options.causal:
        after = 0
    if options.causal == "lower_right":
        return Band(before, after, k.shape[1] - q.shape[1])
    return Band(before, after, 0 if q_start is None else clamped(q_start, LARGEST_POSITION))


def _sides(window) -> tuple:
    """The window before and after a query, each a number or `None` for no bound."""
    return window if isinstance(window, tuple) else (window, window)


def _require_order(q, q_start, causal, window) -> None:
    """Raise unless causal, window and q_start are valid and fit together."""
    if not isinstance(causal, bool) and causal != "lower_right":
        raise TypeError(f"option causal must be True, False or 'lower_right', got {causal!r}")
    sides = _sides(window)
    if len(sides) != 2 or not all(n is None or (type(n) is int and n >= 0) for n in sides):
        raise ValueError(
            "option window must be an integer that is not negative, or a pair (before, after) of "
            f"such integers or None, got {window!r}"
        )
    if q_start is None:
        return
    require_integers("q_start", q_start)
    if q_start.shape not in ((), q.shape[:1]):
        raise ValueError(
            f"q_start has shape {q_start.shape}; it must be a single number or one for each "
            f"example, shape {q.shape[:1]}"
        )
    if causal == "lower_right":
        raise ValueError(
            "q_start and causal='lower_right' both set the position of the first query; "
            "use causal=True with q_start"
        )


def _require_dropout(key, rate) -> None:
    """Raise unless the rate is valid, and there is a key if it is above 0."""
    require_number("dropout_rate", rate, at_least=0)
    if not rate < 1:
        raise ValueError(f"option dropout_rate must be below 1, got {rate!r}")
    if key is None:
        if rate:
            raise ValueError(f"option dropout_rate is {rate}, which needs the argument key")
        return
    require_one_key(key)


def _of_pairs(a):
    """A bias or a mask with all four axes, (B, H, T, S)."""
    return jnp.expand_dims(a, range(4 - a.ndim))


def _of_heads(sinks):
    """The sinks with the axes of the statistics of the rows, (1, 1, H, 1)."""
    return at_least_float32(sinks)[None, None, :, None]


def _folded(keys, numbers):
    """Each number folded into each key, (…) and (n,) to (…, n)."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    for _ in range(keys.ndim):
        fold = jax.vmap(fold, (0, None))
    return fold(keys, numbers)


def _words(keys):
    """32 random bits of each key."""
    return jax.random.key_data(keys)[..., -1]


def _dropped(values, words, rate):
    """The values times 0 where the words are below the rate, over the fraction that is kept."""
    limit = min(round(rate * 2**32), 2**32 - 1)
    return jnp.where(words < jnp.uint32(limit), 0, values) * (2**32 / (2**32 - limit))


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


def _for_rows(queries, value, width=1):
    """A value repeated for each query of each head, with which a loop starts."""
    shape = (*queries.shape[:3], width)
    return jnp.full_like(queries, value, accumulator(queries.dtype), shape=shape)


def _inverse(total):
    """1/l, or 0 in a row that sees nothing."""
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _scale(q, scale) -> float:
    return q.shape[3] ** -0.5 if scale is None else scale
