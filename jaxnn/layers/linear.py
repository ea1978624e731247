"""The linear layer."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.ops.linear import linear


@dataclass(frozen=True, repr=False)
class Linear(ParametricOpLayer):
    """Layer y = x·W + b with params {"w": (n_in, n_out), "b": (n_out,)}; see `linear`.

    Args:
        n_in: the number of inputs I.
        n_out: the number of outputs O.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: whether params has a "b".

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.Linear(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (3,), 'w': (4, 3)}
    """

    n_in: int
    n_out: int
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    op = linear
    position_wise = True

    def __post_init__(self):
        require_sizes("Linear", n_in=self.n_in, n_out=self.n_out)

    def init(self, key):
        """W by `w_init` and b by `b_init`."""
        w_key, b_key = jax.random.split(key)
        params = {"w": self.w_init(w_key, (self.n_in, self.n_out))}
        if self.use_bias:
            params["b"] = self.b_init(b_key, (self.n_out,))
        return params
