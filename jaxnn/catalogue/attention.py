"""Attention and rotary positions in the catalogue."""

import jax
import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, mask, normal, omitted
from jaxnn.ops.attention import attention
from jaxnn.ops.rotary import rotary_embedding

B, T, S, H, K, D, E = 4, 7, 8, 6, 3, 5, 10
Q_LENGTHS, KV_LENGTHS = [7, 5, 0, 3], [8, 3, 5, 0]


def _qkv(scale=1.0):
    return normal(B, T, H, D, scale=scale), normal(B, S, K, D), normal(B, S, K, D, scale=scale)


def _wide_values():
    """Queries and keys with values of another width."""
    return normal(B, T, H, D), normal(B, S, K, D), normal(B, S, K, E)


def _key(random, dtype):
    """A PRNG key."""
    return jax.random.key(int(random.integers(2**31)))


def _mask(random, dtype):
    """Pairs of both kinds, and a query that sees nothing."""
    return jnp.asarray(random.random((B, H, T, S)) < 0.7).at[:, :, 3].set(False)


ENTRIES = (
    Entry(
        attention,
        cases=(
            case(
                "causal with bias",
                *_qkv(),
                normal(B, H, T, S),
                *[omitted] * 6,
                causal=True,
                scale=0.3,
                block=3,
            ),
            case(
                "mask and lengths",
                *_qkv(),
                omitted,
                _mask,
                constant(Q_LENGTHS),
                constant(KV_LENGTHS),
                *[omitted] * 3,
                block=3,
            ),
            case(
                "window from a start, mask of two axes, softcap, sinks, dropout",
                *_wide_values(),
                normal(H, T, S),
                mask(T, S),
                omitted,
                constant(KV_LENGTHS),
                constant([1, 0, 4, -2]),
                normal(H),
                _key,
                window=(3, 1),
                softcap=0.7,
                dropout_rate=0.3,
                block=3,
            ),
        ),
        hard=(
            case(
                "saturated, shifted by 1e4",
                *_qkv(scale=100.0),
                normal(1, H, 1, S, offset=1e4),
                *[omitted] * 6,
                block=3,
            ),
            case(
                "zeros, −∞",
                *_qkv(scale=0.0),
                constant([[[[-jnp.inf] * S, *[[0.0, -jnp.inf] * (S // 2)] * (T - 1)]]]),
                *[omitted] * 6,
                causal=True,
                block=3,
            ),
            case(
                "one of each",
                *[normal(1, 1, 1, 1)] * 4,
                *[omitted] * 6,
                causal=True,
            ),
            case(
                "all keys in one tile, sinks that take all or nothing, a softcap that is 0",
                *_qkv(scale=100.0),
                normal(T, S, scale=30.0),
                *[omitted] * 4,
                constant([0.0, 1e4, -1e4, 50.0, -jnp.inf, -50.0]),
                omitted,
                causal="lower_right",
                window=(5, None),
                softcap=1e-50,
            ),
            case(
                "no keys",
                normal(B, T, H, D),
                *[normal(B, 0, K, D)] * 2,
                *[omitted] * 7,
            ),
        ),
        benchmark=case(
            "causal (2, 1024, 8, 64)",
            *[normal(2, 1024, 8, 64)] * 3,
            *[omitted] * 7,
            causal=True,
        ),
        saves=16_973_824,
    ),
    Entry(
        rotary_embedding,
        cases=(
            case("plain", normal(5, 7, 3, 6), omitted),
            case("positions", normal(5, 7, 3, 6), constant([9, 0, 1, 1, 500, -3, 2]), base=100.0),
            case(
                "fractional positions, neighbours, heads first, partly",
                normal(5, 3, 7, 10),
                normal(5, 7, scale=10.0),
                interleaved=True,
                rotated=6,
                scaling=(8.0, 1.0, 4.0, 20),
                time_axis=2,
            ),
            case(
                "shared fractional positions, halves, partly",
                normal(5, 7, 3, 10),
                normal(7, scale=10.0),
                rotated=4,
                scaling=2.5,
            ),
        ),
        hard=(
            case("far", normal(3, 4, 1, 4, scale=1e4), constant([[0, 10**6, 7, 1]] * 3)),
            case("empty batch", normal(0, 7, 3, 4), omitted),
            case("nothing turned", normal(3, 4, 1, 5), normal(4), rotated=0),
        ),
        benchmark=case("(8, 1024, 8, 64)", normal(8, 1024, 8, 64), omitted),
        saves=0,
    ),
)
