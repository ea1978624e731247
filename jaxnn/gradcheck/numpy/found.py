"""Match the arrays that a backward wrote or returned with the variables they are gradients of."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from jaxnn.gradcheck.numpy.held import NamedArray, is_number, walk
from jaxnn.gradcheck.numpy.naming import (
    ALIKE,
    EXACT,
    KIN,
    LABELS,
    PREDICTION,
    UNKNOWN,
    UNMARKED,
    likeness,
    without_marks,
)

BY_POSITION = 2.5
SAME_SHAPE, SAME_NUMBERS = 3.0, 1.0
RETURNED, WRITTEN = 0.1, 1.0


class Candidate(NamedTuple):
    """An array that may be a gradient.

    Attributes:
        array: the array, with its place.
        names: the names that may identify it.
        position: its position in the sequence that backward returned, or `None`.
        source: "returned", "written" or "held": a held array existed before and did not change.
    """

    array: NamedArray
    names: tuple
    position: int | None
    source: str


class Suitable(NamedTuple):
    """The candidates that fit a variable equally well.

    Attributes:
        candidates: the candidates, possibly none.
        by_name: how well their names or positions match; 0 if only the shape does.
    """

    candidates: list[Candidate]
    by_name: float


class Misfit(Exception):
    """The result of backward does not fit the arguments."""


def candidates(used, before, returned, order) -> list[Candidate]:
    """The arrays that backward returned, and those that it created or changed.

    Args:
        used: the copy of the code, after its backward.
        before: the values of its arrays before.
        returned: the result of backward.
        order: the function whose `return` statement names the items of the result, or `None`.
    """
    found = list(_returned(returned, order))
    inputs = [leaf.key for leaf in used.leaves() if leaf.owner != "global"]
    for leaf in used.named_arrays():
        if leaf.owner == "argument" and leaf.key in inputs and not without_marks(leaf.names):
            continue
        was = before.get(leaf.key)
        changed = was is None or not _same(was, leaf.value)
        found.append(Candidate(leaf, leaf.names, None, "written" if changed else "held"))
    return found


def handed_over(handed, arrays) -> Iterator[Candidate]:
    """The gradients passed to optimizers, each under the name of its parameter."""
    known: dict[int, NamedArray] = {}
    for leaf in sorted(arrays, key=lambda leaf: len(leaf.names)):
        known.setdefault(id(leaf.value), leaf)
    for parameter, gradient in handed:
        leaf = known.get(id(parameter))
        if leaf is not None:
            names = ("grad", *leaf.names)
            array = NamedArray("handed", leaf.path, names, gradient)
            yield Candidate(array, names, None, "returned")


def _same(before, now) -> bool:
    return np.shape(before) == np.shape(now) and np.array_equal(before, now, equal_nan=False)


def _returned(returned, order) -> Iterator[Candidate]:
    if returned is None:
        return
    if isinstance(returned, Mapping):
        for leaf in walk("returned", returned, wanted=is_number):
            yield Candidate(leaf, leaf.names, None, "returned")
        return
    several = isinstance(returned, tuple | list)
    entries = list(returned) if several else [returned]
    said = _names_returned(order, len(entries)) if order is not None else [None] * len(entries)
    for i, (entry, name) in enumerate(zip(entries, said, strict=True)):
        names = (name,) if name else ()
        if isinstance(entry, Mapping):
            names = ()
        for leaf in walk("returned", entry, names=names, wanted=is_number):
            position = i if not isinstance(entry, Mapping | list | tuple) else None
            yield Candidate(leaf, leaf.names, position, "returned")


@cache
def _names_returned(function, count) -> list[str | None]:
    """The names in the `return` statement of a function, if they are plain names."""
    nothing: list[str | None] = [None] * count
    try:
        source = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError):
        return nothing
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    if not returns or returns[-1] is None:
        return nothing
    value = returns[-1]
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        called = getattr(function, "__globals__", {}).get(value.func.id)
        if inspect.isfunction(called) and called is not function:
            return _names_returned(called, count)
    if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == count + 1:
        value = ast.Tuple(value.elts[1:], ast.Load())
    entries = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
    if len(entries) != count:
        return nothing
    return [_plain_name(entry) for entry in entries]


def _plain_name(node) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def gradients(code, variables, found: list[Candidate]) -> dict[tuple[str, str], Suitable]:
    """For each variable, the candidates that fit it best.

    Shapes come first, names break ties; an array is the gradient of at most one variable. If no
    name fits, every other array of the same shape is a candidate too.

    Raises:
        Misfit: backward returned more arrays than there are variables.
    """
    positions = _positions(code, variables, found)
    scored: list[tuple[float, float, int, Any, Candidate]] = []
    for variable in variables:
        for i, candidate in enumerate(found):
            scores = _scores(code, variable, candidate, positions)
            if scores is not None:
                scored.append((*scores, -i, variable, candidate))
    scored.sort(key=lambda entry: (entry[0], entry[2]), reverse=True)
    suitable = {variable.key: Suitable([], UNKNOWN) for variable in variables}
    best: dict[tuple[str, str], float] = {}
    taken: list[Any] = []
    for score, by_name, _, variable, candidate in scored:
        if any(candidate is other for other in taken):
            continue
        if not suitable[variable.key].candidates:
            suitable[variable.key] = Suitable([candidate], by_name)
            best[variable.key] = score
            taken.append(candidate)
        elif score == best[variable.key] or suitable[variable.key].by_name < KIN:
            suitable[variable.key].candidates.append(candidate)
    return suitable


def _scores(code, variable, candidate, positions) -> tuple[float, float] | None:
    """The total score of a candidate and its score by name; `None` if it does not fit."""
    given = code.grads.get(variable.path)
    if given is not None:
        is_it = given in (candidate.array.path, *candidate.names[-1:])
        return (100.0, EXACT) if is_it else None
    shape, value = np.shape(variable.value), candidate.array.value
    by_name = likeness(variable.names, candidate.names)
    marked = bool(without_marks(candidate.names))
    if candidate.source != "returned" and not marked and by_name >= KIN - UNMARKED:
        return None
    at_its_place = positions.get((candidate.position, variable.key), UNKNOWN)
    if at_its_place:
        by_name = max(by_name + RETURNED, at_its_place)
    if candidate.source == "held" and by_name < ALIKE:
        return None
    same = np.shape(value) == shape
    if by_name >= BY_POSITION:
        fits = SAME_SHAPE if same else SAME_NUMBERS * _has_same_numbers(np.shape(value), shape)
        return by_name + fits + RETURNED * (candidate.source == "returned"), by_name
    if not same or (np.ndim(value) == 0 and variable.owner != "argument"):
        return None
    if candidate.source == "returned":
        return by_name + SAME_SHAPE, by_name
    if variable.owner == "argument" and not marked:
        return None
    return by_name + SAME_SHAPE - WRITTEN + UNMARKED * marked, by_name


def _fit(order, whole) -> bool:
    """Whether the items of a sequence have the shapes of variables in this order."""
    return all(
        np.shape(candidate.array.value) == np.shape(order[candidate.position].value)
        for candidate in whole
    )


def _has_same_numbers(given, shape) -> bool:
    """Whether a shape may be the other one transposed, unsummed, or summed over too many axes."""
    return sorted(n for n in given if n > 1) == sorted(n for n in shape if n > 1) or (
        len(given) > len(shape) and given[len(given) - len(shape) :] == shape
    )


def _positions(code, variables, found) -> dict[tuple[int | None, tuple[str, str]], float]:
    """The variables to which the items of a returned sequence belong by their positions."""
    count = 1 + max((c.position for c in found if c.position is not None), default=-1)
    whole = [c for c in found if c.position is not None]
    if not count:
        return {}
    inputs = [v for v in variables if v.owner == "argument" and len(v.names) == 1]
    others = [v for v in variables if v.owner != "argument"]
    nested = [v for v in variables if v.owner == "argument" and len(v.names) > 1]
    if count == 1 and len(inputs) > 1 and not others:
        predicted = [v for v in inputs if not LABELS.fullmatch(v.names[0])] or inputs
        named = [v for v in predicted if PREDICTION.fullmatch(v.names[0])] or predicted
        return {(0, v.key): BY_POSITION + 0.1 * (v is named[0]) for v in named[:1]}
    orders = (inputs, [*inputs, *others], nested, [*inputs, *nested], others)
    possible = [order for order in orders if len(order) == count]
    fitting = [order for order in possible if _fit(order, whole)]
    for order in [*fitting, *possible][:1]:
        return {(i, v.key): BY_POSITION for i, v in enumerate(order)}
    if len(whole) > len(code.names) + len(others) + len(nested) and code.backward is not None:
        raise Misfit(
            f"returned {count} gradients for {len(code.names)} argument(s) and "
            f"{len(others)} parameter(s)"
        )
    by_name = {name: v.key for v in inputs for name in v.names}
    return {(i, by_name[name]): BY_POSITION for i, name in enumerate(code.names) if name in by_name}
