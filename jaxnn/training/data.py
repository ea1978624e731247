"""Training data: its checks, its order and its minibatches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.ops._common.validation import describe

Data = tuple[Any, Any] | tuple[Any, Any, Any]


def as_data(name: str, data: Data) -> tuple:
    """The arrays of a data set, `(x, target, weights)`; weights may be `None`."""
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(f"{name} must be a pair (x, target), or (x, target, weights)")
    x, target, *weights = jax.tree.map(jnp.asarray, tuple(data))
    return x, target, weights[0] if weights else None


def count(tree) -> int:
    """The number of examples in a tree of arrays."""
    return jax.tree.leaves(tree)[0].shape[0]


def require_examples(x, target, weights=None) -> int:
    """The number of examples, of which there is at least one, the same in all arrays."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((x, target, weights))}
    if len(sizes) != 1 or () in sizes:
        given = {"x": x, "target": target} | ({} if weights is None else {"weights": weights})
        listed = " and ".join(f"{name} is {_described(tree)}" for name, tree in given.items())
        raise ValueError(f"{listed}: their first axes must be the same number of examples")
    if sizes == {(0,)}:
        raise ValueError(f"there are no examples: x is {_described(x)}")
    return count(x)


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


def take(tree, rows):
    """Rows of arrays, each at most once and none out of range."""
    return jax.tree.map(
        lambda array: array.at[rows].get(mode="promise_in_bounds", unique_indices=True), tree
    )


def _described(tree) -> str:
    leaves = [describe(leaf) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else f"({', '.join(leaves)})"
