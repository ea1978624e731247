"""The truth that a backward is judged by: autodiff of the definition, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def is_differentiable(leaf) -> bool:
    """Whether an array has a gradient: floating point, not labels, ids or keys."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def cast(tree, dtype):
    """The floating-point leaves of a tree in another dtype, the others as they are."""
    return jax.tree.map(lambda a: a.astype(dtype) if is_differentiable(a) else a, tree)


def value(op, args, dtype):
    """The definition's value with everything in one dtype."""
    with jax.enable_x64(True):
        return jax.jit(op.definition)(*cast(args, dtype))


def gradient(op, args, dy, dtype) -> list[np.ndarray | None]:
    """The gradient of ⟨dy, definition⟩ for each leaf of args, `None` for those without one."""
    with jax.enable_x64(True):
        cotangents = _vjp(op, cast(args, dtype), cast(dy, dtype))
    return [
        np.asarray(d) if is_differentiable(a) else None
        for a, d in zip(jax.tree.leaves(args), jax.tree.leaves(cotangents), strict=True)
    ]


@partial(jax.jit, static_argnums=0)
def _vjp(op, args, dy):
    return jax.vjp(op.definition, *args)[1](dy)
