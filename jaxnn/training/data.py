"""Training data: its checks, its order and its minibatches."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.ops._common.validation import describe

Data = tuple[ArrayLike, ArrayLike]


def as_pair(name: str, data: Data) -> tuple[jax.Array, jax.Array]:
    """The two arrays of a data set."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (x, target)")
    return jnp.asarray(data[0]), jnp.asarray(data[1])


def require_examples(x, target) -> int:
    """The number of examples, of which there is at least one and as many targets."""
    if x.ndim == 0 or target.ndim == 0 or x.shape[0] != target.shape[0]:
        raise ValueError(
            f"x is {describe(x)} and target is {describe(target)}: their first axes must be the "
            "same number of examples"
        )
    if x.shape[0] == 0:
        raise ValueError(f"there are no examples: x is {describe(x)}")
    return x.shape[0]


def require_batch_size(batch_size: int, n: int | None = None) -> None:
    """A minibatch holds between one and all n of the examples."""
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    if n is not None and batch_size > n:
        raise ValueError(f"batch_size is {batch_size} but there are only {n} examples")


def shuffled(key, n):
    """A random order of n examples, and the key of each step."""
    order_key, steps_key = jax.random.split(key)
    return jax.random.permutation(order_key, n), partial(jax.random.fold_in, steps_key)


def take(array, rows):
    """Rows of an array, each at most once and none out of range."""
    return array.at[rows].get(mode="promise_in_bounds", unique_indices=True)
