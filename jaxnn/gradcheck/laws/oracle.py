"""The truth that a backward is compared with: autodiff of the definition, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import cast, is_differentiable, wide
from jaxnn.gradcheck.differences import one_sided_slopes


def value_and_gradient(definition, args, dy, dtype):
    """The definition's value and its gradient ⟨dy, ·⟩ for each leaf, all in one dtype.

    Returns:
        The value, and a list with an array for each leaf of args, `None` for those without a
        gradient.
    """
    with jax.enable_x64(True):
        y, cotangents = _vjp(definition, cast(args, dtype), cast(dy, dtype))
    grads = [
        np.asarray(d) if is_differentiable(a) else None
        for a, d in zip(jax.tree.leaves(args), jax.tree.leaves(cotangents), strict=True)
    ]
    return jax.tree.map(np.asarray, y), grads


def slopes_beside(definition, args, dy, leaf, index) -> tuple[float, float]:
    """The slopes of ⟨dy, definition⟩ to the left and to the right of one entry of one leaf."""
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(cast(args, jnp.float64))

        def function(moved):
            filled = [*leaves[:leaf], moved, *leaves[leaf + 1 :]]
            return _flat(definition(*jax.tree.unflatten(tree, [jnp.asarray(a) for a in filled])))

        return one_sided_slopes(function, [leaves[leaf]], wide(_flat(dy)), 0, index)


@partial(jax.jit, static_argnums=0)
def _vjp(definition, args, dy):
    y, pullback = jax.vjp(definition, *args)
    return y, pullback(dy)


def _flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
