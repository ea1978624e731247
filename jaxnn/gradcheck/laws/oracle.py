"""The reference for a backward, in float64: autodiff or, where it fails, finite differences."""

import time
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.arrays import is_differentiable
from jaxnn.gradcheck.laws.program import Program

STEPS = np.array([1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5])
FIVE_POINTS = np.array([-2.0, -1.0, 1.0, 2.0])
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12
ONE_SIDED_STEP = 1e-6
SECONDS = 2.0  # for the differences of one argument
FEWEST = 32
UNRELIABLE = 1e-2
LOOP_ERROR = 5e-5  # of a function that iterates until convergence


class Truth(NamedTuple):
    """The true values and gradients of a function at some arguments, in float64.

    Attributes:
        y: the values, a list of leaves.
        grads: the gradient of each variable; entries that were not computed are NaN.
        errors: an estimate of the relative error of each gradient: 0 for autodiff.
    """

    y: list[np.ndarray]
    grads: list[np.ndarray]
    errors: list[float]


def truth(program: Program, leaves: list, dy: list, *, trusted: bool = True) -> Truth:
    """Values and gradients of a program in float64.

    Args:
        program: the program.
        leaves: its arguments, in float64.
        dy: the cotangents of its values, in float64.
        trusted: whether the derivative rules within the program are trusted. If not, autodiff must
            agree with differences at a few entries, unless the program stops gradients.
    """
    try:
        found = _by_autodiff(*program.wide_pulled_back(leaves, dy))
        if trusted or _is_confirmed(program, leaves, dy, found):
            return found
        if program.stops_gradients:
            return _by_autodiff(*program.wide_pulled_back_without_rules(leaves, dy))
    except Exception:  # no reverse mode: a loop, a callback, a kernel, a missing rule
        pass
    y = [*map(np.asarray, program.wide_value(leaves))]
    slopes = [_gradient(program, leaves, dy, which) for which in program.variables]
    grads, errors = ([*column] for column in zip(*slopes, strict=True))
    if not program.iterates:
        return Truth(y, grads, [max(error, float(np.finfo(float).eps)) for error in errors])
    scale = _norm(y) * _norm(dy)
    for k, which in enumerate(program.variables):
        if _norm([grads[k]]) * max(_norm([leaves[which]]), 1.0) <= LOOP_ERROR * scale:
            grads[k] = np.zeros_like(grads[k])  # the initial value of an iteration
    return Truth(y, grads, [max(error, LOOP_ERROR) for error in errors])


def one_sided_slopes(
    program: Program, leaves, dy, which: int, places, step: float = ONE_SIDED_STEP
) -> np.ndarray:
    """The slopes of ⟨dy, f⟩ to the left and to the right of entries, an array of two columns.

    Args:
        program: the program of f.
        leaves: its arguments, in float64.
        dy: the cotangents of its values.
        which: the position of an argument.
        places: flat indices of entries of that argument.
        step: the distance over which to measure the slopes.
    """
    steps = np.tile([-step, step], len(places))
    changes = program.wide_moved(leaves, dy, which, np.repeat(places, 2), steps)
    return (changes / steps).reshape(-1, 2)


def most_places(program: Program, leaves, dy, which: int, evaluations: int) -> int:
    """The number of entries whose evaluations fit in the time limit."""
    probe = np.zeros(1, int), np.full(1, ONE_SIDED_STEP)
    program.wide_moved(leaves, dy, which, *probe)
    start = time.perf_counter()
    program.wide_moved(leaves, dy, which, *probe)
    return int(SECONDS / (time.perf_counter() - start) / evaluations)


def _norm(leaves) -> float:
    """The norm of the floating-point numbers of some arrays."""
    return float(np.sqrt(sum(np.sum(np.abs(a) ** 2) for a in leaves if is_differentiable(a))))


def _by_autodiff(y, grads) -> Truth:
    return Truth([*map(np.asarray, y)], [*map(np.asarray, grads)], [0.0] * len(grads))


def _is_confirmed(program, leaves, dy, found) -> bool:
    """Whether differences agree with a gradient at its largest entry and a few others."""
    for which, grad in zip(program.variables, found.grads, strict=True):
        if not grad.size:
            continue
        places = np.random.default_rng(0).permutation(grad.size)[:7]
        places = np.append(places, np.argmax(np.abs(np.nan_to_num(grad))))
        slopes, changes = _slopes(program, leaves, dy, which, places)
        scale = np.abs(grad).max() + np.abs(slopes).max()
        if not (np.abs(grad.reshape(-1)[places] - slopes) <= 1e-5 * scale + 4 * changes).all():
            return False
    return True


def _gradient(program, leaves, dy, which) -> tuple[np.ndarray, float]:
    """The gradient of one argument by differences, at as many entries as time allows."""
    shape, dtype = np.shape(leaves[which]), leaves[which].dtype
    size = int(np.prod(shape))
    grad = np.full(size, np.nan, dtype)
    if not size:
        return grad.reshape(shape), 0.0
    evaluations = len(STEPS) * len(FIVE_POINTS) * (2 if np.iscomplexobj(grad) else 1)
    most = max(most_places(program, leaves, dy, which, evaluations), FEWEST)
    places = np.arange(size)
    if size > most:
        places = np.sort(np.random.default_rng(0).permutation(size)[:most])
    slopes, changes = _slopes(program, leaves, dy, which, places)
    norm = float(np.linalg.norm(slopes))
    typical = float(np.quantile(changes, 0.9) * np.sqrt(len(places)))
    error = typical / norm if norm > typical else typical
    if error <= UNRELIABLE:
        grad[places] = slopes if norm > typical else 0
    return grad.reshape(shape), error


def _slopes(program, leaves, dy, which, places) -> tuple[np.ndarray, np.ndarray]:
    """The derivatives at some entries by the five-point formula, and how much they change.

    JAX's gradient of a complex argument is ∂/∂Re − i·∂/∂Im.
    """
    slopes, changes = _along(program, leaves, dy, which, places, 1)
    if np.iscomplexobj(leaves[which]):
        across, more = _along(program, leaves, dy, which, places, 1j)
        return slopes - 1j * across, changes + more
    return slopes, changes


def _along(program, leaves, dy, which, places, unit):
    offsets = (STEPS[:, None] * FIVE_POINTS).ravel() * unit
    steps = np.tile(offsets, len(places))
    moved = program.wide_moved(leaves, dy, which, np.repeat(places, len(offsets)), steps)
    estimates = moved.reshape(len(places), len(STEPS), -1) @ WEIGHTS / STEPS
    changes = np.nan_to_num(np.abs(np.diff(estimates, axis=1)), nan=np.inf)
    best = np.argmin(changes, axis=1)[:, None]
    return (
        np.take_along_axis(estimates, best + 1, 1)[:, 0],
        np.take_along_axis(changes, best, 1)[:, 0],
    )
