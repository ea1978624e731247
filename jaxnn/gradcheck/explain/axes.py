"""Sets of axes and comparisons of arrays, shared by all explanations."""

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np


def subsets(ndim: int) -> Iterator[tuple[int, ...]]:
    """The non-empty sets of axes, the small ones first."""
    return chain.from_iterable(combinations(range(ndim), k) for k in range(1, ndim + 1))


def on_axes(axes: tuple[int, ...]) -> str:
    """Axes as text: "axis 0", "axes 0, 2 and 3"."""
    if len(axes) == 1:
        return f"axis {axes[0]}"
    return f"axes {', '.join(map(str, axes[:-1]))} and {axes[-1]}"


def near(a, b, tolerance: float) -> bool:
    """Whether two arrays agree to a relative tolerance."""
    a, b = np.broadcast_arrays(a, b)
    return bool(np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b))


def broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    """Whether multiplying by an array of one shape keeps the other shape."""
    try:
        return np.broadcast_shapes(shape, onto) == tuple(onto)
    except ValueError:
        return False
