"""How far a gradient is from the truth, and whether that is too far."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.explain import SAME, relation
from jaxnn.gradcheck.laws import oracle
from jaxnn.gradcheck.laws.evaluation import Trial
from jaxnn.gradcheck.report import Finding

FLOAT64_TOLERANCE = 1e-10

_UNDER = {
    "gradient": "",
    "one_entry": "for a cotangent on one entry alone ",
    "eager": "without jit ",
    "export": "under jax.vjp of the function itself ",
}


def relative_error(mine, truth, whole=None) -> float:
    """‖mine − truth‖/‖whole‖, or ‖mine − truth‖ where the whole is zero; ∞ where one is not finite.

    Args:
        mine: an array.
        truth: what it should be.
        whole: what the truth is a part of; by default the truth itself.
    """
    mine, truth = wide(mine), wide(truth)
    whole = truth if whole is None else wide(whole)
    scale = max(np.abs(array).max(initial=0) for array in (mine, truth, whole))
    if scale == 0:
        return 0.0
    if not np.isfinite(scale):
        return float("inf")
    norm = np.linalg.norm(whole / scale)
    difference = np.linalg.norm(mine / scale - truth / scale)
    return float(difference / norm) if norm else float(difference * scale)


def judge(law: str, trial: Trial, dy, mine: list) -> list[Finding]:
    """Each gradient against float64, allowed what autodiff in its own dtype needs.

    Errors are relative to the gradient for the trial's whole cotangent, of which `dy` may be a
    part.
    """
    _, wholes = trial.truth(trial.dy)
    _, true = trial.truth(dy)
    _, rivals = trial.truth(dy, trial.dtype)
    findings = []
    for i, ((path, a), g, t, r, whole) in enumerate(
        zip(trial.variables, mine, true, rivals, wholes, strict=True)
    ):
        compared = representable(t, trial.dtype)
        g, t, r, whole = (np.where(compared, wide(array), 0) for array in (g, t, r, whole))
        bound = _bound(trial, a, relative_error(r, t, whole))
        error = relative_error(g, t, whole)
        if error <= bound or _explained_by_a_kink(trial, dy, i, g, t, bound):
            continue
        known = relation(g, t, trial.sizes) if law == "gradient" and error > SAME else ""
        off = f"is off by {error:.1e} of its norm; rounding explains {bound:.1e}"
        message = f"{_UNDER[law]}{known or off}"
        findings.append(broken_at(law, path, message, error))
    return findings


def judge_value(trial: Trial, source: str, y) -> list[Finding]:
    """The value against float64, allowed what the definition in its own dtype needs."""
    true, _ = trial.truth(trial.dy)
    rival, _ = trial.truth(trial.dy, trial.dtype)
    findings = []
    for mine, t, r in zip(*map(jax.tree.leaves, (y, true, rival)), strict=True):
        compared = representable(t, mine.dtype)
        mine, t, r = (np.where(compared, wide(array), 0) for array in (mine, t, r))
        error, bound = relative_error(mine, t), _bound(trial, mine, relative_error(r, t))
        if not error <= bound:
            message = f"the value of {source} is off by {error:.1e} from the definition's"
            findings.append(Finding("value", "", error, message))
    return findings


def broken(law: str, message: str) -> Finding:
    """A broken law that no array in particular is at fault for."""
    return Finding(law, "", float("nan"), message)


def broken_at(law: str, path: str, message: str, error: float = float("nan")) -> Finding:
    """A broken law with the array at fault."""
    return Finding(law, path, error, f"d_{path} {message}")


def wide(array) -> np.ndarray:
    """An array in float64."""
    return np.asarray(array).astype(np.float64)


def eps(dtype) -> float:
    """The distance from 1 to the next number of a dtype."""
    return float(jnp.finfo(dtype).eps)


def representable(truth, dtype) -> np.ndarray:
    """Where the truth is finite and does not overflow in a dtype."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(wide(truth).astype(dtype)))


def first_index(mask) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _bound(trial, leaf, rival_error) -> float:
    """How far a leaf may be from the truth.

    In float64, which is the truth's own precision, 1e-10 of its norm, or the error of the
    differences where autodiff cannot go. Below, twice the error of autodiff in the same dtype and
    4 units in the last place, times the square root of the number of terms that are summed.
    """
    if not trial.traceable:
        return 1e-6
    if trial.dtype == jnp.float64:
        return FLOAT64_TOLERANCE
    rounding = 4 * eps(trial.dtype) * np.sqrt(terms(trial, leaf))
    return 2 * np.nan_to_num(rival_error, nan=np.inf, posinf=np.inf) + rounding


def terms(trial: Trial, leaf) -> float:
    """About how many terms are summed for an entry of a leaf: the largest array over its size."""
    largest = max(a.size for _, a in trial.leaves)
    return max(largest / max(np.size(leaf), 1), 1.0)


def _explained_by_a_kink(trial, dy, i, mine, truth, bound) -> bool:
    """Whether all that is off lies between the one-sided slopes of a point that is not smooth."""
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    wrong = np.argwhere(~(np.abs(mine - truth) <= bound * scale))
    if not trial.traceable or not 0 < len(wrong) <= 8:
        return False
    path, _ = trial.variables[i]
    which = next(k for k, (name, _) in enumerate(trial.leaves) if name == path)
    for index in map(tuple, wrong):
        slopes = sorted(
            oracle.one_sided_slopes(trial.subject.definition, trial.args, dy, which, index)
        )
        slack = 1e-3 * max(map(abs, slopes))
        if slopes[1] - slopes[0] <= slack or not (
            slopes[0] - slack <= mine[index] <= slopes[1] + slack
        ):
            return False
    places = ", ".join(f"{path}{[int(n) for n in index]}" for index in wrong)
    note = (
        f"not smooth here: at {places} the function has a kink, and the gradient given lies "
        "between its one-sided slopes, as autodiff's does"
    )
    if note not in trial.notes:
        trial.notes.append(note)
    return True
