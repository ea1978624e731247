"""Compilation for a single run."""

from collections.abc import Callable
from functools import cache, wraps

import jax

HURRIED = {"xla_backend_optimization_level": 0}  # halves the time of a check of a small function


def jit(function: Callable, **options) -> Callable:
    """`jax.jit` for programs that take longer to compile than to run: few optimisations on CPU.

    Args:
        function: the function to compile.
        **options: options of `jax.jit`.
    """

    @cache
    def compiled():
        hurried = HURRIED if jax.default_backend() == "cpu" else None
        return jax.jit(function, compiler_options=hurried, **options)

    @wraps(function)
    def call(*args):
        return compiled()(*args)

    return call
