"""Hints to the compiler, each with its reason. None of them changes a value."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.ops._common.tuning import NARROW_OUTPUT, on_a_gpu
from jaxnn.transformations import transposing

T = TypeVar("T")


def recomputed(tree):
    """The same arrays behind a barrier: operations on them are recomputed, not shared.

    When one program holds forward and backward, XLA merges their common subexpressions and stores
    the results in between. The barrier prevents that: memory traffic costs more than a few
    operations per element.
    """
    return jax.tree.map(lax.optimization_barrier, tree)


def recomputing(backward: Callable[..., T]) -> Callable[..., T]:
    """A backward that shares nothing with the forward but its residuals; see `recomputed`.

    Apply it outside `wide`: inside, half-precision residuals would be stored in float32.
    """

    @wraps(backward)
    def from_residuals(residuals, dy, **options):
        return backward(recomputed(residuals), dy, **options)

    return from_residuals


def stored(tree):
    """The same arrays, computed before anything that uses them.

    Without it XLA's CPU compiler fuses a small array, such as a statistic of each row, into its
    users and computes it once per element of the large array. On a GPU it does not, and the barrier
    would split one kernel into two: `layer_norm` takes .18 ms with it and .15 without.
    """
    return tree if on_a_gpu() else lax.optimization_barrier(tree)


def transposed_product(product: Float[Array, "O I"]) -> Float[Array, "I O"]:
    """The transpose of a matrix product, in a form that keeps XLA from rewriting the product.

    XLA turns (dyᵀ·x)ᵀ into xᵀ·dy. With few columns in dy that product has short rows, and is
    several times slower on a CPU. The barrier acts on the flattened product, which leaves the
    compiler no layout to choose: with a barrier on the matrix, XLA aborted under `jit` of `vmap`.
    On several devices there is no barrier, because flattening would gather the product.
    """
    on_one_device = jax.typeof(product).sharding.mesh.empty
    if on_one_device and product.shape[0] <= NARROW_OUTPUT:
        product = lax.optimization_barrier(product.reshape(-1)).reshape(product.shape)
    return product.T


def room_after(value: Float[Array, "*shape"], shape: tuple) -> Float[Array, "..."]:
    """An array of this shape to overwrite, which takes no memory before `value` is computed.

    XLA allocates an array of zeros when the program starts, and holds it through a loop that does
    not use it. An array computed from the loop's result is allocated after the loop. Where the
    backward is transposed it is zeros, because every use of `value` would count as a factor there.
    """
    return jnp.zeros(shape, value.dtype) if transposing.value else jnp.broadcast_to(value, shape)
