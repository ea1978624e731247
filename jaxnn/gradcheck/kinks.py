"""Points where a function is not smooth: any gradient between the one-sided slopes is right."""

from collections.abc import Callable

import numpy as np

MOST_NAMED = 8


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
        slopes_at: maps an index to the slopes on its left and right.
        most: the largest number of indices to try.

    Returns:
        The indices, or an empty list if an entry is wrong at no kink.
    """
    indices = [tuple(int(i) for i in index) for index in np.argwhere(differs(mine, truth, bound))]
    if most is not None and len(indices) > most:
        return []
    for index in indices:
        if not lie_between(np.asarray(mine[index]), np.array(slopes_at(index))):
            return []
    return indices


def differs(mine: np.ndarray, truth: np.ndarray, bound: float) -> np.ndarray:
    """Where a gradient differs from the truth by more than a fraction of the largest entry."""
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    return np.asarray(~(np.abs(mine - truth) <= bound * scale))


def lie_between(mine: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Whether entries of a gradient lie between one-sided slopes that differ.

    Args:
        mine: the entries.
        slopes: the slopes to the left and to the right, along the last axis.
    """
    low, high = slopes.min(-1), slopes.max(-1)
    slack = 1e-3 * np.maximum(abs(low), abs(high))
    return np.asarray((high - low > slack) & (low - slack <= mine) & (mine <= high + slack))


def note_on_kinks(path: str, indices: list[tuple[int, ...]]) -> str:
    """The sentence of a report about the kinks of an array."""
    places = ", ".join(place(path, index) for index in indices[:MOST_NAMED])
    if len(indices) > MOST_NAMED:
        places += f" and {len(indices) - MOST_NAMED} other entries"
    return (
        f"not smooth here: at {places} the function has a kink, and the gradient lies "
        "between its one-sided slopes"
    )


def place(path: str, index: tuple[int, ...]) -> str:
    """The source text for an entry of an array."""
    return f"{path}{list(index)}" if index else path
