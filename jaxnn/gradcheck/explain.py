"""How a wrong gradient differs from the true one, in one sentence."""

import numpy as np

SAME = 1e-3


def explain(mine: np.ndarray, truth: np.ndarray, sizes: dict[str, int]) -> str:
    """Describe a wrong gradient in terms of the true one.

    Args:
        mine: the gradient.
        truth: the true one, of any shape.
        sizes: the numbers that a wrong factor may stem from, by their meaning, such as
            `{"the size of axis 0 of x": 64}`.

    Returns:
        The end of a sentence that begins with the gradient's name, or "" if no pattern fits.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck.explain import explain
        >>> explain(np.array([14.0, 21.0]), np.array([2.0, 3.0]), {"the batch size": 7})
        'is 7 × the true gradient everywhere, and 7 is the batch size: the 1/N of a mean is missing'
    """
    if mine.shape != truth.shape:
        return _other_shape(mine, truth)
    if not truth.any() or not np.isfinite(mine).all():
        return ""
    if not mine.any():
        return "is zero everywhere: it was never computed, or the way to it is cut"
    factor = float(np.sum(mine * truth) / np.sum(truth * truth))
    if _alike(mine, factor * truth):
        return _scaled(factor, sizes)
    if mine.ndim == 2 and mine.shape[0] == mine.shape[1] and _alike(mine.T, truth):
        return "is the transpose of the true gradient"
    return _partly(mine, truth)


def _other_shape(mine, truth) -> str:
    if mine.shape == truth.shape[::-1] and _alike(mine.T, truth):
        return "is the transpose of the true gradient"
    for axis in range(mine.ndim):
        summed = mine.sum(axis)
        if summed.shape == truth.shape and _alike(summed, truth):
            if mine.shape[axis] == 1:
                return f"has the right numbers, but keeps axis {axis}, which was summed"
            return f"is not summed over axis {axis}: every entry there shares one argument"
    if mine.ndim == 0 and _alike(mine, truth.sum()):
        return "is summed over everything"
    return ""


def _scaled(factor, sizes) -> str:
    if _near(factor, -1):
        return "is the true gradient with the opposite sign: a difference is the wrong way round"
    times = f"is {factor:.3g} × the true gradient everywhere"
    for what, size in sizes.items():
        if size > 2 and _near(abs(factor), size):
            return f"{times}, and {size} is {what}: the 1/N of a mean is missing"
        if size > 2 and _near(abs(factor), 1 / size):
            return (
                f"{times}, and 1/{size} is one over {what}: it is divided once too often, or a "
                "mean stands where a sum should"
            )
    if _near(factor, 2):
        return f"{times}: a ½ is missing, or a 2 is too much"
    if _near(factor, 0.5):
        return f"{times}: a 2 is missing, or a ½ is too much"
    return times


def _partly(mine, truth) -> str:
    scale = max(np.abs(truth).max(), np.abs(mine).max())
    wrong = np.abs(mine - truth) > SAME * scale
    if 0 < wrong.mean() <= 0.5:
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        zero = " and zero there" if not mine[wrong].any() else ""
        return (
            f"is wrong{zero} at {wrong.sum()} of {wrong.size} entries, the first at index {first}"
        )
    cosine = np.sum(mine * truth) / (np.linalg.norm(mine) * np.linalg.norm(truth))
    return f"points elsewhere: the cosine with the true gradient is {cosine:.2f}"


def _alike(mine, truth) -> bool:
    return bool(np.linalg.norm(mine - truth) <= SAME * np.linalg.norm(truth))


def _near(number, wanted) -> bool:
    return abs(number - wanted) <= SAME * abs(wanted)
