"""Derivatives by finite differences, for functions that JAX cannot trace."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

COMPLEX_STEP = 1e-20
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)


def gradient_by_differences(
    function: Callable, args: Sequence[np.ndarray], dy: np.ndarray
) -> tuple[list[np.ndarray | None], float]:
    """The gradient of ⟨dy, function(*args)⟩ for each floating-point argument.

    The complex step, f'(x) = Im f(x + ih)/h, suffers no cancellation. If the function does not
    accept complex numbers, or is not analytic (tested along a random direction), the five-point
    formula f'(x) ≈ (f(x − 2h) − 8·f(x − h) + 8·f(x + h) − f(x + 2h))/12h replaces it, with the
    step h at which the result changes least.

    Args:
        function: maps arrays to an array; it is called with copies.
        args: the arguments; floating-point ones must be in float64.
        dy: the cotangent.

    Returns:
        A gradient for each argument (`None` if it is not floating point), and an estimate of
        the relative error of a typical entry.
    """
    args = [np.asarray(arg) for arg in args]
    grads: list[np.ndarray | None] = []
    error = 1e-14
    for k, arg in enumerate(args):
        if not np.issubdtype(arg.dtype, np.floating):
            grads.append(None)
            continue
        line = _lines(function, args, dy, k)
        grad = _by_complex_step(line, arg.shape)
        if grad is None:
            slopes = np.array([_by_five_points(line(unit)) for unit in _units(arg.shape)])
            grad, change = np.moveaxis(slopes.reshape(*arg.shape, 2), -1, 0)
            error = max(error, float(np.median(change) / (np.abs(grad).max() or 1.0)))
        grads.append(grad)
    return grads, error


def one_sided_slopes(function, args, dy, k, index, step=1e-6) -> tuple[float, float]:
    """The slopes of ⟨dy, function(*args)⟩ to the left and to the right of one entry of args[k]."""
    unit = np.zeros(np.shape(args[k]))
    unit[index] = 1
    moved = _lines(function, args, dy, k)(unit)
    return (moved(0.0) - moved(-step)) / step, (moved(step) - moved(0.0)) / step


def _lines(function, args, dy, k):
    """`direction -> (t -> ⟨dy, function⟩)` on the line through args[k] in that direction."""

    def line(direction):
        def moved(t):
            given = [np.array(arg) for arg in args]
            given[k] = args[k] + t * direction
            with np.errstate(all="ignore"):
                return np.sum(dy * np.asarray(function(*given)))

        return moved

    return line


def _units(shape):
    for index in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[index] = 1
        yield unit


def _by_complex_step(line, shape) -> np.ndarray | None:
    """The gradient, or `None` if the function is not analytic."""

    def slope(direction):
        return np.imag(line(direction)(1j * COMPLEX_STEP)) / COMPLEX_STEP

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            direction = np.random.default_rng(0).normal(size=shape)
            along = slope(direction)
            truth, change = _by_five_points(line(direction))
            if not abs(along - truth) <= 1e-6 * abs(truth) + 10 * change:
                return None
            return np.array([slope(unit) for unit in _units(shape)]).reshape(shape)
        except Exception:
            return None


def _by_five_points(moved) -> tuple[float, float]:
    """The derivative at 0, and how much it changes from one step to the next."""

    def estimate(h):
        left = moved(-2 * h) - 8 * moved(-h)
        return (left + 8 * moved(h) - moved(2 * h)) / (12 * h)

    estimates = np.array([estimate(h) for h in STEPS])
    changes = np.abs(np.diff(estimates))
    best = np.argmin(np.nan_to_num(changes, nan=np.inf))
    return float(estimates[best]), float(changes[best])
