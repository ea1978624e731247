"""Products and sums of the wrong arrays or over the wrong axes."""

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np

from jaxnn.gradcheck.explain.evidence import Arrays, Comparison, Evidence, Hypothesis

MOST_FACTORS = 14
MOST_ENTRIES = 200_000


def of_products(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """Matrix products of other arrays, and sums of the cotangent over other axes.

    Args:
        comparison: the gradient and the truth.
        leaf: the path of the argument.
        evidence: of its gradient.
    """
    named = _named(leaf, evidence)
    if sum(array.size for array in named.values()) > MOST_ENTRIES:
        return
    yield from _sums(comparison, named)
    if comparison.mine.ndim == 2:
        yield from _matrix_products(comparison, named)


def _named(leaf, evidence) -> Arrays:
    single = len(evidence.dy) == 1
    named = {"dy" if single else f"the cotangent {i}": dy for i, dy in enumerate(evidence.dy)}
    named |= evidence.arrays
    named |= {
        evidence.output_name if single else f"output {i}": y for i, y in enumerate(evidence.y)
    }
    return {name: array for name, array in named.items() if array.dtype.kind == "f"}


def _matrix_products(comparison, named) -> Iterator[Hypothesis]:
    """Products of two matrices other than the true gradient."""
    found = list(_pairs(comparison.truth.shape, named))
    right = next((words for words, product in found if _alike(comparison, product)), None)
    if right is None and comparison.truth.shape == comparison.mine.shape:
        return
    wrong = (
        found
        if comparison.truth.shape == comparison.mine.shape
        else _pairs(comparison.mine.shape, named)
    )
    instead = f", but the true gradient is {right}" if right else ""
    for words, product in wrong:
        yield Hypothesis(product, f"is {words}{instead}", "", True)


def _alike(comparison, product) -> bool:
    return comparison.alike(product, comparison.truth)


def _pairs(shape, named) -> Iterator[tuple[str, np.ndarray]]:
    """The products of two matrices that have a shape."""
    factors: Arrays = {}
    for name, array in list(named.items())[:MOST_FACTORS]:
        if array.ndim == 2:
            factors |= {name: array, f"{name}ᵀ": array.T}
        elif array.ndim == 1:
            factors |= {name: array[None], f"{name}ᵀ": array[:, None]}
    for a, left in factors.items():
        if left.shape[0] != shape[0]:
            continue
        for b, right in factors.items():
            if left.shape[1] == right.shape[0] and right.shape[1] == shape[1]:
                yield f"{a} @ {b}", left @ right


def _sums(comparison, named) -> Iterator[Hypothesis]:
    """Sums of dy, or of dy times an array, over other axes than the true gradient's."""
    shape = comparison.mine.shape
    terms = dict(_terms(named))
    reduced = [
        (words, axes, total)
        for words, array in terms.items()
        for axes, total in _totals(array)
        if array.ndim
    ]
    right = next(
        (
            (words, axes)
            for words, axes, total in reduced
            if total.size == comparison.truth.size
            and _alike(comparison, total.reshape(comparison.truth.shape))
        ),
        None,
    )
    if right is None:
        return
    truth = f"the true gradient is {_sum_of(*right)}"
    for words, axes, total in reduced:
        if (words, axes) == right:
            continue
        wrong_axis = "S3" if words == right[0] and axes else ""
        said = f"is {_sum_of(words, axes)}, but {truth}"
        if total.size == np.prod(shape, dtype=int):
            yield Hypothesis(total.reshape(shape), said, wrong_axis, True)
        elif total.size == 1:
            yield Hypothesis(
                np.full(shape, total.ravel()[0]),
                f"{said}: it is summed over everything",
                wrong_axis,
                True,
            )
    if right[1]:
        yield from _of_one(terms[right[0]], right, shape)


def _of_one(array, right, shape) -> Iterator[Hypothesis]:
    """A single term, or the largest one, instead of the sum."""
    words, axes = right
    if len(axes) != 1 or not array.shape[axes[0]]:
        return
    last = array.shape[axes[0]] - 1
    for index, example in ((0, "the first example"), (last, "the last example")):
        one = array.take(index, axes[0])
        said = (
            f"contains only {example}, {words} at index {index} of axis {axes[0]}: it is not summed"
        )
        if one.size == np.prod(shape, dtype=int):
            yield Hypothesis(one.reshape(shape), said, "D5", True)
        without = array.sum(axes[0]) - one
        if without.size == np.prod(shape, dtype=int):
            yield Hypothesis(
                without.reshape(shape), f"lacks {example} in its sum over axis {axes[0]}", "D5"
            )
    for largest, name in ((array.max(axes[0]), "maximum"), (np.median(array, axes[0]), "median")):
        if largest.size == np.prod(shape, dtype=int):
            yield Hypothesis(
                largest.reshape(shape), f"is the {name} of {words} over axis {axes[0]}, not the sum"
            )


def _terms(named) -> Iterator[tuple[str, np.ndarray]]:
    dy_name, dy = next(iter(named.items()), ("", None))
    if dy is None or dy.size < 2:
        return
    yield dy_name, dy
    for name, array in named.items():
        if name != dy_name and array.shape == dy.shape:
            yield f"{dy_name} × {name}", dy * array
    yield f"|{dy_name}|", np.abs(dy)
    yield f"{dy_name}²", dy**2
    for name, array in named.items():
        if array.shape == dy.shape:
            yield name, array
    yield "1", np.ones_like(dy)


def _totals(array) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    subsets = chain.from_iterable(combinations(range(array.ndim), k) for k in range(array.ndim + 1))
    for axes in subsets:
        yield axes, array.sum(axes) if axes else array


def _sum_of(words, axes) -> str:
    if not axes:
        return words
    axis = "axis" if len(axes) == 1 else "axes"
    return f"the sum of {words} over {axis} {' and '.join(map(str, axes))}"
