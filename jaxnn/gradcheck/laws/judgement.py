"""Judge whether a gradient or a value is close enough to the truth."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from jaxnn.gradcheck.arrays import (
    cast,
    eps,
    error_where_representable,
    is_differentiable,
    masked,
    relative_or_absolute_error,
    representable,
    wide,
)
from jaxnn.gradcheck.explain import SAME
from jaxnn.gradcheck.kinks import differs, lie_between, note_on_kinks
from jaxnn.gradcheck.laws.evaluation import Evaluation
from jaxnn.gradcheck.laws.naming import named
from jaxnn.gradcheck.report import Finding, broken_at

FLOAT64_TOLERANCE = 1e-10
DIFFERENCES_TOLERANCE = 1e-6
ROUNDED_CONSTANTS = 1e-6
FEW, MOST_KINKS = 8, 512
NOISE_TRIALS = 4

_UNDER = {
    "gradient": "",
    "one_entry": "for a cotangent on a single entry ",
    "eager": "without jit ",
    "export": "under jax.vjp of the function itself ",
}


def judge_gradients(law: str, evaluation: Evaluation, dy, mine: list) -> list[Finding]:
    """Compare each gradient with float64; autodiff in the same dtype sets the tolerance.

    Errors are relative to the gradient for the evaluation's whole cotangent; `dy` may be a part of
    that.
    """
    wholes, true = evaluation.truth(evaluation.dy).grads, evaluation.truth(dy)
    findings = []
    for i, ((path, a), given) in enumerate(zip(evaluation.variables, mine, strict=True)):
        bound = _tolerance(evaluation, dy, i)
        error = error_where_representable(given, true.grads[i], a.dtype, wholes[i])
        if error <= min(bound, _ceiling(evaluation, true.errors[i])):
            continue
        compared = representable(true.grads[i], a.dtype)
        g, t, whole = (masked(array, compared) for array in (given, true.grads[i], wholes[i]))
        if error <= max(bound, _doubtful(evaluation, a)) and _is_rounding(
            evaluation, dy, i, compared, t, whole
        ):
            continue
        if _explained_by_kinks(evaluation, dy, i, g, t, bound):
            continue
        if _is_noise(evaluation, given, a.dtype, partial(_true_gradient_at, evaluation, dy, i)):
            continue
        known = named(evaluation, i, g, t) if law == "gradient" and error > SAME else ""
        off = f"is off by {error:.1e} of its norm; rounding explains {bound:.1e}"
        findings.append(broken_at(law, path, f"{_UNDER[law]}{known or off}", error))
    return findings


def judge_value(evaluation: Evaluation, source: str, y) -> list[Finding]:
    """Compare a value with float64; the definition in the same dtype sets the tolerance."""
    true, rival = _true_value(evaluation)
    findings = []
    for i, (mine, t) in enumerate(zip(jax.tree.leaves(y), true, strict=True)):
        if not is_differentiable(mine):
            continue
        rival_error = rival and error_where_representable(rival[i], t, mine.dtype)
        error = error_where_representable(mine, t, mine.dtype)
        bound = _bound(evaluation, mine, rival_error)
        if error <= min(bound, _ceiling(evaluation)):
            continue
        if error <= max(bound, _doubtful(evaluation, mine)) and evaluation.forward_is_exact:
            continue
        if _is_noise(evaluation, mine, mine.dtype, partial(_true_value_at, evaluation, i)):
            continue
        message = f"the value of {source} is off by {error:.1e} from the definition's"
        findings.append(Finding("value", "", error, message))
    return findings


def terms(evaluation: Evaluation, leaf) -> float:
    """About how many terms are summed into an entry of a leaf: the largest array over its size."""
    largest = max(a.size for _, a in evaluation.leaves)
    return max(largest / max(np.size(leaf), 1), 1.0)


def slack(evaluation: Evaluation, path: str, units: int) -> float:
    """The difference that rounding may cause between two ways to compute a gradient.

    It is some units in the last place, times the square root of the number of summed terms, plus
    the error of autodiff in the same dtype, which shows how the function amplifies rounding.
    """
    i = [name for name, _ in evaluation.variables].index(path)
    leaf, rivals = evaluation.variables[i][1], evaluation.rival_errors(evaluation.dy)
    rounding = units * eps(leaf.dtype) * np.sqrt(terms(evaluation, leaf))
    if rivals is None:
        return 4 * rounding
    return rounding + 2 * min(rivals[i], _ceiling(evaluation))


def _tolerance(evaluation, dy, i) -> float:
    """The largest error that the gradient of a variable may have."""
    leaf, truth_error = evaluation.variables[i][1], evaluation.truth(dy).errors[i]
    rivals = None if truth_error else evaluation.rival_errors(dy)
    return 2 * truth_error + _bound(evaluation, leaf, rivals and rivals[i])


def _bound(evaluation, leaf, rival_error) -> float:
    """The error that rounding explains.

    In float64, it is the precision of the truth itself: 1e-10 of its norm, or the error of finite
    differences if autodiff does not apply. In lower precision, it is twice the error of autodiff in
    the same dtype plus 4 units in the last place, times the square root of the number of summed
    terms.
    """
    if not evaluation.traceable:
        return DIFFERENCES_TOLERANCE
    rounding = 4 * eps(leaf.dtype) * np.sqrt(terms(evaluation, leaf))
    if rival_error is None:
        return DIFFERENCES_TOLERANCE + 16 * rounding
    if evaluation.dtype in (np.float64, np.complex128):
        return FLOAT64_TOLERANCE
    return 2 * np.nan_to_num(rival_error, nan=np.inf, posinf=np.inf) + rounding


def _ceiling(evaluation, truth_error=0.0) -> float:
    """The error above which autodiff's own error alone does not excuse a gradient."""
    return max(float(np.sqrt(evaluation.resolution)), DIFFERENCES_TOLERANCE + 2 * truth_error)


