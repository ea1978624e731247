"""Precision of what is summed: never less than float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def accumulator(dtype) -> jnp.dtype:
    """The dtype to sum in: float32 for float16 and bfloat16, else the dtype itself."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in the dtype to sum in."""
    return x.astype(accumulator(x.dtype))
