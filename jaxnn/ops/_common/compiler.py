"""Persuasion of the compiler, each with its reason. None of these changes a value."""

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
    """The same arrays; what follows is computed from them again and not shared with other code.

    Where one program holds forward and backward, XLA merges equal operations of both and stores
    their result in between. Behind a barrier it does not: memory traffic costs more than a few
    operations per element.
    """
    return jax.tree.map(lax.optimization_barrier, tree)


def recomputing(backward: Callable[..., T]) -> Callable[..., T]:
    """A backward that shares nothing with the forward but its residuals; see `recomputed`.

    It stands outside `wide`, so that half-precision residuals are not stored in float32.
    """

    @wraps(backward)
    def from_residuals(residuals, dy, **options):
        return backward(recomputed(residuals), dy, **options)

    return from_residuals


def stored(tree):
    """The same arrays, computed before anything that uses them.

    Without it XLA's CPU compiler fuses a small array, such as a statistic of each row, into its
    users and computes it once per element of the large array beside it. On a GPU it does not, and
    the barrier would split one kernel into two: `layer_norm` takes .18 ms with it and .15 without.
    """
    return tree if on_a_gpu() else lax.optimization_barrier(tree)


def transposed_product(product: Float[Array, "O I"]) -> Float[Array, "I O"]:
    """The transpose of a matrix product, which stays the product that it is.

    XLA turns (dyᵀ·x)ᵀ into xᵀ·dy. With few columns in dy that product has short rows, and is
    several times slower on a CPU. The barrier lies on the flat numbers, which leave the compiler
    no layout to choose: in its first form XLA aborted under `jit` of `vmap`. On several devices
    there is none, because flat numbers would have to be gathered.
    """
    on_one_device = jax.typeof(product).sharding.mesh.empty
    if on_one_device and product.shape[0] <= NARROW_OUTPUT:
        product = lax.optimization_barrier(product.reshape(-1)).reshape(product.shape)
    return product.T


def room_after(value: Float[Array, "*shape"], shape: tuple) -> Float[Array, "..."]:
    """An array of this shape to be overwritten, for which there is no room before `value` is made.

    XLA allocates an array of zeros when the program starts, and holds it through a loop that does
    not use it. Numbers made of the loop's result come after the loop. They are zeros where the
    backward is transposed: there every use of `value` would count as a factor.
    """
    return jnp.zeros(shape, value.dtype) if transposing.value else jnp.broadcast_to(value, shape)
