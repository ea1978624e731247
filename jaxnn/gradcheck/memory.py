"""What a backward costs in memory: figures that are the same on every run."""

import jax

from jaxnn.op import Op


def residual_bytes(op: Op, *args) -> int:
    """The bytes that `fwd` keeps for `bwd`.

    Args:
        op: the op, with its options bound.
        *args: its arguments, or their shapes and dtypes.
    """
    kept = jax.eval_shape(op.fwd, *args)[1]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def temporary_bytes(op: Op, *args) -> tuple[int, int]:
    """Compiled temporary memory of forward and backward, by hand and by autodiff.

    Args:
        op: the op, with its options bound.
        *args: its arguments, or their shapes and dtypes.
    """
    dy = jax.eval_shape(op.definition, *args)

    def by_hand(args, dy):
        y, residuals = op.fwd(*args)
        return y, op.bwd(residuals, dy)

    def by_autodiff(args, dy):
        y, pullback = jax.vjp(op.definition, *args)
        return y, pullback(dy)

    return _temporary(by_hand, args, dy), _temporary(by_autodiff, args, dy)


def _temporary(function, *shapes) -> int:
    return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
