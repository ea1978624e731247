"""Attention and rotary positions in the catalogue."""

import jax
import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.attention import attention
from jaxnn.ops.rotary import rotary

B, T, S, H, K, D = 4, 7, 8, 6, 3, 5
Q_LENGTHS, KV_LENGTHS = [7, 5, 0, 3], [8, 3, 5, 0]


def _absent(key, dtype):
    """An argument that is left out."""


def _qkv(scale=1.0):
    return normal(B, T, H, D, scale=scale), normal(B, S, K, D), normal(B, S, K, D, scale=scale)


def _bias(*shape, offset=0.0):
    draw = normal(*shape)
    return lambda key, dtype: (draw(key, jnp.float32) + offset).astype(dtype)


def _mask(key, dtype):
    """Pairs of both kinds, and a query that sees nothing."""
    return jax.random.bernoulli(key, 0.7, (B, H, T, S)).at[:, :, 3].set(False)


ENTRIES = (
    Entry(
        attention,
        cases=(
            case(
                "causal with bias",
                *_qkv(),
                _bias(B, H, T, S),
                _absent,
                _absent,
                _absent,
                causal=True,
                scale=0.3,
                block=3,
            ),
            case(
                "mask and lengths",
                *_qkv(),
                _absent,
                _mask,
                constant(Q_LENGTHS),
                constant(KV_LENGTHS),
                block=3,
            ),
        ),
        hard=(
            case(
                "saturated, shifted by 1e4",
                *_qkv(scale=100.0),
                _bias(1, H, 1, S, offset=1e4),
                _absent,
                _absent,
                _absent,
                block=3,
            ),
            case(
                "zeros, −∞",
                *_qkv(scale=0.0),
                constant([[[[-jnp.inf] * S, *[[0.0, -jnp.inf] * (S // 2)] * (T - 1)]]]),
                _absent,
                _absent,
                _absent,
                causal=True,
                block=3,
            ),
            case(
                "one of each",
                *[normal(1, 1, 1, 1)] * 4,
                _absent,
                _absent,
                _absent,
                causal=True,
            ),
            case(
                "no keys",
                normal(B, T, H, D),
                *[normal(B, 0, K, D)] * 2,
                *[_absent] * 4,
            ),
        ),
        benchmark=case(
            "causal (2, 1024, 8, 64)",
            *[normal(2, 1024, 8, 64)] * 3,
            *[_absent] * 4,
            causal=True,
        ),
    ),
    Entry(
        rotary,
        cases=(
            case("plain", normal(5, 7, 3, 6), _absent),
            case("positions", normal(5, 7, 3, 6), constant([9, 0, 1, 1, 500, -3, 2]), base=100.0),
        ),
        hard=(
            case("far", normal(3, 4, 1, 4, scale=1e4), constant([[0, 10**6, 7, 1]] * 3)),
            case("empty batch", normal(0, 7, 3, 4), _absent),
        ),
        benchmark=case("(8, 1024, 8, 64)", normal(8, 1024, 8, 64), _absent),
    ),
)
