"""A smooth bound on logits, a·tanh(x/a), and its slope."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.ops._common.numerics import representable

SATURATED = 400.0  # beyond it tanh is ±1 and its slope 0, in float64 too


def softcapped(x: Float[Array, "*shape"], a: float) -> Float[Array, "*shape"]:
    """a·tanh(x/a)."""
    a = representable(a, x.dtype)
    return a * jnp.tanh(_ratio(x, a))


def softcap_slope(x: Float[Array, "*shape"], a: float) -> Float[Array, "*shape"]:
    """1 − tanh²(x/a) = 4·e/(1 + e)² with e = e^(−2·|x/a|), exact where tanh is near 1."""
    a = representable(a, x.dtype)
    e = jnp.exp(-2 * jnp.abs(_ratio(x, a)))
    return 4 * e / ((1 + e) * (1 + e))


def _ratio(x, a):
    """x/a, which does not overflow where a is tiny."""
    bound = representable(SATURATED * a, x.dtype)
    return jnp.clip(x, -bound, bound) / a
