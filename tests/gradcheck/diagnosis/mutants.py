"""Mistakes made on purpose: those that show in a leaf alone, and the recomputed ones."""

from collections.abc import Callable
from functools import partial

import numpy as np

from jaxnn.gradcheck.diagnosis.hypotheses import STRUCTURAL, Hypothesis
from jaxnn.gradcheck.diagnosis.tape import Tape, is_weight


def _planted(change: Callable, tape: Tape):
    """The truth with every leaf changed, then with each leaf changed alone.

    `change(tape, i, leaf, delta)` gives the wrong leaf, or `None` where it makes no sense.
    """
    leaves, deltas = tape.truth
    changed = [change(tape, i, leaf, deltas[i]) for i, leaf in enumerate(leaves)]
    places = [i for i, wrong in enumerate(changed) if wrong is not None]
    for chosen in ([places] if len(places) > 1 else []) + [[i] for i in places]:
        wrong = [changed[i] if i in chosen else leaf for i, leaf in enumerate(leaves)]
        yield tape.truth._replace(leaves=wrong)


def _of_bias(array: Callable):
    return lambda tape, i, leaf, delta: array(delta) if leaf.ndim == 1 else None


def _times(factor: Callable):
    def change(tape, i, leaf, delta):
        c = factor(tape)
        return None if c in (None, 1) else c * leaf

    return change


def _transposed(tape, i, leaf, delta):
    return leaf.T if leaf.ndim == 2 else None


def _with_nan(tape, i, leaf, delta):
    return np.where(np.arange(leaf.size).reshape(leaf.shape) == leaf.size // 2, np.nan, leaf)


def _without_last(axis):
    def change(tape, i, leaf, delta):
        if axis >= leaf.ndim or leaf.shape[axis] < 2:
            return None
        last = np.moveaxis(leaf.copy(), axis, 0)
        last[-1] = 0
        return np.moveaxis(last, 0, axis)

    return change


def _plus_parameter(weights):
    def change(tape, i, leaf, delta):
        return leaf + 0.03 * tape.params[i] if is_weight(tape.paths[i]) == weights else None

    return change


def _outputs(factor):
    """A factor of N and K, where there is more than one output."""

    def of(tape):
        k = tape.prediction.shape[-1]
        return factor(tape.n, k) if k > 1 else None

    return of


def _rate(sign):
    return lambda tape: tape.learning_rate and sign * tape.learning_rate


LEAFWISE: tuple[Hypothesis, ...] = tuple(
    Hypothesis(mistake, variant, partial(_planted, change))
    for mistake, variant, change in (
        ("S1", "dWᵀ", _transposed),
        ("S2", "δ", _of_bias(lambda delta: delta)),
        ("S3", "summed over the units", _of_bias(lambda delta: delta.sum(axis=1))),
        ("S3", "summed over everything", _of_bias(np.sum)),
        ("S4", "keepdims", _of_bias(lambda delta: delta.sum(axis=0, keepdims=True))),
        ("C1", "−1", _times(lambda tape: -1)),
        ("C2", "N", _times(lambda tape: tape.n)),
        ("C3", "1/N", _times(lambda tape: 1 / tape.n)),
        ("C5", "2", _times(lambda tape: 2)),
        ("C5", "½", _times(lambda tape: 0.5)),
        ("C6", "K", _times(_outputs(lambda n, k: k))),
        ("C6", "1/K", _times(_outputs(lambda n, k: 1 / k))),
        ("C6", "N·K", _times(_outputs(lambda n, k: n * k))),
        ("C6", "1/(N·K)", _times(_outputs(lambda n, k: 1 / (n * k)))),
        ("C7", "η", _times(_rate(1))),
        ("C7", "−η", _times(_rate(-1))),
        ("C8", "4", _times(lambda tape: 4)),
        ("C8", "N/2", _times(lambda tape: tape.n / 2)),
        ("C8", "−N", _times(lambda tape: -tape.n)),
        ("Z1", "zero", lambda tape, i, leaf, delta: np.zeros_like(leaf)),
        ("Z2", "NaN", _with_nan),
        ("Z3", "the last row", _without_last(0)),
        ("Z3", "the last column", _without_last(1)),
        ("R1", "a term of the weight", _plus_parameter(True)),
        ("R1", "a term of the bias", _plus_parameter(False)),
    )
)
"""Mistakes in leaves alone."""

MUTANTS: tuple[Hypothesis, ...] = LEAFWISE + STRUCTURAL
"""Every mistake that can be planted, in every variant."""
