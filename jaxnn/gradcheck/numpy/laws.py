"""The laws that a backward in NumPy obeys, each a function from an evaluation to its findings."""

from collections.abc import Callable

import numpy as np

from jaxnn.gradcheck.arrays import first_index, identical, relative_or_absolute_error
from jaxnn.gradcheck.differences import gradient_by_differences, one_sided_slopes
from jaxnn.gradcheck.explain import explain
from jaxnn.gradcheck.kinks import at_kinks, note_on_kinks, place
from jaxnn.gradcheck.numpy.conventions import LEARNING_RATE, RESET, Misfit
from jaxnn.gradcheck.numpy.evaluation import NumPyEvaluation
from jaxnn.gradcheck.report import Finding, broken, broken_at, in_one_line

TOLERANCE = 1e-6


def runs(evaluation) -> list[Finding]:
    """Forward gives an array of floating-point numbers, and backward gives gradients."""
    try:
        y = evaluation.y
    except Exception as error:
        return [broken("runs", f"forward raised {in_one_line(error)}")]
    if not np.issubdtype(y.dtype, np.floating):
        message = f"forward must return y or (y, cache), y floating point; its y is {y.dtype}"
        return [broken("runs", message)]
    if not evaluation.variables:
        raise TypeError(f"{evaluation.code.name}: no array is floating point, so has no gradient")
    if not evaluation.takes_dy and y.ndim > 0:
        return [broken("runs", "backward takes no dy, but y is not a scalar")]
    try:
        gradients = evaluation.gradients
    except Misfit as error:
        return [broken("runs", f"backward {error}")]
    except Exception as error:
        return [broken("runs", f"backward raised {in_one_line(error)}")]
    if not gradients:
        return [broken("runs", "backward returned no gradient, and the object holds none")]
    return []


def determinism(evaluation) -> list[Finding]:
    """The same arguments give the same value and the same gradients."""
    y, again = evaluation.run(evaluation.code.copy())
    if not identical(y, evaluation.y):
        message = "forward gives another value each time, so it has no differences: fix its seed"
        return [broken("determinism", message)]
    return [
        broken_at("determinism", variable.path, "differs between two calls with the same arguments")
        for variable in evaluation.variables
        if variable.key in again
        and not identical(again[variable.key], evaluation.gradients[variable.key])
    ]


def finite(evaluation) -> list[Finding]:
    """Value and gradients are finite."""
    if not np.isfinite(evaluation.y).all():
        return [
            broken(
                "finite",
                f"the value is not finite at index {first_index(~np.isfinite(evaluation.y))}",
            )
        ]
    return [
        broken_at(
            "finite", variable.path, f"is not finite at index {first_index(~np.isfinite(grad))}"
        )
        for variable in evaluation.variables
        if (grad := evaluation.gradients.get(variable.key)) is not None
        and not np.isfinite(grad).all()
    ]


def gradient(evaluation) -> list[Finding]:
    """Each gradient exists, has the shape of its array and agrees with differences."""
    _, error = evaluation.differences
    bound = max(TOLERANCE, 10 * error)
    if bound > TOLERANCE:
        evaluation.notes.append(
            f"forward is not in float64, or not smooth: good to {error:.0e} only"
        )
    findings = []
    for k, variable in enumerate(evaluation.variables):
        true, given = evaluation.truth(variable), evaluation.gradients.get(variable.key)
        if not np.isfinite(true).all():
            beside = place(variable.path, first_index(~np.isfinite(true)))
            evaluation.notes.append(
                f"forward is not finite beside {beside}: nothing to compare there"
            )
        if given is None:
            findings += _missing(evaluation, variable)
            continue
        right_shape = given.shape == true.shape
        off = (
            relative_or_absolute_error(*evaluation.pair(variable)) if right_shape else float("nan")
        )
        if not off <= bound and not (right_shape and _explained_by_kinks(evaluation, k, bound)):
            message = _wrong(evaluation, variable, given, off)
            findings.append(broken_at("gradient", variable.path, message, off))
    return findings


def in_place(evaluation) -> list[Finding]:
    """Neither forward nor backward changes its arguments, dy or the parameters."""
    used, dy = evaluation.code.copy(), np.array(evaluation.dy)
    stages = [used.values()]
    used.forward()
    stages.append(used.values())
    updates = any(map(LEARNING_RATE.fullmatch, used.arguments_of_backward(dy)))
    used.backward(dy[()], evaluation.variables)
    stages.append(used.values())
    findings = []
    for step, before, after in zip(("forward", "backward"), stages, stages[1:], strict=False):
        for variable in evaluation.reported:
            if identical(before.get(variable.key), after.get(variable.key)):
                continue
            if variable.owner == "argument":
                message = f"{step} changes {variable.path} in place"
            elif not updates:
                message = f"{step} changes {variable.path}, which only an update should"
            else:
                continue
            findings.append(Finding("in_place", variable.path, float("nan"), message))
    if not identical(dy, evaluation.dy):
        findings.append(broken("in_place", "backward changes dy in place"))
    return findings


