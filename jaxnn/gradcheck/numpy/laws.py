"""The laws that a NumPy backward must obey, each a function from an evaluation to its findings."""

import contextlib
from collections.abc import Callable

import numpy as np

from jaxnn.gradcheck.arrays import first_index, identical, relative_or_absolute_error
from jaxnn.gradcheck.differences import one_sided_slopes
from jaxnn.gradcheck.explain import explain_all
from jaxnn.gradcheck.kinks import at_kinks, note_on_kinks, place
from jaxnn.gradcheck.numpy.code import resets
from jaxnn.gradcheck.numpy.evaluation import TOLERANCE, NumPyEvaluation
from jaxnn.gradcheck.numpy.evidence import evidence
from jaxnn.gradcheck.numpy.guards import guards_in, without_guards
from jaxnn.gradcheck.numpy.held import is_node
from jaxnn.gradcheck.report import Finding, broken, broken_at, in_one_line

NEAR = 1e-10  # above rounding: a right gradient that is off by more lacks a small term
GUARDED = 0.1  # a gradient that is off by more is wrong even without guards


def determinism(evaluation) -> list[Finding]:
    """The same arguments give the same value and the same gradients."""
    outputs, again = evaluation.run(evaluation.copy())
    if not all(map(identical, outputs, evaluation.outputs)):
        message = (
            "forward gives a different value at each call, so nothing can be compared: fix its seed"
        )
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
        index = first_index(~np.isfinite(evaluation.y))
        return [broken("finite", f"the value is not finite at index {index}")]
    return [
        broken_at(
            "finite", variable.path, f"is not finite at index {first_index(~np.isfinite(grad))}"
        )
        for variable in evaluation.variables
        if (grad := evaluation.gradients.get(variable.key)) is not None
        and not np.isfinite(grad).all()
        and evaluation.truth(variable) is not None
        and np.isfinite(evaluation.truth(variable)).all()
    ]


def gradient(evaluation) -> list[Finding]:
    """Each gradient exists, has the shape of its array, and agrees with differences."""
    wrong, missing, near = [], [], []
    for variable in evaluation.variables:
        given = evaluation.gradients.get(variable.key)
        if given is None:
            missing += _missing(evaluation, variable)
            continue
        true = evaluation.truth(variable)
        if true is None:
            evaluation.notes.append(
                f"forward cannot be run at other values of {variable.path}, so its gradient is "
                "not checked"
            )
            continue
        bound = _bound(evaluation, variable)
        if not np.isfinite(true).all():
            beside = place(variable.path, first_index(~np.isfinite(true)))
            evaluation.notes.append(
                f"forward is not finite next to {beside}, so nothing is compared there"
            )
        right_shape = given.shape == true.shape
        off = (
            relative_or_absolute_error(*evaluation.pair(variable)) if right_shape else float("nan")
        )
        if not off <= bound and not (
            right_shape and _explained_by_kinks(evaluation, variable, bound)
        ):
            wrong.append((variable, given, off))
        elif right_shape and max(NEAR, 10 * evaluation.resolution(variable)) < off <= bound:
            near.append((variable, given, off))
    if near or wrong:
        left = _without_guarded(evaluation, near + wrong)
        wrong = [entry for entry in wrong if any(entry is other for other in left)]
    if wrong and _explained_by_batch(evaluation, wrong):
        wrong = []
    return missing + _named(evaluation, wrong)


def in_place(evaluation) -> list[Finding]:
    """Neither forward nor backward changes its arguments or the parameters."""
    used, dy = evaluation.copy(), [np.array(d) for d in evaluation.cotangents]
    stages = [used.values()]
    used.forward()
    stages.append(used.values())
    used.backward([d[()] for d in dy])
    stages.append(used.values())
    findings = []
    if evaluation.ones and evaluation.takes_dy:
        name = next(n for n, s in evaluation.convention.call.items() if s.kind == "dy")
        evaluation.notes.append(f"{name} is not used: the gradient is the one for {name} = 1")
    for step, before, after in zip(("forward", "backward"), stages, stages[1:], strict=False):
        for variable in evaluation.reported:
            if identical(before.get(variable.key), after.get(variable.key)):
                continue
            if variable.owner == "argument":
                message = f"{step} changes {variable.path} in place"
                findings.append(Finding("in_place", variable.path, float("nan"), message))
            elif step == "forward":
                message = f"forward changes {variable.path}, which only an update should change"
                findings.append(Finding("in_place", variable.path, float("nan"), message))
            elif variable.key in evaluation.updated:
                note = "backward updates the parameters itself"
                if note not in evaluation.notes:
                    evaluation.notes.append(note)
    if not all(map(identical, dy, evaluation.cotangents)):
        evaluation.notes.append(
            "backward changes dy in place: the array of its caller is overwritten"
        )
    return findings


