"""Initial weights that are quick to compile."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

_STD_OF_CUT = 0.87962566103423978  # of standard normal numbers between −2 and 2
SHORTEST_ROW = 2**13


def lecun_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike = float
) -> Float[Array, "..."]:
    """Normal numbers of variance 1/I, for I inputs of each unit, truncated at two deviations.

    The numbers of `jax.nn.initializers.lecun_normal()`, bit for bit. They are drawn as one long
    row: for rows of a few numbers, such as the weights into ten classes, the compiler unrolls the
    generator and takes several times as long.

    Args:
        key: the key of the random numbers.
        shape: (…, I, O), with a factor of I in each axis before the last.
        dtype: the dtype of the numbers; by default JAX's.

    Reference: Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient BackProp", 1998,
    section 4.6.
    """
    return _scaled(_standard_numbers(key, math.prod(shape), dtype), shape)


def orthogonal(key, shape, dtype=float):
    """A random orthogonal matrix; `jax.nn.initializers.orthogonal()`, as a function with a name."""
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def small_normal(key, shape, dtype=float):
    """Normal numbers of standard deviation 0.02, as GPT-2 initialises its embeddings."""
    return jax.nn.initializers.normal(0.02)(key, shape, dtype)


def _standard_numbers(key, n, dtype):
    """At least n standard normal numbers, truncated at two deviations.

    The compiler takes a tenth of a second for the generator, so all small arrays share one program:
    with this generator the first n of a longer draw are the draw of exactly n.
    """
    threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    if threefry and jax.config.jax_threefry_partitionable:
        n = max(n, SHORTEST_ROW)
    return _row(key, n, dtype)


@partial(jax.jit, static_argnames=("n", "dtype"))
def _row(key, n, dtype):
    return jax.random.truncated_normal(key, -2, 2, (n,), dtype)


@partial(jax.jit, static_argnames="shape")
def _scaled(numbers, shape):
    variance = jnp.array(1 / math.prod(shape[:-1]), numbers.dtype)
    std = jnp.sqrt(variance) / jnp.array(_STD_OF_CUT, numbers.dtype)
    return (numbers[: math.prod(shape)] * std).reshape(shape)
