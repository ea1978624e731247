"""What an entry of the catalogue is made of: ops, cases, and makers of arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.op import Op


class Case(NamedTuple):
    """Arguments and options that an op is tried with.

    Attributes:
        name: what the case is about.
        arguments: `(key, dtype) -> args`.
        options: the op's options.
    """

    name: str
    arguments: Callable[[jax.Array, Any], tuple]
    options: dict[str, Any] = {}  # noqa: RUF012


class Entry(NamedTuple):
    """An op of the catalogue.

    Attributes:
        op: the op.
        cases: audit cases: sizes pairwise distinct and neither 1 nor 2 (N 7, I 5, O 6, K 3),
            every option.
        hard: cases at which formulas break: saturation, ties, zeros, huge, tiny, one, none.
        benchmark: a case of realistic size.
    """

    op: Op
    cases: tuple[Case, ...]
    hard: tuple[Case, ...]
    benchmark: Case


def normal(*shape, scale=1.0):
    """Standard normal numbers times `scale`."""
    return lambda key, dtype: (scale * jax.random.normal(key, shape)).astype(dtype)


def probabilities(*shape):
    """Rows of positive numbers that sum to 1."""
    return lambda key, dtype: jax.nn.softmax(jax.random.normal(key, shape)).astype(dtype)


def labels(n, n_classes):
    """Integer labels in 0 … n_classes − 1."""
    return lambda key, dtype: jax.random.randint(key, (n,), 0, n_classes)


def constant(values):
    """The same numbers whatever the key, bounded by what the dtype can hold."""

    def make(key, dtype):
        array = jnp.asarray(values)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        largest = float(jnp.finfo(dtype).max)
        return jnp.clip(array, -largest, largest).astype(dtype)

    return make


def params(**makers):
    """A dict of arrays."""

    def make(key, dtype):
        keys = jax.random.split(key, len(makers))
        return {name: m(k, dtype) for (name, m), k in zip(makers.items(), keys, strict=True)}

    return make


def left_out(key, dtype):
    """No argument, where an op has one that may be left out."""


def case(name, *makers, **options) -> Case:
    """A case of one maker for each positional argument."""

    def arguments(key, dtype):
        keys = jax.random.split(key, len(makers))
        return tuple(make(k, dtype) for make, k in zip(makers, keys, strict=True))

    return Case(name, arguments, options)
