"""The dropout layer."""

from jaxnn.layer import Layer, OpLayer
from jaxnn.ops.activations.smooth import identity
from jaxnn.ops.dropout import dropout, require_rate


def Dropout(rate: float) -> Layer:
    """Layer without params that leaves out a share of its input in training; see `dropout`.

    Inference (`apply`) is the identity. The training form needs a key.

    Args:
        rate: the share p, 0 ≤ p < 1.

    Raises:
        TypeError: rate is not a number.
        ValueError: rate is out of range; or, later, `fwd` gets no key.

    Example:
        >>> layer = jaxnn.Dropout(0.5)
        >>> print(layer.apply((), jnp.ones(3)))
        [1. 1. 1.]
        >>> y, residuals = layer.fwd((), jnp.ones(3), jax.random.key(4))
        >>> print(y)
        [2. 0. 2.]
    """
    op = dropout.bind(rate=rate)
    require_rate("Dropout", op.options["rate"])

    def fwd(params, x, key=None):
        if key is None:
            raise ValueError(
                "Dropout: training needs a key for the random mask; pass key= to fwd, or to the "
                "function that trains the network"
            )
        return op.fwd(x, key)

    def bwd(residuals, dy):
        dx, _ = op.bwd(residuals, dy)
        return (), dx

    made = OpLayer(lambda key: (), lambda params, x: identity(x), fwd, bwd)
    made.op = op
    return made