def _doubtful(evaluation, leaf) -> float:
    """The error up to which only the same steps in float64 tell rounding from a mistake."""
    resolution = evaluation.resolution
    units = max(4 * resolution, min(64 * resolution, np.sqrt(resolution)))
    return float(units * np.sqrt(terms(evaluation, leaf)))


def _is_noise(evaluation, mine, dtype, number_at: Callable[[list], np.ndarray]) -> bool:
    """Whether a true number is only the rounding error of a zero, and `mine` is not larger.

    It is if a few units in the last place of the arguments change it by a tenth or more; a number
    in a coarser dtype may then be off by as many units of that dtype.
    """
    if not evaluation.traceable:
        return False
    try:
        true = number_at(evaluation.wide_leaves)
        moved = [
            number_at(_units_off(evaluation.wide_leaves, seed)) for seed in range(NOISE_TRIALS)
        ]
    except Exception:
        return False
    change = max(float(np.linalg.norm(np.ravel(other - true))) for other in moved)
    off = float(np.linalg.norm(np.ravel(wide(mine) - true)))
    units = eps(dtype) / np.finfo(float).eps
    return bool(change > 0.1 * np.linalg.norm(np.ravel(true)) and off <= 4 * units * change)


def _units_off(leaves, seed) -> list:
    """Arguments whose entries are up to three units in the last place larger or smaller."""
    random = np.random.default_rng(seed)

    def moved(leaf):
        array = np.asarray(leaf)
        return array * (1 + np.finfo(float).eps * random.integers(-3, 4, array.shape))

    return [np.asarray(moved(leaf)) if is_differentiable(leaf) else leaf for leaf in leaves]


def _true_gradient_at(evaluation, dy, i, leaves) -> np.ndarray:
    """The true gradient of a variable at other arguments in float64."""
    path, _ = evaluation.variables[i]
    place = [p for p, leaf in evaluation.leaves if is_differentiable(leaf)].index(path)
    dys = jax.tree.leaves(cast(dy, np.float64))
    return np.asarray(evaluation.definition.wide_pulled_back(leaves, dys)[1][place])


def _is_rounding(evaluation, dy, i, compared, truth, whole) -> bool:
    """Whether the backward is right when computed in float64."""
    if evaluation.given is None:
        return False
    exact = masked(evaluation.given_gradient(dy)[i], compared)
    return bool(relative_or_absolute_error(exact, truth, whole) <= ROUNDED_CONSTANTS)


def _true_value(evaluation) -> tuple[list, list | None]:
    """The value in float64 and, where JAX can trace it, in the function's own dtypes."""
    if evaluation.checked.primal is not None and evaluation.traceable:
        leaves = jax.tree.leaves(evaluation.args)
        return evaluation.primal.wide_value(evaluation.wide_leaves), evaluation.primal.value(leaves)
    rival = evaluation.rival(evaluation.dy)
    return evaluation.truth(evaluation.dy).y, rival and rival.y


def _true_value_at(evaluation, i, leaves) -> np.ndarray:
    return np.asarray(evaluation.primal.wide_value(leaves)[i])


def _explained_by_kinks(evaluation, dy, i, mine, truth, bound) -> bool:
    """Whether the gradient is right except at entries where the function is not smooth."""
    path, _ = evaluation.variables[i]
    places = np.flatnonzero(differs(mine, truth, bound))
    if not evaluation.traceable or np.iscomplexobj(truth) or not places.size:
        return False
    which = next(k for k, (name, _) in enumerate(evaluation.leaves) if name == path)
    for some in _batches(places, partial(evaluation.most_places, dy, which, 2)):
        slopes = evaluation.slopes_beside(dy, which, some)
        if not lie_between(mine.reshape(-1)[some], slopes).all():
            return False
    indices = [tuple(map(int, index)) for index in np.argwhere(differs(mine, truth, bound))]
    note = f"{note_on_kinks(path, indices)}, as autodiff's does"
    if note not in evaluation.notes:
        evaluation.notes.append(note)
    return True


def _batches(places, most):
    """A few of the places, which show most mistakes, then as many more as time allows."""
    order = np.random.default_rng(0).permutation(places)
    yield order[:FEW]
    if len(order) > FEW:
        yield order[FEW : max(min(most(), MOST_KINKS), 2 * FEW)]
