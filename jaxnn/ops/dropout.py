"""Dropout: random entries set to zero, and the rest scaled up."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import (
    require_axes,
    require_floating,
    require_number,
    require_one_key,
)

Elements = Float[Array, "*shape"]

SELU_FLOOR = -1.0507009873554805 * 1.6732632423543772  # −λα, the least value of selu


class DropoutResiduals(NamedTuple):
    """The key, from which the backward draws the mask again."""

    key: PRNGKeyArray


@op
def dropout(
    x: Elements, key: PRNGKeyArray, *, rate: float, broadcast_axes: int | tuple[int, ...] = ()
) -> Elements:
    """Dropout, y = m ⊙ x/(1 − p): a random mask m of zeros and ones drops a fraction p.

    Each entry of m is 0 with probability p = `rate`, independently, so that the mean of y over
    the masks is x. Dropped entries become 0, even if they were NaN. Along `broadcast_axes` the mask
    is constant: with the spatial axes, whole channels are dropped.

    Shapes:
        x, y, dx, dy: any, all the same
        key: one PRNG key; the same key gives the same mask

    Backward, with the mask fixed:
        ∂yᵢ/∂xᵢ = mᵢ/(1 − p), so
        dx = m ⊙ dy/(1 − p)

    The key has no gradient.

    Saves only the key: the backward draws the mask from it again, while a saved mask would take one
    byte for each entry between the two passes.

    Implementation notes:
        The mask depends on the key, the shape and the rate, not on the dtype of x or on whether
        float64 is enabled. The generator makes words of 32 bits, and each serves two entries: one
        in the first half of the last axis, which reads the lower 16 bits as the leading digits and
        the upper 16 as the others, and one in the second half, which reads the word as it is. So p
        is rounded to the nearest multiple of 2⁻³², at most 1 − 2⁻³², and the division is by 1 minus
        the rounded p. The probability that both entries of a word are dropped is within 2⁻¹⁶ of p².
        If one compiled program holds both passes, the compiler may draw the mask once and store it.

    Args:
        x: the input.
        key: from `jax.random.key`.
        rate: p, 0 ≤ p < 1.
        broadcast_axes: the axes along which the mask is the same.

    Raises:
        TypeError: x is not floating point, key is not a PRNG key, or rate is not a number.
        ValueError: rate is out of range, x has no such axes, or there is more than one key.

    Reference: N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", 2014, section 10 (there with the division by 1 − p as the alternative); for whole
    channels, J. Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015.

    Example:
        >>> y = jaxnn.dropout(jnp.ones(1000), jax.random.key(0), rate=0.2)
        >>> print(jnp.unique(y))
        [0.   1.25]
    """
    dropped, kept = textbook_mask(key, x.shape, rate, broadcast_axes)
    return jnp.where(dropped, 0, x / kept)


@dropout.validate
def _(x, key, *, rate, broadcast_axes):
    require_dropout(x, key, rate, broadcast_axes)


@dropout.forward
@wide
def dropout_fwd(x, key, *, rate, broadcast_axes=()):
    """y = m ⊙ x/(1 − p), and the key."""
    return _masked(x, key, rate, broadcast_axes), DropoutResiduals(key)


@dropout.backward
@wide
def dropout_bwd(residuals, dy, *, rate, broadcast_axes=()):
    """dx = m ⊙ dy/(1 − p), with the mask of the same key."""
    return _masked(dy, residuals.key, rate, broadcast_axes), None


@op
def alpha_dropout(
    x: Elements, key: PRNGKeyArray, *, rate: float, broadcast_axes: int | tuple[int, ...] = ()
) -> Elements:
    """Dropout for networks of `selu`, y = a·(m ⊙ x + (1 − m)·s) + b with s = −λα.

    Dropped entries become the least value s = −1.758 of selu, and a and b are such that inputs of
    mean 0 and variance 1 keep both:
        a = 1/√((1 − p)·(1 + p·s²))      b = −a·p·s

    The mask m is that of `dropout`.

    Shapes:
        x, y, dx, dy: any, all the same
        key: one PRNG key; the same key gives the same mask

    Backward, with the mask fixed:
        ∂yᵢ/∂xᵢ = a·mᵢ, so
        dx = a·m ⊙ dy

    The key has no gradient.

    Saves only the key, as `dropout` does.

    Args:
        x: the input.
        key: from `jax.random.key`.
        rate: p, 0 ≤ p < 1.
        broadcast_axes: the axes along which the mask is the same.

    Raises:
        TypeError: x is not floating point, key is not a PRNG key, or rate is not a number.
        ValueError: rate is out of range, x has no such axes, or there is more than one key.

    Reference: G. Klambauer et al., "Self-Normalizing Neural Networks", 2017, section 3.

    Example:
        >>> y = jaxnn.alpha_dropout(jnp.ones(1000), jax.random.key(0), rate=0.2)
        >>> [round(float(value), 3) for value in jnp.unique(y)]
        [-1.236, 1.188]
    """
    dropped, kept = textbook_mask(key, x.shape, rate, broadcast_axes)
    s = -1.7580993408473766
    a = (kept * (1 + (1 - kept) * s**2)) ** -0.5
    return a * jnp.where(dropped, s, x) - a * (1 - kept) * s


@alpha_dropout.validate
def _(x, key, *, rate, broadcast_axes):
    require_dropout(x, key, rate, broadcast_axes)


@alpha_dropout.forward
@wide
def alpha_dropout_fwd(x, key, *, rate, broadcast_axes=()):
    """y = m ⊙ (a·x + b) + (1 − m)·a·(1 − p)·s, without the difference a·s + b, and the key."""
    stays, a, kept = _mask(key, x.shape, rate, broadcast_axes), _alpha_factor(rate), _kept(rate)
    entries = a * x - a * (1 - kept) * SELU_FLOOR
    return jnp.where(stays, entries, a * kept * SELU_FLOOR), DropoutResiduals(key)


@alpha_dropout.backward
@wide
def alpha_dropout_bwd(residuals, dy, *, rate, broadcast_axes=()):
    """dx = a·m ⊙ dy, with the mask of the same key."""
    stays = _mask(residuals.key, dy.shape, rate, broadcast_axes)
    return jnp.where(stays, dy, 0) * _alpha_factor(rate), None


def require_dropout(x, key, rate, broadcast_axes) -> None:
    """Raise unless the arguments of a dropout are valid."""
    require_floating(x=x)
    require_rate(rate)
    if broadcast_axes != ():
        require_axes(x, broadcast_axes, "broadcast_axes")
    require_one_key(key)


def require_rate(rate) -> None:
    """Raise unless the rate is a number with 0 ≤ rate < 1."""
    require_number("rate", rate, at_least=0)
    if not rate < 1:
        raise ValueError(f"option rate must be below 1, got {rate!r}")


def require_broadcast_axes(axes) -> None:
    """Raise unless the axes, for an x that is not known yet, are integers."""
    each = axes if isinstance(axes, tuple) else (axes,)
    if not all(type(axis) is int for axis in each):
        raise TypeError(
            f"option broadcast_axes must be an integer or a tuple of integers, got {axes!r:.80}"
        )


def textbook_mask(key, shape, rate, broadcast_axes):
    """The mask of the dropped entries, and the probability of keeping one, for the definitions."""
    ndim, same = len(shape), broadcast_axes
    same = (same,) if isinstance(same, int) else same
    drawn = [1 if {a, a - ndim} & set(same) else size for a, size in enumerate(shape)]
    *batch, size = drawn or (1,)
    words = jax.random.bits(key, (*batch, (size + 1) // 2), jnp.uint32)
    exchanged = (words % 2**16) * 2**16 + words // 2**16
    draws = jnp.concatenate([exchanged, words], axis=-1)[..., :size].reshape(drawn)
    drops = min(round(rate * 2**32), 2**32 - 1)
    return jnp.broadcast_to(draws < jnp.uint32(drops), shape), 1 - drops / 2**32


def _drops(rate: float) -> int:
    """The number of 32-bit words for which an entry is dropped."""
    return min(round(rate * 2**32), 2**32 - 1)


def _kept(rate: float) -> float:
    """The probability of keeping an entry."""
    return (2**32 - _drops(rate)) / 2**32


def _alpha_factor(rate: float) -> float:
    """a = 1/√((1 − p)·(1 + p·s²))."""
    kept = _kept(rate)
    return 1 / math.sqrt(kept * (1 + (1 - kept) * SELU_FLOOR**2))


def _masked(x: Elements, key: PRNGKeyArray, rate: float, broadcast_axes) -> Elements:
    """m ⊙ x/(1 − p)."""
    if _drops(rate) == 0:
        return x
    return jnp.where(_mask(key, x.shape, rate, broadcast_axes), x, 0) * (1 / _kept(rate))


def _mask(
    key: PRNGKeyArray, shape: tuple[int, ...], rate: float, broadcast_axes: int | Sequence[int]
) -> Bool[Array, "..."]:
    """m, True where an entry is kept."""
    same = (broadcast_axes,) if isinstance(broadcast_axes, int) else broadcast_axes
    same = [a % len(shape) for a in same]
    drawn = tuple(1 if a in same else size for a, size in enumerate(shape))
    *batch, size = drawn or (1,)
    words = jax.random.bits(key, (*batch, (size + 1) // 2), jnp.uint32)
    limit = jnp.uint32(_drops(rate))
    exchanged = (words << 16) | (words >> 16)
    stays = jnp.concatenate([exchanged >= limit, words >= limit], axis=-1)
    return jnp.broadcast_to(stays[..., :size].reshape(drawn), shape)
