"""Dtypes of a call: the one to compute in, and the one of the output.

Arguments may have different floating-point dtypes, such as float32 parameters and bfloat16
activations. An op then computes in the widest of them. Its output has the dtype of its first
argument that is not a dict of parameters, and each gradient that of its argument.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from operator import attrgetter
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp

P = ParamSpec("P")
T = TypeVar("T")


def is_floating(array: jax.Array) -> bool:
    """Whether an array holds real floating-point numbers."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def widest(dtypes: Iterable) -> jnp.dtype:
    """The widest of these floating dtypes; float32 for float16 and bfloat16."""
    by_size = sorted(set(dtypes), key=attrgetter("itemsize"))
    if len(by_size) > 1 and by_size[-2].itemsize == by_size[-1].itemsize:
        return jnp.dtype(jnp.float32)
    return by_size[-1]


def of_output(args: tuple) -> jnp.dtype | None:
    """The dtype of the first floating-point array that is not a parameter, or else of the first."""
    inputs = [argument for argument in args if not isinstance(argument, dict)]
    for array in (*jax.tree.leaves(inputs), *jax.tree.leaves(args)):
        if is_floating(array):
            return array.dtype
    return None


def computing_in(dtype: jnp.dtype, function: Callable[P, T]) -> Callable[P, T]:
    """A function that receives every floating-point array in this dtype.

    An argument that the function returns, for example as a residual, keeps its dtype.
    """

    @wraps(function)
    def in_dtype(*args: P.args, **options: P.kwargs) -> T:
        return with_arrays(
            lambda a: a.astype(dtype) if is_floating(a) else a, function, args, options
        )

    return in_dtype


def with_arrays(convert: Callable, function: Callable, args: tuple, options: dict):
    """`function(*args, **options)` with each array converted, except for those that it returns."""
    leaves, tree = jax.tree.flatten(args)
    converted = list(map(convert, leaves))
    came_as = {id(c): leaf for c, leaf in zip(converted, leaves, strict=True)}
    result = function(*jax.tree.unflatten(tree, converted), **options)
    return jax.tree.map(lambda leaf: came_as.get(id(leaf), leaf), result)
