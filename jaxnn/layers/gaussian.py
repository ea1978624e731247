"""The layer that draws the latent of a variational autoencoder."""

from dataclasses import dataclass

from jaxnn.layer import Layer
from jaxnn.ops._common.validation import require_alike
from jaxnn.ops.gaussian import gaussian_sample


@dataclass(frozen=True, repr=False)
class GaussianSample(Layer):
    """Layer from (mean, log_variance) to a sample in training; see `gaussian_sample`.

    Inference (`apply`) gives the mean. The training form needs a key.

    Raises:
        ValueError: x is not a pair, or `fwd` gets no key.

    Example:
        >>> layer = jaxnn.GaussianSample()
        >>> print(layer.apply((), (jnp.array([5.0]), jnp.array([0.0]))))
        [5.]
        >>> y, residuals = layer.fwd((), (jnp.zeros(3), jnp.zeros(3)), jax.random.key(0))
        >>> y.shape
        (3,)
    """

    def apply(self, params, x, state=None):
        """The mean."""
        mean, _ = _pair(x)
        return mean

    def fwd(self, params, x, key=None):
        """`gaussian_sample(mean, log_variance, key)`."""
        if key is None:
            raise ValueError(
                "GaussianSample: training needs a key for the sample; pass key= to fwd, or to the "
                "function that trains the network"
            )
        return gaussian_sample.fwd(*_pair(x), key)

    def bwd_input(self, residuals, dy):
        """The gradients of the mean and of the log-variance."""
        dmean, dlog_variance, _ = gaussian_sample.bwd(residuals, dy)
        return (), (dmean, dlog_variance)


def _pair(x) -> tuple:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError("GaussianSample: x must be the pair (mean, log_variance)")
    try:
        require_alike(mean=x[0], log_variance=x[1])
    except (TypeError, ValueError) as error:
        raise type(error)(f"GaussianSample: {error}") from None
    return tuple(x)
