"""The linear layer."""

from collections.abc import Callable

import jax

from jaxnn.layer import Layer, op_layer
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.ops.linear import linear


def Linear(
    n_in: int,
    n_out: int,
    *,
    w_init: Callable = lecun_normal,
    b_init: Callable = jax.nn.initializers.zeros,
    use_bias: bool = True,
) -> Layer:
    """Layer y = x·W + b with params {"w": (n_in, n_out), "b": (n_out,)}; see `linear`.

    Args:
        n_in: the number of inputs I.
        n_out: the number of outputs O.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: without it params has no "b".

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.Linear(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (3,), 'w': (4, 3)}
    """
    for name, size in (("n_in", n_in), ("n_out", n_out)):
        if type(size) is not int or size < 1:
            raise ValueError(f"Linear: {name} must be a positive integer, got {size!r}")

    def init(key):
        w_key, b_key = jax.random.split(key)
        params = {"w": w_init(w_key, (n_in, n_out))}
        if use_bias:
            params["b"] = b_init(b_key, (n_out,))
        return params

    return op_layer(linear, init)
