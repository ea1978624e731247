"""The parts of an entry of the catalogue: ops, cases, and makers of arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnn.op import Op


class Case(NamedTuple):
    """Arguments and options with which an op is tested.

    Attributes:
        name: a description of the case.
        arguments: `(seed, dtype) -> args`.
        options: the op's options.
    """

    name: str
    arguments: Callable[[int, Any], tuple]
    options: dict[str, Any] = {}  # noqa: RUF012


class Entry(NamedTuple):
    """An op of the catalogue.

    Attributes:
        op: the op.
        cases: audit cases: sizes pairwise distinct and neither 1 nor 2 (N 7, I 5, O 6, K 3),
            every option.
        hard: cases at which formulas break: saturation, ties, zeros, huge, tiny, one, none.
        benchmark: a case of realistic size.
        saves: the budget of that case: the most bytes that `fwd` may save, in float32.
    """

    op: Op
    cases: tuple[Case, ...]
    hard: tuple[Case, ...]
    benchmark: Case
    saves: int


def drawn(draw: Callable[[np.random.Generator], np.ndarray]):
    """Floating-point numbers drawn by NumPy, for which nothing has to be compiled."""
    return lambda random, dtype: jnp.asarray(draw(random).astype(dtype))


def normal(*shape, scale=1.0, offset=0.0):
    """Standard normal numbers times `scale`, plus `offset`."""
    return drawn(lambda random: offset + scale * random.standard_normal(shape))


def probabilities(*shape, total=1.0):
    """Rows of positive numbers that sum to `total`."""

    def draw(random):
        sizes = np.exp(random.standard_normal(shape))
        return total * sizes / sizes.sum(axis=-1, keepdims=True)

    return drawn(draw)


def labels(n, n_classes):
    """Integer labels in 0 … n_classes − 1."""
    return lambda random, dtype: jnp.asarray(random.integers(0, n_classes, n))


def mask(*shape, share=0.7):
    """Booleans of which about this fraction is true."""
    return lambda random, dtype: jnp.asarray(random.random(shape) < share)


def constant(values):
    """The same numbers always, bounded by the range of the dtype."""

    def make(random, dtype):
        array = jnp.asarray(values)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        largest = float(jnp.finfo(dtype).max)
        return jnp.clip(array, -largest, largest).astype(dtype)

    return make


def params(**makers):
    """A dict of arrays."""

    def make(random, dtype):
        return {name: maker(random, dtype) for name, maker in makers.items()}

    return make


def omitted(random, dtype):
    """No argument, where an op has an optional one."""


def case(name, *makers, **options) -> Case:
    """A case of one maker for each positional argument."""

    def arguments(seed, dtype):
        random = np.random.default_rng(seed)
        return tuple(make(random, dtype) for make in makers)

    return Case(name, arguments, options)
