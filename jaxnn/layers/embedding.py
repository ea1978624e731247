"""The embedding layer."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.layers.initialisation import small_normal
from jaxnn.ops.embedding import embedding


@dataclass(frozen=True, repr=False)
class Embedding(ParametricOpLayer):
    """Layer y = w[ids] with params {"w": (n, dim)}; see `embedding`.

    Its input is integers, which have no gradient: its `bwd` gives `None` for it.

    Args:
        n: the number of rows V: ids are 0 … n − 1.
        dim: the number of components D of each row.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`; by default that of GPT-2.

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.Embedding(100, 16)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.array([[3, 1, 4], [1, 5, 9]])).shape
        (2, 3, 16)
    """

    n: int
    dim: int
    w_init: Callable = field(default=small_normal, kw_only=True)

    op = embedding

    def __post_init__(self):
        require_sizes("Embedding", n=self.n, dim=self.dim)

    def init(self, key):
        """The table by `w_init`."""
        return {"w": self.w_init(key, (self.n, self.dim))}