def accumulation(evaluation) -> list[Finding]:
    """A second call gives the gradients of the first."""
    if evaluation.updated or evaluation.code.backward is None:
        return []
    try:
        outputs, second = _second_call(evaluation, evaluation.copy())
    except Exception as error:
        return [
            broken("accumulation", f"a second forward and backward raised {in_one_line(error)}")
        ]
    if not all(map(identical, outputs, evaluation.outputs)):
        return []
    changed = [
        variable
        for variable in evaluation.variables
        if variable.key in second
        and evaluation.truth(variable) is not None
        and not _close(second[variable.key], evaluation.gradients[variable.key])
    ]
    if changed and _adds_up_by_design(evaluation, changed):
        names = _listed([f"d_{variable.path}" for variable in changed])
        verb = "adds" if len(changed) == 1 else "add"
        evaluation.notes.append(f"{names} {verb} up from call to call, until reset to zero")
        return []
    findings = []
    for variable in changed:
        once, twice = evaluation.gradients[variable.key], second[variable.key]
        message = "is different at a second call"
        if _close(twice, 2 * once) and once.any():
            message = "is not reset between calls: a second call gives the sum of both"
        findings.append(broken_at("accumulation", variable.path, message))
    return findings


def _second_call(evaluation, used, reset=False) -> tuple[list, dict]:
    """Outputs and gradients of a copy's second call, after a reset if requested."""
    evaluation.run(used)
    used.args = evaluation.copy().args
    if reset:
        _reset(used.instance)
    return evaluation.run(used)


def _reset(owner) -> None:
    for method in resets(owner):
        with contextlib.suppress(Exception):
            method()


def stale_cache(evaluation) -> list[Finding]:
    """After a forward at other arguments, backward gives the gradients at these."""
    other = {
        leaf.key: 0.75 * np.flip(np.asarray(leaf.value))
        for leaf in evaluation.variables
        if leaf.owner == "argument" and evaluation.truth(leaf) is not None
    }
    if evaluation.updated:
        return []
    try:
        expected_outputs, expected = evaluation.run(evaluation.copy(other))
    except Exception:
        return []
    used = evaluation.copy()
    try:
        used.forward()
        used.args = evaluation.copy(other).args
        _reset(used.instance)
        outputs, mine = evaluation.run(used)
    except Exception as error:
        return [
            broken("stale_cache", f"a second forward and its backward raised {in_one_line(error)}")
        ]
    return [
        broken_at(
            "stale_cache", variable.path, "is that of an earlier call of forward: a stale cache"
        )
        for variable in evaluation.variables
        if all(map(identical, outputs, expected_outputs))
        and variable.key in mine
        and variable.key in expected
        and not _close(mine[variable.key], expected[variable.key])
        and _close(mine[variable.key], evaluation.gradients[variable.key])
    ]


NUMPY_LAWS: dict[str, Callable[[NumPyEvaluation], list[Finding]]] = {
    law.__name__: law
    for law in (determinism, finite, gradient, in_place, accumulation, stale_cache)
}
"""The laws of `check_numpy` by name, in the order in which it tries them."""


def _bound(evaluation, variable) -> float:
    """The error that rounding and differences explain."""
    bound = max(TOLERANCE, 10 * evaluation.resolution(variable))
    if bound > TOLERANCE:
        note = "forward is not in float64, or not smooth: accurate to "
        if not any(said.startswith(note) for said in evaluation.notes):
            evaluation.notes.append(f"{note}{evaluation.resolution(variable):.0e} only")
    return bound


def _missing(evaluation, variable) -> list[Finding]:
    """A missing gradient: a note for an argument, a finding for a parameter."""
    if variable.owner == "global":
        return []
    true = evaluation.truth(variable)
    if true is None or not true.any():
        return []
    if variable.owner == "argument":
        evaluation.notes.append(
            f"backward gives no gradient of {variable.path}, so none is checked"
        )
        return []
    message = (
        f"was not found: backward neither returns nor writes an array of the shape "
        f"{np.shape(variable.value)} of {variable.path}; if it is stored elsewhere, pass "
        f"grads={{{variable.path!r}: …}}, and if {variable.path} is not a parameter, name the "
        "parameters with params=(…)"
    )
    return [broken_at("gradient", variable.path, message)]


