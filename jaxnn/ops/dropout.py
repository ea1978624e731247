"""Dropout: random numbers set to zero, and the rest made larger."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import describe, require_floating, require_number

Elements = Float[Array, "*shape"]

BITS = 16  # random bits for each number, two of which come from one word of the generator


class KeyKept(NamedTuple):
    """The key, from which the mask is drawn again."""

    key: PRNGKeyArray


@op
def dropout(x: Elements, key: PRNGKeyArray, *, rate: float) -> Elements:
    """Dropout, y = m ⊙ x/(1 − p): a random mask m of zeros and ones leaves out a share p.

    Each entry of m is 0 with probability p = `rate`, independently, so that the mean of y over
    the masks is x. What is left out becomes 0 whatever it was, NaN too.

    Shapes:
        x, y, dx, dy: any, all the same
        key: one PRNG key; the same key gives the same mask

    Backward, with the mask fixed:
        ∂yᵢ/∂xᵢ = mᵢ/(1 − p), so
        dx = m ⊙ dy/(1 − p)

    Keeps the key alone: the mask is drawn from it a second time, where keeping it would take a
    byte for each number from the forward pass to the backward. Where one compiled program holds
    both passes, the compiler may see that the two masks are one and draw it once.

    The mask depends on the key, the shape and the rate, not on the dtype of x nor on whether
    float64 is enabled. It takes 16 random bits a number, so that the share left out is p to
    the nearest multiple of 2⁻¹⁶.

    Args:
        x: any numbers.
        key: from `jax.random.key`.
        rate: p, 0 ≤ p < 1.

    Raises:
        TypeError: x is not floating point, key is not a PRNG key, or rate is not a number.
        ValueError: rate is out of range, or there is more than one key.

    Source: N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014, section 10 (there with the division by 1 − p as the alternative).

    Example:
        >>> y = jaxnn.dropout(jnp.ones(1000), jax.random.key(0), rate=0.2)
        >>> print(jnp.unique(y))
        [0.   1.25]
    """
    return jnp.where(_mask(key, x.shape, rate), x / (1 - rate), 0)


@dropout.forward
def dropout_fwd(x, key, *, rate):
    """y = m ⊙ x/(1 − p), and the key."""
    return _dropped(x, key, rate), KeyKept(key)


@dropout.backward
def dropout_bwd(residuals, dy, *, rate):
    """dx = m ⊙ dy/(1 − p)."""
    return _dropped(dy, residuals.key, rate), None


def require_rate(rate) -> None:
    """The rate is a number with 0 ≤ rate < 1."""
    require_number("rate", rate, at_least=0)
    if not rate < 1:
        raise ValueError(f"option rate must be below 1, got {rate!r}")


def _dropped(x: Elements, key: PRNGKeyArray, rate: float) -> Elements:
    if rate == 0:
        return x
    scaled = at_least_float32(x) * (1 / (1 - rate))
    return jnp.where(_mask(key, x.shape, rate), scaled, 0).astype(x.dtype)


def _mask(key: PRNGKeyArray, shape: tuple[int, ...], rate: float) -> Bool[Array, "*shape"]:
    """True where a number stays.

    The generator makes words of 32 bits. The first half of the last axis is decided by their
    lower 16 bits, the second half by their upper ones.
    """
    *leading, size = shape or (1,)
    words = jax.random.bits(key, (*leading, (size + 1) // 2), jnp.uint32)
    limit = min(round(rate * 2**BITS), 2**BITS - 1)
    halves = [(words & (2**BITS - 1)) >= limit, (words >> BITS) >= limit]
    return jnp.concatenate(halves, axis=-1)[..., :size].reshape(shape)


@dropout.validate
def _(x, key, *, rate):
    require_floating(x=x)
    require_rate(rate)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise TypeError(f"key must be a PRNG key as jax.random.key makes it, got {describe(key)}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one PRNG key, got {describe(key)}")
