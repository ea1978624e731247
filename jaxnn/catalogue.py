"""Every op with example arguments: what the tests, the benchmark and the tables iterate over.

A new op is one function triple and one entry here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxnn
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


def case(name, *makers, **options) -> Case:
    """A case of one maker for each positional argument."""

    def arguments(key, dtype):
        keys = jax.random.split(key, len(makers))
        return tuple(make(k, dtype) for make, k in zip(makers, keys, strict=True))

    return Case(name, arguments, options)


EXTREMES = [-1e30, -1e4, -100.0, -20.0, -1e-30, -0.0, 0.0, 1e-30, 20.0, 100.0, 1e4, 1e30]


def _activation(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    return Entry(
        op,
        cases=tuple(case(str(options or "plain"), normal(7, 5), **options) for options in sets),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("extremes", constant(EXTREMES), **options),
                case("one number", constant(0.5), **options),
                case("empty batch", normal(0, 5), **options),
            )
        ),
        benchmark=case("(4096, 3072)", normal(4096, 3072)),
    )


def _normaliser(op: Op) -> Entry:
    saturated = [[1e4, 0.0, -1e4], [-1e30, 1e30, 0.0], [3.0, 3.0, 3.0], [20.0, 0.0, 0.0]]
    return Entry(
        op,
        cases=(
            case("last axis", normal(7, 5)),
            case("first axis", normal(7, 5), axis=0),
            case("middle axis", normal(7, 5, 3), axis=-2),
        ),
        hard=(
            case("saturated and tied", constant(saturated)),
            case("shifted by 1e4", constant([[1e4, 1e4 + 1, 1e4 - 2]])),
            case("one class", normal(7, 1)),
            case("empty batch", normal(0, 5)),
        ),
        benchmark=case("(2048, 1024)", normal(2048, 1024)),
    )


def _regression_loss(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    near = [[0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 1e-30]]
    return Entry(
        op,
        cases=(
            *(
                case(str(options or "plain"), normal(7, 5), normal(7, 5), **options)
                for options in sets
            ),
            case("two batch axes", normal(7, 5, 3), normal(7, 5, 3)),
        ),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("kinks and extremes", constant(near), constant([[0.0] * 7]), **options),
                case("exactly right", constant([[1e4, 2.0]]), constant([[1e4, 2.0]]), **options),
                case("one component", normal(7, 1), normal(7, 1), **options),
                case("empty batch", normal(0, 5), normal(0, 5), **options),
            )
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
    )


CONFIDENT = [[30.0, 0.0, 0.0], [0.0, 100.0, 0.0], [1e4, 1e4, 0.0], [5.0, 5.0, 5.0], [0, 1e30, 0]]
SHIFTED = [[1e4, 1e4 + 1, 1e4 - 2], [-1e4, -1e4, -1e4 + 4]]
ONE_HOT = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
CERTAIN = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
BINARY_LOGITS = [[-1e4, -20.0, 0.0, 20.0, 1e4], [-1e4, -20.0, 0.0, 20.0, 1e4]]
BINARY_TARGET = [[0.0] * 5, [1.0] * 5]

ENTRIES = (
    Entry(
        jaxnn.linear,
        cases=(
            case("with bias", params(w=normal(5, 6), b=normal(6)), normal(7, 5)),
            case("no bias", params(w=normal(5, 6)), normal(7, 5)),
            case("two batch axes", params(w=normal(5, 6), b=normal(6)), normal(7, 3, 5)),
            case("no batch axis", params(w=normal(5, 6), b=normal(6)), normal(5)),
        ),
        hard=(
            case("offset 1e4", params(w=normal(5, 6), b=normal(6)), normal(7, 5, scale=1e4)),
            case("zeros", params(w=constant([[0.0] * 6] * 5)), constant([[0.0] * 5])),
            case("one of each", params(w=normal(1, 1), b=normal(1)), normal(1, 1)),
            case("empty batch", params(w=normal(5, 6), b=normal(6)), normal(0, 5)),
        ),
        benchmark=case(
            "(1024, 768) to 3072", params(w=normal(768, 3072), b=normal(3072)), normal(1024, 768)
        ),
    ),
    _activation(jaxnn.identity),
    _activation(jaxnn.sigmoid),
    _activation(jaxnn.tanh),
    _activation(jaxnn.relu),
    _activation(jaxnn.leaky_relu, {}, {"slope": 0.2}, {"slope": 0.0}),
    _activation(jaxnn.elu, {}, {"alpha": 0.5}),
    _activation(jaxnn.softplus),
    _activation(jaxnn.silu),
    _activation(jaxnn.gelu, {"approximate": True}, {"approximate": False}),
    _normaliser(jaxnn.softmax),
    _normaliser(jaxnn.log_softmax),
    _regression_loss(jaxnn.squared_error),
    _regression_loss(jaxnn.half_squared_error),
    _regression_loss(jaxnn.absolute_error),
    _regression_loss(jaxnn.huber, {}, {"delta": 0.25}),
    Entry(
        jaxnn.cross_entropy,
        cases=(
            case("labels", probabilities(7, 3), labels(7, 3)),
            case("distribution", probabilities(7, 3), probabilities(7, 3)),
        ),
        hard=(
            case("certain", constant(CERTAIN), constant([0, 0, 2])),
            case("certain, one-hot", constant(CERTAIN), constant(ONE_HOT[:3])),
            case("one class", probabilities(7, 1), labels(7, 1)),
            case("empty batch", probabilities(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", probabilities(4096, 1000), labels(4096, 1000)),
    ),
    Entry(
        jaxnn.binary_cross_entropy,
        cases=(case("soft target", probabilities(7, 3), probabilities(7, 3)),),
        hard=(
            case("certain", constant(CERTAIN), constant(ONE_HOT[:3])),
            case("one output", constant([[0.25], [1.0]]), constant([[1.0], [1.0]])),
            case("empty batch", probabilities(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", probabilities(4096, 1000), probabilities(4096, 1000)),
    ),
    Entry(
        jaxnn.sigmoid_cross_entropy,
        cases=(case("soft target", normal(7, 3), probabilities(7, 3)),),
        hard=(
            case("saturated", constant(BINARY_LOGITS), constant(BINARY_TARGET)),
            case("one output", normal(7, 1), constant([[1.0]] * 7)),
            case("empty batch", normal(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), probabilities(4096, 1000)),
    ),
    Entry(
        jaxnn.softmax_cross_entropy,
        cases=(
            case("labels", normal(7, 3), labels(7, 3)),
            case("distribution", normal(7, 3), probabilities(7, 3)),
            case("smoothed labels", normal(7, 3), labels(7, 3), label_smoothing=0.1),
            case("smoothed distribution", normal(7, 3), probabilities(7, 3), label_smoothing=0.3),
            case("ignored label", normal(7, 3), constant([0, 1, -1, 2, -1, 0, 2]), ignore_label=-1),
            case("rows sum to 2", normal(7, 3), lambda k, d: 2 * probabilities(7, 3)(k, d)),
        ),
        hard=(
            case("confident", constant(CONFIDENT), constant([0, 1, 2, 0, 1])),
            case("confident, one-hot", constant(CONFIDENT), constant(ONE_HOT)),
            case("confidently wrong", constant(CONFIDENT), constant([1, 2, 0, 0, 0])),
            case("shifted by 1e4", constant(SHIFTED), constant([0, 2])),
            case("one class", normal(7, 1), labels(7, 1)),
            case("empty batch", normal(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000)),
    ),
)
