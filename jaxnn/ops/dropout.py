"""Dropout: random entries set to zero, and the rest scaled up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_floating, require_number

Elements = Float[Array, "*shape"]


class DropoutResiduals(NamedTuple):
    """The key, from which the backward draws the mask again."""

    key: PRNGKeyArray


@op
def dropout(x: Elements, key: PRNGKeyArray, *, rate: float) -> Elements:
    """Dropout, y = m ⊙ x/(1 − p): a random mask m of zeros and ones drops a fraction p.

    Each entry of m is 0 with probability p = `rate`, independently, so that the mean of y over
    the masks is x. Dropped entries become 0, even if they were NaN.

    Shapes:
        x, y, dx, dy: any, all the same
        key: one PRNG key; the same key gives the same mask

    Backward, with the mask fixed:
        ∂yᵢ/∂xᵢ = mᵢ/(1 − p), so
        dx = m ⊙ dy/(1 − p)

    The key has no gradient.

    Saves the key alone: the mask is drawn from it a second time, while a saved mask would take one
    byte for each entry from the forward pass to the backward.

    Implementation notes:
        The mask depends on the key, the shape and the rate, not on the dtype of x nor on whether
        float64 is enabled. The generator makes words of 32 bits, and an entry needs only 16: the
        first half of the last axis is decided by the lower bits of the words, the second half by
        the upper ones. So the fraction dropped is p to the nearest multiple of 2⁻¹⁶. Where one
        compiled program holds both passes, the compiler may draw the mask once and store it.

    Args:
        x: the input.
        key: from `jax.random.key`.
        rate: p, 0 ≤ p < 1.

    Raises:
        TypeError: x is not floating point, key is not a PRNG key, or rate is not a number.
        ValueError: rate is out of range, or there is more than one key.

    Reference: N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014, section 10 (there with the division by 1 − p as the alternative).

    Example:
        >>> y = jaxnn.dropout(jnp.ones(1000), jax.random.key(0), rate=0.2)
        >>> print(jnp.unique(y))
        [0.   1.25]
    """
    *batch, size = x.shape or (1,)
    words = jax.random.bits(key, (*batch, (size + 1) // 2), jnp.uint32)
    draws = jnp.concatenate([words % 2**16, words // 2**16], axis=-1)[..., :size]
    dropped = draws < min(round(rate * 2**16), 2**16 - 1)
    return jnp.where(dropped.reshape(x.shape), 0, x / (1 - rate))


@dropout.validate
def _(x, key, *, rate):
    require_floating(x=x)
    require_rate(rate)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise TypeError(f"key must be a PRNG key as jax.random.key makes it, got {describe(key)}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one PRNG key, got {describe(key)}")


@dropout.forward
@wide
def dropout_fwd(x, key, *, rate):
    """y = m ⊙ x/(1 − p), and the key."""
    return _masked(x, key, rate), DropoutResiduals(key)


@dropout.backward
@wide
def dropout_bwd(residuals, dy, *, rate):
    """dx = m ⊙ dy/(1 − p), with the mask of the same key."""
    return _masked(dy, residuals.key, rate), None


def require_rate(rate) -> None:
    """Raise unless the rate is a number with 0 ≤ rate < 1."""
    require_number("rate", rate, at_least=0)
    if not rate < 1:
        raise ValueError(f"option rate must be below 1, got {rate!r}")


def _masked(x: Elements, key: PRNGKeyArray, rate: float) -> Elements:
    """m ⊙ x/(1 − p)."""
    return x if rate == 0 else jnp.where(_mask(key, x.shape, rate), x, 0) * (1 / (1 - rate))


def _mask(key: PRNGKeyArray, shape: tuple[int, ...], rate: float) -> Bool[Array, "*shape"]:
    """m, True where an entry stays."""
    *batch, size = shape or (1,)
    words = jax.random.bits(key, (*batch, (size + 1) // 2), jnp.uint32)
    lower, upper = words & (2**16 - 1), words >> 16
    limit = min(round(rate * 2**16), 2**16 - 1)
    stays = jnp.concatenate([lower >= limit, upper >= limit], axis=-1)
    return stays[..., :size].reshape(shape)
