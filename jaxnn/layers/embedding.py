"""The embedding layer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.layers.initialisation import small_normal
from jaxnn.ops.embedding import embedding, require_padding_idx


@dataclass(frozen=True, repr=False)
class Embedding(ParametricOpLayer):
    """Layer y = w[ids] with params {"w": (n, dim)}; see `embedding`.

    Its input is integers, which have no gradient: its `bwd` gives `None` for it.

    Args:
        n: the number of rows V: ids are 0 … n − 1.
        dim: the number of components D of each row.
        padding_idx: a row that starts at 0 and has no gradient, such as that of a padding token.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`; by default that of GPT-2.

    Raises:
        ValueError: a size is not a positive integer, or there is no row padding_idx.

    Example:
        >>> layer = jaxnn.Embedding(100, 16)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.array([[3, 1, 4], [1, 5, 9]])).shape
        (2, 3, 16)
    """

    n: int
    dim: int
    padding_idx: int | None = field(default=None, kw_only=True)
    w_init: Callable = field(default=small_normal, kw_only=True)

    position_wise = True

    def __post_init__(self):
        require_sizes("Embedding", n=self.n, dim=self.dim)
        try:
            require_padding_idx(self.padding_idx, self.n)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Embedding: {error}") from None

    @cached_property
    def op(self):
        """`embedding` with the layer's padding."""
        return embedding.bind(padding_idx=self.padding_idx)

    def init(self, key):
        """The table by `w_init`, with zeros for the padding."""
        w = self.w_init(key, (self.n, self.dim))
        return {"w": w if self.padding_idx is None else w.at[self.padding_idx].set(0)}
