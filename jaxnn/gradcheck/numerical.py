"""Derivatives by differences, for functions that JAX cannot trace."""

from collections.abc import Callable, Sequence

import numpy as np

COMPLEX_STEP = 1e-20
STEP = 1e-3


def gradient(
    function: Callable, args: Sequence[np.ndarray], dy: np.ndarray
) -> tuple[list[np.ndarray | None], float]:
    """The gradient of ⟨dy, function(*args)⟩ for each floating-point argument.

    Where the function takes complex numbers and its parts stay analytic, by the complex step,
    f'(x) = Im f(x + ih)/h, which has no cancellation; else by five points,
    f'(x) ≈ (f(x − 2h) − 8·f(x − h) + 8·f(x + h) − f(x + 2h))/12h, at two steps that tell the error.

    Args:
        function: from arrays to an array; it is called with copies.
        args: the arguments, in float64 where they are floating point.
        dy: the cotangent.

    Returns:
        A gradient for each argument (`None` where it is not floating point), and an estimate of
        their relative error.
    """

    def objective(changed):
        return np.sum(dy * np.asarray(function(*(np.array(a) for a in changed))))

    floating = [np.issubdtype(np.asarray(a).dtype, np.floating) for a in args]
    coarse, fine, complexes = [], [], []
    analytic = _takes_complex(function, args, floating)
    for k, arg in enumerate(args):
        if not floating[k]:
            coarse.append(None)
            fine.append(None)
            complexes.append(None)
            continue
        moved = _Mover(objective, args, k)
        coarse.append(_each(arg, lambda i, moved=moved: _five_points(moved, i, 2 * STEP)))
        fine.append(_each(arg, lambda i, moved=moved: _five_points(moved, i, STEP)))
        if analytic:
            complexes.append(
                _each(arg, lambda i, moved=moved: moved(i, 1j * COMPLEX_STEP).imag / COMPLEX_STEP)
            )
    scale = max((np.abs(g).max(initial=0) for g in fine if g is not None), default=0) or 1.0
    if analytic and _furthest(complexes, fine) <= 1e-6 * scale:
        return complexes, 1e-14
    return fine, max(_furthest(coarse, fine) / scale, 1e-12)


class _Mover:
    """The objective as a function of a shift of one entry of one argument."""

    def __init__(self, objective, args, which):
        self.objective, self.args, self.which = objective, list(args), which

    def __call__(self, index, shift):
        kind = complex if isinstance(shift, complex) else float
        args = [np.array(a, dtype=kind) if i == self.which else a for i, a in enumerate(self.args)]
        args[self.which][index] += shift
        return self.objective(args)


def _five_points(moved, index, step):
    left = moved(index, -2 * step) - 8 * moved(index, -step)
    return (left + 8 * moved(index, step) - moved(index, 2 * step)) / (12 * step)


def _each(arg, derivative):
    return np.array([derivative(i) for i in np.ndindex(np.shape(arg))]).reshape(np.shape(arg))


def _furthest(some, others) -> float:
    return max(
        (np.abs(a - b).max(initial=0) for a, b in zip(some, others, strict=True) if a is not None),
        default=0.0,
    )


def _takes_complex(function, args, floating) -> bool:
    """Whether the function turns complex arguments into complex values without a complaint."""
    changed = [np.array(a, complex) if f else a for a, f in zip(args, floating, strict=True)]
    try:
        with np.errstate(all="ignore"):
            return np.iscomplexobj(function(*changed))
    except Exception:
        return False
