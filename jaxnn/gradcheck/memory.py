"""The memory that a backward takes: deterministic figures from shapes and the compiler."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnn.op import Op


def residual_bytes(op: Op, *args) -> int:
    """The bytes that `fwd` saves for `bwd`.

    Args:
        op: an op with its options bound.
        *args: its arguments, or their shapes and dtypes.
    """
    _, residuals = jax.eval_shape(op.fwd, *args)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


def temporary_bytes(op: Op, *args) -> tuple[int, int]:
    """The temporary memory of compiled forward and backward, by hand and by autodiff.

    Args:
        op: an op with its options bound.
        *args: its arguments, or their shapes and dtypes.
    """
    dy = jax.eval_shape(op.definition, *args)
    ours, theirs = (
        _memory(jax.jit(both).lower(args, dy).compile()).temp_size_in_bytes
        for both in (forward_and_backward(op), forward_and_backward_by_autodiff(op.definition))
    )
    return ours, theirs


def _memory(compiled) -> Any:
    """The memory analysis of a compiled program."""
    return compiled.memory_analysis()


def forward_and_backward(op: Op) -> Callable:
    """`(args, dy) -> (y, gradients)` of an op, by its own `fwd` and `bwd`."""

    def by_hand(args, dy):
        y, residuals = op.fwd(*args)
        return y, op.bwd(residuals, dy)

    return by_hand


def forward_and_backward_by_autodiff(function: Callable) -> Callable:
    """`(args, dy) -> (y, gradients)` of a function, by `jax.vjp`."""

    def by_autodiff(args, dy):
        y, pullback = jax.vjp(function, *args)
        return y, pullback(dy)

    return by_autodiff
