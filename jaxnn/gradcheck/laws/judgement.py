"""Whether a gradient or a value is near enough to the truth."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import eps, relative_or_absolute_error, representable, wide
from jaxnn.gradcheck.explain import SAME, explain
from jaxnn.gradcheck.kinks import at_kinks, note_on_kinks
from jaxnn.gradcheck.laws import oracle
from jaxnn.gradcheck.laws.evaluation import Evaluation
from jaxnn.gradcheck.report import Finding, broken_at

FLOAT64_TOLERANCE = 1e-10
DIFFERENCES_TOLERANCE = 1e-6
MOST_KINKS = 8

_UNDER = {
    "gradient": "",
    "one_entry": "for a cotangent on one entry alone ",
    "eager": "without jit ",
    "export": "under jax.vjp of the function itself ",
}


def judge_gradients(law: str, evaluation: Evaluation, dy, mine: list) -> list[Finding]:
    """Compare each gradient with float64; autodiff in the same dtype sets the tolerance.

    Errors are relative to the gradient for the evaluation's whole cotangent, of which `dy` may be a
    part.
    """
    _, wholes = evaluation.truth(evaluation.dy)
    _, true = evaluation.truth(dy)
    _, rivals = evaluation.truth(dy, evaluation.dtype)
    findings = []
    for i, ((path, a), g, t, r, whole) in enumerate(
        zip(evaluation.variables, mine, true, rivals, wholes, strict=True)
    ):
        compared = representable(t, evaluation.dtype)
        g, t, r, whole = (np.where(compared, wide(array), 0) for array in (g, t, r, whole))
        bound = _tolerance(evaluation, a, relative_or_absolute_error(r, t, whole))
        error = relative_or_absolute_error(g, t, whole)
        if error <= bound or _explained_by_kinks(evaluation, dy, i, g, t, bound):
            continue
        known = explain(g, t, evaluation.sizes) if law == "gradient" and error > SAME else ""
        off = f"is off by {error:.1e} of its norm; rounding explains {bound:.1e}"
        findings.append(broken_at(law, path, f"{_UNDER[law]}{known or off}", error))
    return findings


def judge_value(evaluation: Evaluation, source: str, y) -> list[Finding]:
    """Compare a value with float64; the definition in the same dtype sets the tolerance."""
    true, _ = evaluation.truth(evaluation.dy)
    rival, _ = evaluation.truth(evaluation.dy, evaluation.dtype)
    findings = []
    for mine, t, r in zip(*map(jax.tree.leaves, (y, true, rival)), strict=True):
        compared = representable(t, mine.dtype)
        mine, t, r = (np.where(compared, wide(array), 0) for array in (mine, t, r))
        error = relative_or_absolute_error(mine, t)
        if not error <= _tolerance(evaluation, mine, relative_or_absolute_error(r, t)):
            message = f"the value of {source} is off by {error:.1e} from the definition's"
            findings.append(Finding("value", "", error, message))
    return findings


def terms(evaluation: Evaluation, leaf) -> float:
    """About how many terms are summed for an entry of a leaf: the largest array over its size."""
    largest = max(a.size for _, a in evaluation.leaves)
    return max(largest / max(np.size(leaf), 1), 1.0)


def _tolerance(evaluation, leaf, rival_error) -> float:
    """The largest error that a leaf may have.

    In float64, the precision of the truth itself: 1e-10 of its norm, or the error of finite
    differences if autodiff does not apply. Below, twice the error of autodiff in the same dtype
    plus 4 units in the last place, times the square root of the number of summed terms.
    """
    if not evaluation.traceable:
        return DIFFERENCES_TOLERANCE
    if evaluation.dtype == jnp.float64:
        return FLOAT64_TOLERANCE
    rounding = 4 * eps(evaluation.dtype) * np.sqrt(terms(evaluation, leaf))
    return 2 * np.nan_to_num(rival_error, nan=np.inf, posinf=np.inf) + rounding


def _explained_by_kinks(evaluation, dy, i, mine, truth, bound) -> bool:
    """Whether the gradient is right but for entries at which the function is not smooth."""
    if not evaluation.traceable:
        return False
    path, _ = evaluation.variables[i]
    which = next(k for k, (name, _) in enumerate(evaluation.leaves) if name == path)

    def slopes_at(index):
        definition = evaluation.checked.definition
        return oracle.slopes_beside(definition, evaluation.args, dy, which, index)

    indices = at_kinks(mine, truth, bound, slopes_at, MOST_KINKS)
    if indices:
        note = f"{note_on_kinks(path, indices)}, as autodiff's does"
        if note not in evaluation.notes:
            evaluation.notes.append(note)
    return bool(indices)
