"""Training data: its checks, its order and its minibatches."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_array, as_numpy, is_readable, leaves, require_real
from jaxnn.ops._common.validation import describe
from jaxnn.padded import zero_padding
from jaxnn.training.placement import placements, take

Arrays = tuple[Any, Any] | tuple[Any, Any, Any]
Data = Arrays | Iterable[Arrays]


def is_stream(name: str, data: Data) -> bool:
    """Whether data is an iterable of minibatches rather than the arrays of all examples.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(data, tuple) or hasattr(data, "shape"):
        return False
    if isinstance(data, list) and data and not isinstance(data[0], tuple | list):
        return False
    if isinstance(data, str | bytes | dict) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"{name} must be (x, target), (x, target, weights) or an iterable of such minibatches, "
            f"got a {type(data).__name__}"
        )
    return True


def as_examples(name: str, data: Data | list) -> tuple:
    """The arrays of a data set, `(x, target, weights)`; weights may be `None`.

    JAX arrays and memory maps are unchanged; all others become NumPy arrays.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(
            f"{name} must be a pair (x, target), or (x, target, weights), got {_kind_of(data)}"
        )
    for part, tree in zip(("x", "target"), data, strict=False):
        if not leaves(f"{part} of {name}", tree):
            raise TypeError(f"{part} of {name} must be an array or a tree of arrays, got {tree}")
    x, target, *weights = (
        jax.tree.map(partial(_as_examples, f"{part} of {name}"), tree)
        for part, tree in zip(("x", "target", "weights"), data, strict=False)
    )
    return x, target, weights[0] if weights else None


def on_device(name: str, data: Data | list) -> tuple:
    """The same as JAX arrays."""
    return jax.tree.map(partial(as_array, name), as_examples(name, data))


def count(tree) -> int:
    """The number of examples in a tree of arrays."""
    return jax.tree.leaves(tree)[0].shape[0]


def require_examples(x, target, weights=None) -> int:
    """The number of examples, which must be at least one and the same in all arrays."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((x, target, weights))}
    if len(sizes) != 1 or () in sizes or not jax.tree.leaves(x):
        given = {"x": x, "target": target} | ({} if weights is None else {"weights": weights})
        listed = " and ".join(f"{name} is {_described(tree)}" for name, tree in given.items())
        raise ValueError(f"{listed}: their first axes must be the same number of examples")
    if sizes == {(0,)}:
        raise ValueError(f"there are no examples: x is {_described(x)}")
    return count(x)


def require_finite(name: str, x, target, weights) -> None:
    """Raise if any number that the process can read is NaN or infinite."""
    for part, tree in (("x", x), ("target", target), ("weights", weights)):
        for array in filter(is_readable, jax.tree.leaves(zero_padding(tree))):
            if jnp.issubdtype(array.dtype, jnp.floating) and not _all_finite(array):
                first = np.argwhere(~np.isfinite(np.asarray(array)))[0].tolist()
                raise ValueError(f"{part} of {name} holds {array[tuple(first)]} at index {first}")


def require_batch_size(batch_size: int, n: int | None = None) -> None:
    """Raise unless a minibatch holds between one and all n of the examples."""
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    if n is not None and batch_size > n:
        raise ValueError(f"batch_size is {batch_size} but there are only {n} examples")


@partial(jax.jit, static_argnums=1)
def shuffled(key, n):
    """A random order of n examples, and the key from which that of each step is folded."""
    order_key, steps_key = jax.random.split(key)
    return jax.random.permutation(order_key, n), steps_key


def batches(name: str, data: Data, batch_size: int) -> Iterator[tuple]:
    """Minibatches `(x, target, weights)` in the order of the data, to measure a network on."""
    if is_stream(name, data):
        some = False
        for minibatch in data:
            some = True
            batch = on_device(f"a minibatch of {name}", minibatch)
            require_examples(*batch)
            yield batch
        if not some:
            raise ValueError(f"{name} yielded no minibatch; a generator yields them only once")
        return
    examples = as_examples(name, data)
    n = require_examples(*examples)
    placed = placements(examples)
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        if any(placed):
            yield take(examples, jnp.arange(start, stop), placed)
        else:
            part = jax.tree.map(lambda array, rows=slice(start, stop): array[rows], examples)
            yield jax.tree.map(partial(as_array, name), part)


def validation_split(data: Arrays | list, fraction: float, seed: int = 0) -> tuple[tuple, tuple]:
    """Hold out a random part of the examples, such as for validation.

    Args:
        data: `(x, target)` or `(x, target, weights)`; each may be a tree of arrays.
        fraction: the fraction of the examples to hold out, between 0 and 1; at least one is held
            out, and at least one is kept.
        seed: the seed of the choice.

    Returns:
        The examples that are kept and those held out, both in their original order and with as many
        parts as data has.

    Raises:
        TypeError: data is not such a tuple of arrays.
        ValueError: fraction is not between 0 and 1, or there are fewer than two examples.

    Example:
        >>> x = jnp.arange(10.0)[:, None]
        >>> (x_kept, _), (x_held_out, _) = jaxnn.validation_split((x, x**2), 0.2)
        >>> x_kept.shape, x_held_out.shape
        ((8, 1), (2, 1))
    """
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        raise ValueError(
            f"validation_split: fraction must be a number between 0 and 1, got {fraction!r}"
        )
    examples = as_examples("data", data)
    n = require_examples(*examples)
    if n < 2:
        raise ValueError("validation_split: there must be at least two examples, got one")
    held_out = min(max(1, round(fraction * n)), n - 1)
    order = np.random.default_rng(seed).permutation(n)
    parts = np.sort(order[held_out:]), np.sort(order[:held_out])
    kept, others = (
        jax.tree.map(lambda array, rows=rows: array[rows], examples[: len(data)]) for rows in parts
    )
    return kept, others


def _as_examples(name, leaf):
    if isinstance(leaf, np.memmap):  # not read as a whole: minibatches are checked as they come
        as_numpy(name, leaf[:1])
    elif not isinstance(leaf, jax.Array):
        leaf = as_numpy(name, leaf)
    require_real(name, leaf)
    return leaf


@jax.jit
def _all_finite(array):
    return jnp.isfinite(array).all()


def _kind_of(data) -> str:
    kind = f"a {type(data).__name__}"
    return f"{kind} of length {len(data)}" if isinstance(data, tuple | list) else kind


def _described(tree) -> str:
    leaves = [describe(leaf) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else f"({', '.join(leaves)})"