def accumulation(evaluation) -> list[Finding]:
    """A second call gives the gradients of the first."""
    if any(map(RESET.fullmatch, dir(evaluation.code.instance))):
        return []
    used = evaluation.code.copy()
    evaluation.run(used)
    used.args = evaluation.code.copy().args
    y, second = evaluation.run(used)
    if not identical(y, evaluation.y):
        return []
    findings = []
    for variable in evaluation.variables:
        if variable.key not in second:
            continue
        once, twice = evaluation.gradients[variable.key], second[variable.key]
        if _close(twice, 2 * once) and once.any():
            message = "is not reset between calls: a second call gives the sum of both"
            findings.append(broken_at("accumulation", variable.path, message))
        elif not _close(twice, once):
            findings.append(
                broken_at("accumulation", variable.path, "is another one at a second call")
            )
    return findings


def stale_cache(evaluation) -> list[Finding]:
    """After a forward at other arguments, backward gives the gradients at those."""
    other = {
        leaf.key: 0.75 * np.flip(np.asarray(leaf.value))
        for leaf in evaluation.variables
        if leaf.owner == "argument"
    }
    used = evaluation.code.copy()
    used.forward()
    used.args = evaluation.code.copy(other).args
    try:
        y, mine = evaluation.run(used)
        expected_y, expected = evaluation.run(evaluation.code.copy(other))
    except Exception as error:
        return [
            broken("stale_cache", f"a second forward and its backward raised {in_one_line(error)}")
        ]
    return [
        broken_at(
            "stale_cache", variable.path, "is that of an earlier call of forward: a stale cache"
        )
        for variable in evaluation.variables
        if identical(y, expected_y)
        and variable.key in mine
        and not _close(mine[variable.key], expected[variable.key])
        and _close(mine[variable.key], evaluation.gradients[variable.key])
    ]


NUMPY_LAWS: dict[str, Callable[[NumPyEvaluation], list[Finding]]] = {
    law.__name__: law
    for law in (runs, determinism, finite, gradient, in_place, accumulation, stale_cache)
}
"""The laws of `check_numpy` by name, in the order in which it tries them."""


def _missing(evaluation, variable) -> list[Finding]:
    """A missing gradient: a note for an argument, a finding for a parameter."""
    if not evaluation.truth(variable).any():
        return []
    if variable.owner == "argument":
        evaluation.notes.append(
            f"backward gives no gradient of {variable.path}, so none is checked"
        )
        return []
    name = variable.names[-1]
    message = (
        f"was not found: backward does not return it, and the object holds no d{name} or "
        f"grad_{name}; if it has another name, say grads={{{variable.path!r}: …}}, and if "
        f"{variable.path} is no parameter, name those that are, params=(…)"
    )
    return [broken_at("gradient", variable.path, message)]


def _explained_by_kinks(evaluation, k, bound) -> bool:
    """Whether the gradient is right but for entries at which the function is not smooth."""
    mine, true = evaluation.pair(evaluation.variables[k])

    def slopes_at(index):
        return one_sided_slopes(evaluation.value, evaluation.point, evaluation.dy, k, index)

    indices = at_kinks(mine, true, bound, slopes_at)
    if indices:
        evaluation.notes.append(note_on_kinks(evaluation.variables[k].path, indices))
    return bool(indices)


def _wrong(evaluation, variable, given, off) -> str:
    """The remark on a wrong gradient."""
    if given.shape != evaluation.truth(variable).shape:
        known = explain(given, evaluation.truth(variable), evaluation.sizes)
        shapes = f"has shape {given.shape} but {variable.path} has {np.shape(variable.value)}"
        return f"{shapes}: it {known}" if known else shapes
    mine, true = evaluation.pair(variable)
    if evaluation.takes_dy and evaluation.y.ndim > 0:
        ones, _ = gradient_by_differences(
            evaluation.value, evaluation.point, np.ones_like(evaluation.y)
        )
        if _close(mine, ones[evaluation.variables.index(variable)]):
            return "is the one for dy = 1, as if dy were not used"
    return explain(mine, true, evaluation.sizes) or f"is off by {off:.1e} of its norm"


def _close(mine, true) -> bool:
    return np.shape(mine) == np.shape(true) and relative_or_absolute_error(mine, true) <= TOLERANCE
