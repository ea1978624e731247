"""Points where a function is not smooth: any gradient between the one-sided slopes is right."""

from collections.abc import Callable

import numpy as np


def at_kinks(
    mine: np.ndarray,
    truth: np.ndarray,
    bound: float,
    slopes_at: Callable[[tuple[int, ...]], tuple[float, float]],
    most: int | None = None,
) -> list[tuple[int, ...]]:
    """The indices at which a gradient differs from the truth, if kinks explain all of them.

    Args:
        mine: the gradient.
        truth: the true one.
        bound: the difference that rounding explains, relative to the largest entry.
        slopes_at: from an index to the slopes on its left and on its right.
        most: the largest number of indices to try.

    Returns:
        The indices, or an empty list if some entry is wrong even so.
    """
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    indices = [
        tuple(int(i) for i in index)
        for index in np.argwhere(~(np.abs(mine - truth) <= bound * scale))
    ]
    if most is not None and len(indices) > most:
        return []
    for index in indices:
        low, high = sorted(slopes_at(index))
        slack = 1e-3 * max(abs(low), abs(high))
        if high - low <= slack or not low - slack <= mine[index] <= high + slack:
            return []
    return indices


def note_on_kinks(path: str, indices: list[tuple[int, ...]]) -> str:
    """The sentence of a report about the kinks of an array."""
    places = ", ".join(place(path, index) for index in indices)
    return (
        f"not smooth here: at {places} the function has a kink, and the gradient given lies "
        "between its one-sided slopes"
    )


def place(path: str, index: tuple[int, ...]) -> str:
    """An entry of an array, as one writes it."""
    return f"{path}{list(index)}" if index else path
