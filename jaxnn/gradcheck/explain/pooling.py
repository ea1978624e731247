"""Pooling, recognised by its values, and its known mistakes."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from jaxnn.gradcheck.explain.axes import near
from jaxnn.gradcheck.explain.evidence import Evidence, Hypothesis

SAME = 1e-6


def of_pooling(leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients produced by mistakes in a maximum or a mean over windows or over an axis.

    Args:
        leaf: the path of the argument.
        evidence: of its gradient.
    """
    x = evidence.arrays.get(leaf)
    if not evidence.is_one_array or x is None or x.size <= evidence.y[0].size:
        return
    y, dy = evidence.y[0], evidence.dy[0]
    for axis in range(x.ndim):
        if x.size == y.size * x.shape[axis] and near(x.max(axis).ravel(), y.ravel(), SAME):
            shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
            factors = [n if a == axis else 1 for a, n in enumerate(x.shape)]
            yield from _of_maxima(x, dy.reshape(shape), factors)
            return
    if x.ndim != y.ndim or any(n % max(k, 1) for n, k in zip(x.shape, y.shape, strict=True)):
        return
    factors = [n // max(k, 1) for n, k in zip(x.shape, y.shape, strict=True)]
    if near(_windows(x, factors).max(-1), y, SAME):
        yield from _of_maxima(x, dy, factors)
    elif near(_windows(x, factors).mean(-1), y, SAME):
        yield from _of_means(x, dy, factors)


def _of_maxima(x, dy, factors) -> Iterator[Hypothesis]:
    spread, size = _spread(dy, factors), int(np.prod(factors))
    windows = _windows(x, factors)
    largest = x == _spread(windows.max(-1), factors)
    smallest = x == _spread(windows.min(-1), factors)
    for gradient, words, mistake in (
        (spread / size, "is spread evenly, as for an average, not routed to the maximum", ""),
        (spread, "is dy at every entry, not only at the maximum: the mask is missing", "A1"),
        (
            np.where(largest, 0, spread),
            "is zero at the maximum and dy elsewhere: the mask is inverted (the wrong way round)",
            "A3",
        ),
        (largest * 1.0, "is the mask of the maxima, without dy", ""),
        (np.where(smallest, spread, 0), "is routed to the minimum, not to the maximum", "A3"),
        (largest * x * spread, "is multiplied by the maximum as well", "A3"),
    ):
        yield Hypothesis(gradient, words, mistake)
    yield from _to_one_place(spread, factors)


def _of_means(x, dy, factors) -> Iterator[Hypothesis]:
    spread = _spread(dy, factors)
    largest = x == _spread(_windows(x, factors).max(-1), factors)
    to_largest = "is routed to the maximum of each window, as in max pooling, not spread evenly"
    yield Hypothesis(np.where(largest, spread, 0), to_largest)
    yield from _to_one_place(spread, factors)


def _to_one_place(spread, factors) -> Iterator[Hypothesis]:
    """The gradient routed to a fixed position in each window, regardless of the values."""
    places = [np.arange(n) % f for n, f in zip(spread.shape, factors, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    for name, offsets in (("first", [0] * len(factors)), ("last", [f - 1 for f in factors])):
        chosen = np.all([g == offset for g, offset in zip(grid, offsets, strict=True)], axis=0)
        words = f"is routed to the {name} entry of each window"
        yield Hypothesis(np.where(chosen, spread, 0), words, "", True)


def _windows(x, factors) -> np.ndarray:
    """The entries of each window along a last axis."""
    shape = list(chain(*((n // f, f) for n, f in zip(x.shape, factors, strict=True))))
    order = [*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)]
    windows = x.reshape(shape).transpose(order)
    return windows.reshape(*windows.shape[: x.ndim], -1)


def _spread(y, factors) -> np.ndarray:
    """One value per window, repeated over all entries of the window."""
    for axis, factor in enumerate(factors):
        y = y.repeat(factor, axis)
    return y
