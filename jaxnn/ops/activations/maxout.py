"""Maxout: the largest of several linear pieces."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxnn.op import op
from jaxnn.ops._common.validation import require_floating, require_last_axis

MOST_PIECES = 256


class MaxoutResiduals(NamedTuple):
    """The index of the largest piece."""

    winner: UInt8[Array, "*N C"]


@op
def maxout(x: Float[Array, "*N CP"], *, pieces: int) -> Float[Array, "*N C"]:
    """Maxout, y_c = max(x_{c,1}, …, x_{c,P}): the largest of P neighbours in the last axis.

    Shapes:
        N batch, any number of axes or none; C outputs; P pieces
        x, dx: (N, C·P), the P pieces of an output side by side
        y, dy: (N, C)

    Backward, with w the index of the largest piece, the first one in a tie:
        ẏ_c = ẋ_{c,w}, so
        dx_{c,p} = dy_c where p = w, else 0

    Saves w in one byte for each output.

    Args:
        x: the input.
        pieces: P, from 1 to 256.

    Raises:
        TypeError: x is not floating point, or pieces is not an integer.
        ValueError: pieces is out of range, or does not divide the last axis of x.

    Reference: I. Goodfellow, D. Warde-Farley, M. Mirza, A. Courville and Y. Bengio, "Maxout
    Networks", 2013, section 3.

    Example:
        >>> print(jaxnn.maxout(jnp.array([1.0, 3.0, 2.0, -1.0]), pieces=2))
        [3. 2.]
    """
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    first = jnp.argmax(parts, axis=-1, keepdims=True)
    return jnp.take_along_axis(parts, first, axis=-1)[..., 0]


@maxout.validate
def _(x, *, pieces):
    require_floating(x=x)
    require_last_axis(x=x)
    if type(pieces) is not int:
        raise TypeError(f"option pieces must be an integer, got {pieces!r}")
    if not 1 <= pieces <= MOST_PIECES:
        raise ValueError(f"option pieces must be from 1 to {MOST_PIECES}, got {pieces}")
    if x.shape[-1] % pieces:
        raise ValueError(f"x has shape {x.shape}; {pieces} pieces do not divide its last axis")


@maxout.forward
def maxout_fwd(x, *, pieces):
    """y = the largest of the pieces, and its index."""
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    y = parts[..., 0]
    winner = jnp.zeros_like(y, jnp.uint8)
    for piece in range(1, pieces):
        candidate = parts[..., piece]
        wins = ~(candidate <= y) & (y == y)  # a NaN wins, and nothing beats it
        y, winner = jnp.where(wins, candidate, y), jnp.where(wins, jnp.uint8(piece), winner)
    return y, MaxoutResiduals(winner)


@maxout.backward
def maxout_bwd(residuals, dy, *, pieces):
    """dx = dy for the largest piece, 0 for the others."""
    (winner,) = residuals
    shares = [jnp.where(winner == piece, dy, 0) for piece in range(pieces)]
    return (jnp.stack(shares, axis=-1).reshape(*dy.shape[:-1], dy.shape[-1] * pieces),)
