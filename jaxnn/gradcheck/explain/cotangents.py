"""Mistakes at the start of an otherwise correct backward pass, or in the arrays that it uses.

A backward is linear in the cotangent dy, so a mistake at its beginning gives the true gradient for
a different dy. A mistake in a forward value gives the true gradient at different arrays.
"""

import time
from collections.abc import Iterator
from itertools import chain, combinations, permutations

import numpy as np

from jaxnn.gradcheck.explain.elementwise import ELEMENTWISE
from jaxnn.gradcheck.explain.evidence import Arrays, Comparison, Evidence, Hypothesis, Outputs
from jaxnn.gradcheck.explain.factors import LEARNING_RATE

Changed = tuple[Outputs, str, str]

MOST_EXAMPLES = 16
MOST_SECONDS = 0.4
STEP = 1e-3
EVERYWHERE = (-np.inf, np.inf)


def of_unused_cotangents(leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The true gradients with a cotangent that is unused or belongs to another output."""
    for dy, words, mistake in _unused(evidence) if evidence.true_gradient else ():
        found = evidence.gradients_for(dy).get(leaf)
        if found is not None:
            yield Hypothesis(found, words, mistake)


def of_other_cotangents(leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The true gradients for a cotangent changed by a mistake."""
    if evidence.true_gradient is None or not evidence.dy:
        return
    for dy, words, mistake in chain(
        _through_a_cell(evidence), _changed(evidence), _on_examples(evidence)
    ):
        if all(np.isfinite(part).all() for part in dy):
            found = evidence.gradients_for(dy).get(leaf)
            if found is not None:
                yield Hypothesis(found, words, mistake, True)
    yield from _reversed(leaf, evidence)


def at_other_arrays(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The true gradients at arrays changed by a mistake."""
    if evidence.forward is None or leaf not in evidence.arrays:
        return
    start = time.monotonic()
    evidence.outputs_at({})
    if 4 * comparison.truth.size * (time.monotonic() - start) > MOST_SECONDS:
        return
    for changes, words, mistake in _changes(leaf, evidence):
        gradient = gradient_by_differences(leaf, evidence, changes)
        if gradient is not None:
            yield Hypothesis(gradient, words, mistake)


def gradient_by_differences(leaf: str, evidence: Evidence, changes) -> np.ndarray | None:
    """The gradient of ⟨dy, y⟩ at other arrays, by central differences of fourth order.

    Args:
        leaf: the path of the array with respect to which to differentiate.
        evidence: of the gradient.
        changes: the other arrays.

    Returns:
        The gradient, or `None` if the function fails there.
    """
    at = np.array(changes.get(leaf, evidence.arrays[leaf]), np.float64)
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        total = 0.0
        for step, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = at.copy()
            moved[index] += step * STEP
            outputs = evidence.outputs_at(changes | {leaf: moved})
            if len(outputs) != len(evidence.dy):
                return None
            total += weight * sum(
                float(np.vdot(dy, y)) for dy, y in zip(evidence.dy, outputs, strict=True)
            )
        gradient[index] = total / (12 * STEP)
    return gradient


def _unused(evidence) -> Iterator[Changed]:
    """The cotangents with some or all of them unused or misused."""
    dy = evidence.dy
    if any((part != 1).any() for part in dy):
        yield tuple(map(np.ones_like, dy)), "is the gradient for dy = 1, as if dy were not used", ""
    if len(dy) < 2:
        return
    for i, part in enumerate(dy):
        before, after = dy[:i], dy[i + 1 :]
        contribution = f"the contribution of output {i}"
        unused = f"lacks {contribution}: the cotangent of output {i} is not used"
        yield (*before, np.zeros_like(part), *after), unused, ""
        of_one = (
            f"is the gradient for a cotangent of 1 at output {i}: the real cotangent is not used"
        )
        yield (*before, np.ones_like(part), *after), of_one, ""
        yield (*before, -part, *after), f"includes {contribution} with the opposite sign", "C1"
        yield (*before, 2 * part, *after), f"includes {contribution} twice", ""
        yield (*before, 0.5 * part, *after), f"includes only half of {contribution}", "C5"
    for i, j in combinations(range(len(dy)), 2):
        if dy[i].shape == dy[j].shape:
            swapped = list(dy)
            swapped[i], swapped[j] = dy[j], dy[i]
            words = f"has the cotangents of outputs {i} and {j} swapped"
            yield tuple(swapped), words, ""


def _changed(evidence) -> Iterator[Changed]:
    """The cotangents with the first replaced by a function of itself or of the output."""
    dy, rest = evidence.dy[0], evidence.dy[1:]
    if dy.size < 2 or not evidence.y or np.iscomplexobj(dy):
        return
    y, name = evidence.y[0], evidence.output_name
    sign_of_dy = "the mask is taken from the sign of the incoming gradient"
    for part, words, mistake in (
        *_output_derivatives(dy, y, name),
        (dy**2, "uses dy squared instead of dy", ""),
        (np.abs(dy), "uses the absolute value of dy", ""),
        (np.sign(dy), "uses only the sign of dy", "L8"),
        (np.maximum(dy, 0), f"uses only the positive entries of dy: {sign_of_dy}", "A4"),
        (dy - dy.mean(), "uses dy minus its mean", ""),
        (np.full_like(dy, dy.mean()), "uses the mean of dy for every entry of dy", ""),
        (np.full_like(dy, dy.sum()), "uses the sum of dy for every entry of dy", ""),
        (dy * y, f"has a superfluous factor {name} at each entry of dy", ""),
        (dy / y, f"lacks a factor {name} at each entry of dy", ""),
        (y, f"uses {name} instead of dy", ""),
        (dy + y, f"uses dy + {name} instead of dy", ""),
    ):
        yield (part, *rest), words, mistake
    for axis in range(dy.ndim):
        words = f"uses dy minus its mean over axis {axis}"
        yield (dy - dy.mean(axis, keepdims=True), *rest), words, ""


def _output_derivatives(dy, y, name) -> Iterator[tuple[np.ndarray, str, str]]:
    """The cotangent with a wrong derivative at the output, written in terms of y."""
    functions = [
        f
        for f in ELEMENTWISE
        if f.of_output is not None and f.range != EVERYWHERE and f.takes_output(y)
    ]
    for function in functions:
        slope = function.slope_of_output(y)
        if not slope.all() or np.array_equal(slope, y):  # a factor y does not identify exp
            continue
        of, text = function.name, function.output_formula.replace("y", name)
        derivative = f"the derivative of the output's {of}"
        yield dy / slope, f"lacks the factor {text}, {derivative}", "A6"
        yield dy * slope, f"contains {text}, {derivative}, twice", "L2"
        if function.inverse is not None:
            z = function.inverse(y)
            at_input = f"applies {derivative}, {text}, to the input instead of the output"
            yield dy * function.slope_of_output(z) / slope, at_input, "A2"
            at_output = f"evaluates {derivative} at the output instead of the input"
            yield dy * function.slope(y) / slope, at_output, "A2"
        yield dy * y / slope, f"uses the value of {of} instead of its derivative", "A3"
        yield dy * (1 - slope) / slope, f"contains 1 minus {derivative}", "A3"
        for other in functions:
            if other is not function:
                wrong = f"{other.output_formula.replace('y', name)}, the derivative of {other.name}"
                words = f"uses {wrong}, instead of that of {of}, {text}"
                yield dy * other.slope_of_output(y) / slope, words, "A3"


def _through_a_cell(evidence) -> Iterator[Changed]:
    """The cotangents with a wrong path h = o·tanh(c) between two outputs, as in an LSTM."""
    for i, j in permutations(range(len(evidence.y)), 2):
        h, c = evidence.y[i], evidence.y[j]
        if h.shape != c.shape or h.dtype.kind != "f":
            continue
        t = np.tanh(c)
        o = h / t
        if not ((o > 0) & (o < 1)).all():
            continue
        dh, slope = evidence.dy[i], 1 - t**2
        cell = f"the tanh between the cell state (output {j}) and output {i}"
        for factor, words, mistake in (
            (o, f"is computed without the derivative of {cell}", "A1"),
            (
                o * (1 - t),
                f"uses 1 − tanh(c), without the square, as the derivative of {cell}",
                "A3",
            ),
            (o * t, f"uses the value instead of the derivative of {cell}", "A3"),
            (o * (1 - c**2), f"uses 1 − c² instead of 1 − tanh(c)² for {cell}", "A2"),
            (slope, f"lacks the factor o, the output gate, after {cell}", ""),
            (h * slope, f"uses output {i} instead of the output gate after {cell}", ""),
            (
                0 * o,
                f"lacks the path from output {i} through the cell state: its cotangent "
                "does not reach it",
                "",
            ),
        ):
            changed = list(evidence.dy)
            changed[j] = changed[j] + dh * (factor - o * slope)
            yield tuple(changed), words, mistake


def _on_examples(evidence) -> Iterator[Changed]:
    """The cotangents restricted to some rows."""
    first, rest = evidence.dy[0], evidence.dy[1:]
    for axis in range(min(first.ndim, 2)):
        n = first.shape[axis]
        if n < 2:
            continue
        rows = [0, n - 1, *(range(1, n - 1) if n <= MOST_EXAMPLES else ())]
        for row in rows:
            chosen = np.expand_dims(
                np.arange(n) == row, tuple(a for a in range(first.ndim) if a != axis)
            )
            where = f"index {row} of axis {axis} of {evidence.output_name}"
            example = f"includes only one example, {where}, instead of the sum over all"
            yield (first * chosen, *rest), example, "D5"
            yield (first * ~chosen, *rest), f"lacks one example, {where}", "D5"


def _reversed(leaf, evidence) -> Iterator[Hypothesis]:
    """The true gradient computed with the order along an axis reversed."""
    first = evidence.dy[0]
    array = evidence.arrays.get(leaf)
    for axis in range(first.ndim):
        turned = (np.flip(first, axis), *evidence.dy[1:])
        found = evidence.gradients_for(turned).get(leaf)
        if found is None:
            return
        words = f"runs along axis {axis} in the order of the forward pass, not in reverse order"
        if array is not None and array.shape == first.shape:
            yield Hypothesis(np.flip(found, axis), words, "", True)
        yield Hypothesis(found, f"uses dy reversed along axis {axis}: the order is wrong", "", True)


def _changes(leaf, evidence) -> Iterator[tuple[Arrays, str, str]]:
    """Candidate replacements of the arrays, each with its description."""
    rates = [v for name, v in evidence.options.items() if LEARNING_RATE.fullmatch(name)]
    updated = {
        path: array - rate * evidence.given[path]
        for rate in rates
        for path, array in evidence.arrays.items()
        if path != leaf and path in evidence.given and evidence.given[path].shape == array.shape
    }
    for path, array in updated.items():
        words = (
            f"is computed with {path} after its update (the new weights): the update is too early"
        )
        yield {path: array}, words, "D2"
    if len(updated) > 1:
        yield updated, "is computed with the parameters after their update: it is too early", "D2"
    for path, array in evidence.arrays.items():
        if array.ndim > 2:
            words = (
                f"is computed with {path} flipped along its last two axes: the kernel is rotated"
            )
            yield {path: array[..., ::-1, ::-1]}, words, ""
    for path, array in evidence.arrays.items():
        if array.ndim == 2 and array.shape[0] == array.shape[1] and path != leaf:
            yield {path: array.T}, f"is computed with {path} transposed", ""
    for path, array in evidence.arrays.items():
        if path == leaf or array.size < 2:
            continue
        for other, value in evidence.arrays.items():
            if other != path and value.shape == array.shape:
                yield {path: value}, f"is computed with {other} instead of {path}", ""
        yield {path: np.zeros_like(array)}, f"is computed as if {path} were zero", ""
        yield (
            {path: np.ones_like(array)},
            f"is computed as if {path} were 1: its factor is missing",
            "",
        )
        yield {path: -array}, f"is computed with the opposite sign of {path}", ""
