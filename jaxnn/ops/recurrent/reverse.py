"""Sequences in reverse, each within its own length."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.validation import require_floating, require_lengths
from jaxnn.ops.recurrent.sweep import Lengths

Sequences = Float[Array, "T N *shape"]


class ReverseResiduals(NamedTuple):
    """The lengths of the sequences."""

    lengths: Lengths | None


@op
def reverse_sequences(x: Sequences, lengths: Lengths | None = None) -> Sequences:
    """Sequences in reverse, each within its length L: yₜ = x_(L − 1 − t) for t < L, else yₜ = xₜ.

    A recurrent op reads a sequence from its end with
    `reverse_sequences(lstm(params, reverse_sequences(x, lengths), None, lengths)[0], lengths)`.

    Shapes:
        T steps, N sequences
        x, y, dx, dy: (T, N, …)
        lengths: integers (N,), 0 … T; optional, T by default

    Backward, from ⟨dy, ẏ⟩ = ⟨dy, P·ẋ⟩ = ⟨Pᵀ·dy, ẋ⟩ with the permutation y = P·x. Reversing twice
    gives x, so P is its own inverse, and Pᵀ = P⁻¹ = P:
        dx = P·dy

    Saves the lengths, which define P.

    Args:
        x: the sequences, steps first.
        lengths: the number of steps in each sequence.

    Raises:
        TypeError: x is not floating point; lengths are not integers.
        ValueError: x has fewer than two axes; the lengths do not fit, or one is out of range. Under
            `jit`, where lengths are unknown, a length beyond T counts as T.

    Reference: M. Schuster and K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

    Example:
        >>> x = jnp.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
        >>> print(jaxnn.reverse_sequences(x, jnp.array([3, 2])))
        [[3. 5.]
         [2. 4.]
         [1. 6.]]
    """
    if lengths is None:
        return jnp.flip(x, axis=0)
    t = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    length = jnp.minimum(jnp.asarray(lengths, jnp.int32), x.shape[0])[None, :]
    sequence = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :]
    return x[jnp.where(t < length, length - 1 - t, t), sequence]


@reverse_sequences.validate
def _(x, lengths):
    require_floating(x=x)
    if x.ndim < 2:
        raise ValueError(f"x must be (steps, batch, …), got shape {x.shape}")
    require_lengths("lengths", lengths, x.shape[1:2], x.shape[0])


@reverse_sequences.forward
def reverse_sequences_fwd(x, lengths=None):
    """y = P·x."""
    return _permuted(x, lengths), ReverseResiduals(lengths)


@reverse_sequences.backward
def reverse_sequences_bwd(residuals, dy):
    """dx = P·dy."""
    return _permuted(dy, residuals.lengths), None


def _permuted(x, lengths):
    """P·x."""
    if lengths is None:
        return x[::-1]
    steps = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    lengths = jnp.minimum(jnp.asarray(lengths, jnp.int32), x.shape[0])[None, :]
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    source = source.reshape(source.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, source, axis=0, mode="clip")
