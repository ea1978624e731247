"""The embedding layer."""

from collections.abc import Callable

import jax

from jaxnn.layer import Layer, op_layer
from jaxnn.ops.embedding import embedding


def Embedding(
    n: int,
    dim: int,
    *,
    w_init: Callable = jax.nn.initializers.normal(0.02),  # noqa: B008
) -> Layer:
    """Layer y = w[ids] with params {"w": (n, dim)}; see `embedding`.

    Its input is integers, which have no gradient: its `bwd` gives `None` for it.

    Args:
        n: the number of rows V: ids are 0 … n − 1.
        dim: the numbers D in each row.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`; by default that of GPT-2.

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.Embedding(100, 16)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.array([[3, 1, 4], [1, 5, 9]])).shape
        (2, 3, 16)
    """
    for name, size in (("n", n), ("dim", dim)):
        if type(size) is not int or size < 1:
            raise ValueError(f"Embedding: {name} must be a positive integer, got {size!r}")
    return op_layer(embedding, lambda key: {"w": w_init(key, (n, dim))})