def _explained_by_kinks(evaluation, variable, bound) -> bool:
    """Whether the gradient is right except at entries where the function is not smooth."""
    mine, true = evaluation.pair(variable)
    point = [np.asarray(variable.value, np.float64)]

    def value(moved):
        return np.concatenate(
            [np.ravel(y) for y in evaluation.copy({variable.key: moved}).forward()]
        )

    def slopes_at(index):
        return one_sided_slopes(value, point, np.ravel(evaluation.dy), 0, index)

    indices = at_kinks(mine, true, bound, slopes_at)
    if indices:
        evaluation.notes.append(note_on_kinks(variable.path, indices))
    return bool(indices)


def _without_guarded(evaluation, wrong) -> list:
    """The wrong gradients that stay wrong for forward without its guards."""
    code = evaluation.code
    functions = [code.forward, code.loss]
    numbers = guards_in(functions, code.instance)
    if not numbers:
        return wrong
    left = []
    with without_guards(functions, code.instance):
        for entry in wrong:
            variable, given, off = entry
            true = None
            if off < GUARDED:
                true = evaluation.true_gradient(variable, evaluation.cotangents)
            if true is None or not _close(given, true):
                left.append(entry)
    if len(left) < len(wrong):
        said = " or ".join(f"{number:g}" for number in sorted(numbers))
        evaluation.notes.append(
            "right up to the guard: the gradient is that of forward without its small number "
            f"{said}"
        )
    return left


def _explained_by_batch(evaluation, wrong) -> bool:
    """Whether the gradients of all parameters, and only those, are divided by the batch size."""
    at_fault = [variable for variable, *_ in wrong]
    others = [v for v in evaluation.variables if v.key in evaluation.gradients]
    right = [v for v in others if all(v.key != w.key for w in at_fault)]
    if len(at_fault) < 2 or not right or any(v.owner != "argument" for v in right):
        return False
    if not evaluation.takes_dy or evaluation.y.ndim < 2:
        return False
    for axis, size in enumerate(np.shape(right[0].value)):
        if size < 2 or size not in np.shape(evaluation.y):
            continue
        pairs = [(given, evaluation.truth(variable)) for variable, given, _ in wrong]
        if all(given.shape == true.shape and _close(size * given, true) for given, true in pairs):
            evaluation.notes.append(
                f"{_listed([f'd_{v.path}' for v in at_fault])} are divided by {size}, the size of "
                f"axis {axis} of {right[0].path}, but not {_listed([f'd_{v.path}' for v in right])}"
                ": right by the convention of some courses, which put the 1/m of the mean over "
                "the batch here instead of in the loss"
            )
            return True
    return False


def _named(evaluation, wrong) -> list[Finding]:
    """A finding for each wrong gradient, with the name of the mistake if it is known."""
    if not wrong:
        return []
    said: dict[str, str] = {}
    with contextlib.suppress(Exception):  # without a name, a wrong gradient is still reported
        known = evidence(evaluation, [variable for variable, *_ in wrong])
        said = explain_all([variable.path for variable, *_ in wrong], known)
    findings = []
    for variable, given, off in wrong:
        name = said.get(variable.path, "")
        message = name or f"is off by {off:.1e} of its norm"
        if given.shape != np.shape(variable.value):
            shapes = f"has shape {given.shape} but {variable.path} has {np.shape(variable.value)}"
            message = f"{shapes}: it {name}" if name else shapes
        findings.append(broken_at("gradient", variable.path, message, off))
    return findings


def _adds_up_by_design(evaluation, changed) -> bool:
    """Whether gradients live in the nodes of a graph, or are right again once they are reset."""
    code = evaluation.code
    if any(map(is_node, code.args)):
        return True
    held = [code.instance, *code.args, *code.variables.read()]
    if not any(True for owner in held for _ in resets(owner)):
        return False
    if code.instance is None:
        return True
    try:
        _, again = _second_call(evaluation, evaluation.copy(), reset=True)
    except Exception:
        return False
    return all(_close(again.get(v.key), evaluation.gradients[v.key]) for v in changed)


def _listed(names) -> str:
    """Names joined by commas and "and"."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _close(mine, true) -> bool:
    if mine is None or np.shape(mine) != np.shape(true):
        return False
    return relative_or_absolute_error(mine, true) <= TOLERANCE
