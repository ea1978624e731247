"""Mistakes that are recognised from a leaf alone, made on purpose, beside the recomputed ones."""

from collections.abc import Callable
from functools import partial

import numpy as np

from jaxnn.gradcheck.diagnosis.hypotheses import STRUCTURAL, Hypothesis
from jaxnn.gradcheck.diagnosis.tape import Trace, is_weight


def _planted(change: Callable, trace: Trace):
    """The truth with every leaf changed, then with each leaf changed alone.

    `change(trace, i, leaf, delta)` gives the wrong leaf, or `None` where it makes no sense.
    """
    leaves, deltas = trace.truth
    changed = [change(trace, i, leaf, deltas[i]) for i, leaf in enumerate(leaves)]
    places = [i for i, wrong in enumerate(changed) if wrong is not None]
    for chosen in ([places] if len(places) > 1 else []) + [[i] for i in places]:
        wrong = [changed[i] if i in chosen else leaf for i, leaf in enumerate(leaves)]
        yield trace.truth._replace(leaves=wrong)


def _of_bias(array: Callable):
    return lambda trace, i, leaf, delta: array(delta) if leaf.ndim == 1 else None


def _times(factor: Callable):
    def change(trace, i, leaf, delta):
        c = factor(trace)
        return None if c in (None, 1) else c * leaf

    return change


def _transposed(trace, i, leaf, delta):
    return leaf.T if leaf.ndim == 2 else None


def _with_nan(trace, i, leaf, delta):
    return np.where(np.arange(leaf.size).reshape(leaf.shape) == leaf.size // 2, np.nan, leaf)


def _without_last(axis):
    def change(trace, i, leaf, delta):
        if axis >= leaf.ndim or leaf.shape[axis] < 2:
            return None
        last = np.moveaxis(leaf.copy(), axis, 0)
        last[-1] = 0
        return np.moveaxis(last, 0, axis)

    return change


def _plus_parameter(weights):
    def change(trace, i, leaf, delta):
        return leaf + 0.03 * trace.params[i] if is_weight(trace.paths[i]) == weights else None

    return change


def _outputs(factor):
    """A factor of N and K, where there is more than one output."""

    def of(trace):
        k = trace.prediction.shape[-1]
        return factor(trace.n, k) if k > 1 else None

    return of


def _rate(sign):
    return lambda trace: trace.learning_rate and sign * trace.learning_rate


LEAFWISE: tuple[Hypothesis, ...] = tuple(
    Hypothesis(mistake, variant, partial(_planted, change))
    for mistake, variant, change in (
        ("S1", "dWᵀ", _transposed),
        ("S2", "δ", _of_bias(lambda delta: delta)),
        ("S3", "summed over the units", _of_bias(lambda delta: delta.sum(axis=1))),
        ("S3", "summed over everything", _of_bias(np.sum)),
        ("S4", "keepdims", _of_bias(lambda delta: delta.sum(axis=0, keepdims=True))),
        ("C1", "−1", _times(lambda trace: -1)),
        ("C2", "N", _times(lambda trace: trace.n)),
        ("C3", "1/N", _times(lambda trace: 1 / trace.n)),
        ("C5", "2", _times(lambda trace: 2)),
        ("C5", "½", _times(lambda trace: 0.5)),
        ("C6", "K", _times(_outputs(lambda n, k: k))),
        ("C6", "1/K", _times(_outputs(lambda n, k: 1 / k))),
        ("C6", "N·K", _times(_outputs(lambda n, k: n * k))),
        ("C6", "1/(N·K)", _times(_outputs(lambda n, k: 1 / (n * k)))),
        ("C7", "η", _times(_rate(1))),
        ("C7", "−η", _times(_rate(-1))),
        ("C8", "4", _times(lambda trace: 4)),
        ("C8", "N/2", _times(lambda trace: trace.n / 2)),
        ("C8", "−N", _times(lambda trace: -trace.n)),
        ("Z1", "zero", lambda trace, i, leaf, delta: np.zeros_like(leaf)),
        ("Z2", "NaN", _with_nan),
        ("Z3", "the last row", _without_last(0)),
        ("Z3", "the last column", _without_last(1)),
        ("R1", "a term of the weight", _plus_parameter(True)),
        ("R1", "a term of the bias", _plus_parameter(False)),
    )
)
"""Mistakes in leaves alone."""

PLANTS: tuple[Hypothesis, ...] = LEAFWISE + STRUCTURAL
"""Every mistake that can be planted, in every reading."""
