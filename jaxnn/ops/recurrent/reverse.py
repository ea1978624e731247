"""Sequences run backwards, each within its own length."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.validation import require_floating, require_lengths
from jaxnn.ops.recurrent.sweep import Lengths

Sequences = Float[Array, "T N *shape"]


class ReverseResiduals(NamedTuple):
    """The lengths."""

    lengths: Lengths | None


@op
def reverse_sequences(x: Sequences, lengths: Lengths | None = None) -> Sequences:
    """Sequences run backwards: of length L, yₜ = x_(L − 1 − t) for t < L, and yₜ = xₜ beyond.

    So that a recurrent op reads a sequence from its end:
    `reverse_sequences(lstm(params, reverse_sequences(x, lengths), None, lengths)[0], lengths)`.

    Shapes (T steps, N sequences):
        x, y, dx, dy: (T, N, …)
        lengths: integers (N,), 0 … T; T if left out

    Backward:
        y is a permutation of x, P·x, and its own inverse, so Pᵀ = P⁻¹ = P:
        dx = P·dy

    Keeps the lengths.

    Raises:
        TypeError: x is not floating point; lengths are not integers.
        ValueError: x has no two axes; lengths do not fit, or one is out of range (under `jit`,
            where lengths are not known, one beyond T counts as T).

    Source: M. Schuster and K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

    Example:
        >>> x = jnp.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
        >>> print(jaxnn.reverse_sequences(x, jnp.array([3, 2])))
        [[3. 5.]
         [2. 4.]
         [1. 6.]]
    """
    if lengths is None:
        return x[::-1]
    steps = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    lengths = jnp.minimum(lengths.astype(jnp.int32), x.shape[0])[None, :]
    source = jnp.where(steps < lengths, lengths - 1 - steps, steps)
    source = source.reshape(source.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, source, axis=0, mode="clip")


@reverse_sequences.forward
def reverse_sequences_fwd(x, lengths=None):
    """y = P·x."""
    return reverse_sequences.definition(x, lengths), ReverseResiduals(lengths)


@reverse_sequences.backward
def reverse_sequences_bwd(residuals, dy):
    """dx = P·dy."""
    return reverse_sequences.definition(dy, residuals.lengths), None


@reverse_sequences.validate
def _(x, lengths):
    require_floating(x=x)
    if x.ndim < 2:
        raise ValueError(f"x must be (steps, batch, …), got shape {x.shape}")
    require_lengths("lengths", lengths, x.shape[1:2], x.shape[0])
