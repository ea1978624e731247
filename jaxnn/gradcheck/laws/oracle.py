"""The truth that a backward is judged by: autodiff of the definition, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck import differences


def is_differentiable(leaf) -> bool:
    """Whether an array has a gradient: floating point, not labels, ids or keys."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def cast(tree, dtype):
    """The floating-point leaves of a tree in another dtype, the others as they are.

    NumPy converts them: nothing has to be compiled for it.
    """
    return jax.tree.map(lambda a: np.asarray(a).astype(dtype) if is_differentiable(a) else a, tree)


def value_and_gradient(definition, args, dy, dtype):
    """The definition's value and its gradient ⟨dy, ·⟩ for each leaf, all in one dtype.

    Returns:
        The value, and a list with an array for each leaf of args, `None` for those that have no
        gradient.
    """
    with jax.enable_x64(True):
        y, cotangents = _vjp(definition, cast(args, dtype), cast(dy, dtype))
    grads = [
        np.asarray(d) if is_differentiable(a) else None
        for a, d in zip(jax.tree.leaves(args), jax.tree.leaves(cotangents), strict=True)
    ]
    return jax.tree.map(np.asarray, y), grads


def one_sided_slopes(definition, args, dy, leaf, index) -> tuple[float, float]:
    """The slopes of ⟨dy, definition⟩ to the left and to the right of one entry of one leaf."""
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(cast(args, jnp.float64))

        def function(moved):
            filled = [*leaves[:leaf], moved, *leaves[leaf + 1 :]]
            return _flat(definition(*jax.tree.unflatten(tree, [jnp.asarray(a) for a in filled])))

        weights = np.asarray(_flat(dy)).astype(np.float64)
        return differences.one_sided_slopes(function, [leaves[leaf]], weights, 0, index)


@partial(jax.jit, static_argnums=0)
def _vjp(definition, args, dy):
    y, pullback = jax.vjp(definition, *args)
    return y, pullback(dy)


def _flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
