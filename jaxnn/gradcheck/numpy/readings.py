"""The possible readings of NumPy code, and the choice of the one that fits."""

import contextlib
from collections.abc import Iterator

import numpy as np

from jaxnn.gradcheck.numpy import found
from jaxnn.gradcheck.numpy.calls import Call, Unrunnable, calls, cotangents_taken, parameters
from jaxnn.gradcheck.numpy.code import Convention, NumPyCode, resets
from jaxnn.gradcheck.numpy.evaluation import Known, NumPyEvaluation, Refused
from jaxnn.gradcheck.numpy.held import is_number, walk
from jaxnn.gradcheck.report import in_one_line

MOST_READINGS = 8


def evaluate(code: NumPyCode, seed: int) -> NumPyEvaluation:
    """The code under the reading in which it is right or, failing that, closest to right.

    Raises:
        Unrunnable: it runs under no reading.
        Refused: there is no such parameter, or the arrays are too large for differences.
    """
    _settle(code)
    problems: list[str] = []
    for as_arrays in _conversions(code):
        tried: list[NumPyEvaluation] = []
        try:
            for evaluation in _readings(code, seed, as_arrays):
                problem = _problem_of(evaluation)
                if problem:
                    problems.append(problem)
                elif evaluation.all_right:
                    return evaluation
                else:
                    tried.append(evaluation)
                if len(tried) == MOST_READINGS:
                    break
        except Unrunnable as error:
            problems.append(str(error))
        if tried:
            return max(tried, key=lambda evaluation: evaluation.merit)
    raise Unrunnable(problems[0] if problems else "it has no gradient")


def _conversions(code) -> Iterator[tuple[int, ...]]:
    """The arguments to convert to arrays: first none, then all integer ones, then one at a time."""
    yield ()
    pairs = zip(code.args, code.args_as_arrays, strict=True)
    integers = tuple(i for i, (arg, array) in enumerate(pairs) if array is not arg)
    if integers:
        yield integers
    if len(integers) > 1:
        yield integers[:1]


def _readings(code, seed, as_arrays) -> Iterator[NumPyEvaluation]:
    """The readings of the code, the likeliest first."""
    taken = cotangents_taken(code.backward, code.names) if code.backward is not None else 1
    known = Known()
    for outputs in dict.fromkeys((max(taken, 1), 1)):
        probe = NumPyEvaluation(code, seed, Convention(outputs, None, as_arrays), known=known)
        used = probe.copy()
        try:
            y = used.forward()
        except Unrunnable:
            raise
        except Exception as error:
            raise Unrunnable(f"forward raised {in_one_line(error)}") from error
        _require_floating(y)
        if not probe.possible:
            raise Unrunnable("no array is floating point, so it has no gradient")
        if used.backward_function is None:
            yield probe
            return
        for call in calls(used):
            reading = code, seed, Convention(outputs, call, as_arrays)
            evaluation = NumPyEvaluation(*reading, known=known)
            if _may_ignore(used, call) and evaluation.ignores_dy:
                evaluation = NumPyEvaluation(*reading, ones=True, known=known)
            if not _problem_of(evaluation) and evaluation.gives_jacobians:
                evaluation = NumPyEvaluation(*reading, known=known, jacobian=True)
            yield evaluation


def _problem_of(evaluation) -> str:
    """The reason why an evaluation has no gradients; empty if it has some."""
    try:
        gradients = evaluation.gradients
    except Refused:
        raise
    except Unrunnable as error:
        return str(error)
    except found.Misfit as error:
        return f"backward {error}"
    except Exception as error:
        return f"backward raised {in_one_line(error)}"
    return "" if gradients else "backward returned no gradient, and the object holds none"


def _may_ignore(used, call: Call) -> bool:
    """Whether the dy of a call is optional, so that the backward may do without it."""
    optional = {p.name for p in parameters(used.backward_function) if not p.required}
    taking = {name for name, source in call.items() if source.kind == "dy"}
    return bool(taking) and taking <= optional


def _require_floating(outputs) -> None:
    for y in outputs:
        if not np.issubdtype(y.dtype, np.inexact):
            raise Unrunnable(
                f"forward must return y or (y, cache) with a floating-point y; its y is {y.dtype}"
            )


def _settle(code) -> None:
    """Run once a forward that creates its weights at its first call."""
    if code.instance is None:
        return
    probe = NumPyEvaluation(code, 0, Convention())
    try:
        used = probe.copy()
        there = {leaf.key for leaf in used.leaves()}
        inputs = {id(leaf.value) for leaf in walk("argument", list(used.args), wanted=is_number)}
        used.forward()
        made = {leaf.key: leaf.value for leaf in used.leaves() if leaf.key not in there}
        used.args = probe.copy().args
        used.forward()
        now = {leaf.key: leaf.value for leaf in used.leaves()}
    except Exception:
        return
    kept = [k for k, array in made.items() if now.get(k) is array and id(array) not in inputs]
    if kept:
        for reset in resets(used.instance):
            with contextlib.suppress(Exception):
                reset()
        code.forward, code.backward = used.forward_function, used.backward_function
        code.instance = used.instance
