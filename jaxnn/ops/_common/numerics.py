"""Precision: arithmetic in at least float32, rounded once at the end.

Arithmetic on half-precision arguments runs in float32. Each op rounds its own results: `y` to the
dtype of the activations, each gradient to that of its argument. If arguments have different dtypes,
the op converts them to the widest before it calls any of its functions; see `jaxnn.dtypes`.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.dtypes import is_floating, with_arrays

P = ParamSpec("P")
T = TypeVar("T")


def accumulator(dtype) -> jnp.dtype:
    """The dtype to sum in: float32 for float16 and bfloat16, else the dtype itself."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in the dtype to sum in."""
    return x.astype(accumulator(x.dtype))


def representable(option: float, dtype) -> float:
    """A positive option as the nearest positive normal number of the dtype to sum in.

    In float32 ε = 1e-50 would be 0, and 0/ε NaN: it becomes the smallest normal number instead.
    """
    info = jnp.finfo(accumulator(dtype))
    return min(max(option, float(info.tiny)), float(info.max))


def wide(function: Callable[P, T]) -> Callable[P, T]:
    """A forward or backward whose floating-point arrays are at least float32.

    An argument that the function returns, for example as a residual, keeps its dtype.
    """

    @wraps(function)
    def in_at_least_float32(*args: P.args, **options: P.kwargs) -> T:
        for leaf in jax.tree.leaves(args):
            if leaf.dtype.itemsize < 4 and _is_narrow(leaf):
                break
        else:
            return function(*args, **options)
        return with_arrays(_widened, function, args, options)

    return in_at_least_float32


def contract(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    a_axes: Sequence[int],
    b_axes: Sequence[int],
    batch_axes: Sequence[int] = (),
) -> Float[Array, "..."]:
    """The sum of products over these axes of a and of b, in at least float32.

    Args:
        a: the first factor.
        b: the second factor.
        a_axes: the axes of `a` that are summed over.
        b_axes: the axes of `b` to contract with them.
        batch_axes: the batch axes, the same in both.

    Returns:
        The batch axes, then the other axes of `a`, then those of `b`.
    """
    axes = ((tuple(a_axes), tuple(b_axes)), (tuple(batch_axes), tuple(batch_axes)))
    wide = jnp.float32 if a.dtype.itemsize < 4 else a.dtype
    return lax.dot_general(a, b, axes, preferred_element_type=wide)


def unit_columns(like: Float[Array, "*N K"]) -> Float[Array, "K *N K"]:
    """The unit vectors e_c for every row of an array."""
    k = like.shape[-1]
    identity = jnp.eye(k, dtype=like.dtype).reshape(k, *[1] * (like.ndim - 1), k)
    return jnp.broadcast_to(identity, (k, *like.shape))


def _is_narrow(leaf) -> bool:
    return is_floating(leaf) and leaf.dtype.itemsize < 4


def _widened(leaf):
    return at_least_float32(leaf) if _is_narrow(leaf) else leaf
