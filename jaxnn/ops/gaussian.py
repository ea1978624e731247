"""The Gaussian of a variational autoencoder: a sample of it, and its divergence from N(0, 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.validation import (
    require_alike,
    require_equal_shapes,
    require_floating,
    require_one_key,
)

Latent = Float[Array, "*shape"]
Components = Float[Array, "*N K"]


class SampleResiduals(NamedTuple):
    """The difference of the sample and the mean."""

    deviation: Latent


class GaussianResiduals(NamedTuple):
    """Both arguments."""

    mean: Components
    log_variance: Components


@op
def gaussian_sample(mean: Latent, log_variance: Latent, key: PRNGKeyArray) -> Latent:
    """A sample of N(mean, e^log_variance), y = μ + e^(v/2)·ε with ε from N(0, 1).

    Shapes:
        mean μ, log_variance v, their gradients, y and dy: one shape
        key: one PRNG key, from which ε is drawn; it has no gradient

    Backward, from ⟨dy, ẏ⟩ with ẏ = μ̇ + ½·e^(v/2)·ε·v̇ and ε constant:
        dμ = dy
        dv = ½·e^(v/2)·ε·dy

    Saves e^(v/2)·ε, of which dv is a function: neither the exponential nor the random numbers are
    recomputed. The numbers ε are drawn in float32, so they are the same in every dtype.

    Raises:
        TypeError: mean or log_variance is not floating point.
        ValueError: their shapes differ.

    Reference: D. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, section 2.4.

    Example:
        >>> mean, log_variance = jnp.array([5.0]), jnp.array([-100.0])
        >>> print(jaxnn.gaussian_sample(mean, log_variance, jax.random.key(0)))
        [5.]
    """
    noise = jax.random.normal(key, mean.shape, jnp.float32).astype(mean.dtype)
    return mean + jnp.exp(log_variance / 2) * noise


@gaussian_sample.validate
def _(mean, log_variance, key):
    require_floating(mean=mean, log_variance=log_variance)
    require_equal_shapes(mean=mean, log_variance=log_variance)
    require_one_key(key)


@gaussian_sample.forward
def gaussian_sample_fwd(mean, log_variance, key):
    """y = μ + e^(v/2)·ε."""
    scale = jnp.exp(at_least_float32(log_variance) / 2)
    deviation = scale * jax.random.normal(key, mean.shape, jnp.float32).astype(scale.dtype)
    y = at_least_float32(mean) + deviation
    return y, SampleResiduals(deviation.astype(mean.dtype))


@gaussian_sample.backward
@wide
def gaussian_sample_bwd(residuals, dy):
    """dμ = dy, dv = ½·(y − μ)·dy."""
    return dy, residuals.deviation / 2 * dy, None


@op
def gaussian_kl(mean: Components, log_variance: Components) -> Float[Array, "*N"]:
    """Kullback–Leibler divergence of N(μ, e^v) from N(0, 1), ½·Σₖ (μₖ² + e^vₖ − 1 − vₖ).

    Shapes:
        N batch, any number of axes or none; K components of one example
        mean μ, log_variance v and their gradients: (N, K)
        y, dy: (N,), no 1/K and no 1/N

    Backward, from ⟨dy, ẏ⟩ with ẏ = Σₖ μₖ·μ̇ₖ + ½·(e^vₖ − 1)·v̇ₖ:
        dμ = μ·dy
        dv = ½·(e^v − 1)·dy

    Saves its arguments, which copies nothing.

    Implementation notes:
        e^v − 1 and e^v − 1 − v are never differences of nearly equal numbers: near v = 0 they are
        `expm1(v)` and a series.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: the shapes differ, or there is no axis of components.

    Reference: D. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, appendix B.

    Example:
        >>> print(jaxnn.gaussian_kl(jnp.array([[2.0, 0.0]]), jnp.zeros((1, 2))))
        [2.]
    """
    return jnp.sum(mean**2 + jnp.expm1(log_variance) - log_variance, axis=-1) / 2


@gaussian_kl.validate
def _(mean, log_variance):
    require_alike(mean=mean, log_variance=log_variance)


@gaussian_kl.forward
@wide
def gaussian_kl_fwd(mean, log_variance):
    """y = ½·Σₖ (μₖ² + e^vₖ − 1 − vₖ)."""
    terms = mean * mean + _expm1_minus(log_variance)
    return jnp.sum(terms, axis=-1) / 2, GaussianResiduals(mean, log_variance)


@gaussian_kl.backward
@wide
def gaussian_kl_bwd(residuals, dy):
    """dμ = μ·dy, dv = ½·(e^v − 1)·dy."""
    mean, log_variance = residuals
    return mean * dy[..., None], jnp.expm1(log_variance) / 2 * dy[..., None]


def _expm1_minus(v):
    """e^v − 1 − v, by its series v²/2·(1 + v/3·(1 + v/4·…)) where |v| < ½."""
    series = jnp.ones_like(v)
    for k in range(11, 2, -1):
        series = 1 + v / k * series
    return jnp.where(jnp.abs(v) < 0.5, v * v / 2 * series, jnp.expm1(v) - v)
