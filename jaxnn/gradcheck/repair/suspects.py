"""The only statement that a wrong gradient can come from, if no change of one step repairs it."""

import ast
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np

from jaxnn.gradcheck.repair.edits import Place, Site, is_alias, results

_TRIVIAL_CALLS = ("len", "astype", "reshape", "asarray", "array", "ravel")


def suspect(
    sites: list[Site], wrong: Any, right: Mapping[str, Any], forwards: set[int]
) -> Site | None:
    """The only statement that computes a wrong gradient from correct or given values.

    Args:
        sites: the statements that ran, in their order.
        wrong: the gradient.
        right: the gradients that are right.
        forwards: the marks of the statements that the forward runs.

    Returns:
        The statement; None if several statements, or functions that may be wrong, take part.
    """
    final = next(
        (
            (site, place)
            for site in sites
            for place in results(site)
            if _mark(site) not in forwards
            and _equals(site, place.node, wrong)
            and site.relevant(place)
        ),
        None,
    )
    if final is None or _loops(sites, final[0]):
        return None
    parts = _Slice(sites, right, forwards)
    parts.follow(*final)
    found = list(parts.found.values()) or [final[0]]
    return found[0] if len(found) == 1 and parts.closed else None


class _Slice:
    """The statements that a value comes from and that may be wrong."""

    def __init__(self, sites, right, forwards):
        self._sites, self._right, self._forwards = sites, right, forwards
        self._seen: set[tuple[int, str]] = set()
        self.found: dict[int, Site] = {}
        self.closed = True

    def follow(self, site: Site, place: Place) -> None:
        """Add the statement of an expression and those that define its names."""
        known_right = any(_equals(site, place.node, value) for value in self._right.values())
        if known_right or not site.relevant(place):
            return
        nodes = list(ast.walk(place.node))
        counts = not _trivial(nodes) or is_alias(site.statement) or _writes_part(site)
        if counts and not _is_integer(site, place):
            self.found[_mark(site)] = site
        self.closed &= not any(self._calls_own_code(site, node) for node in nodes)
        for name in (node.id for node in nodes if isinstance(node, ast.Name)):
            if (_mark(site), name) not in self._seen:
                self._seen.add((_mark(site), name))
                self._follow_name(site, name)

    def _follow_name(self, site: Site, name: str) -> None:
        for other in _beside(self._sites, site):
            statement = other.statement
            if isinstance(statement, ast.Expr) and name in _names_in(statement):
                self.found[_mark(other)] = other
            if other is site or not isinstance(statement, ast.Assign | ast.AugAssign):
                continue
            targets = (
                [statement.target] if isinstance(statement, ast.AugAssign) else statement.targets
            )
            if any(name == n.id for t in targets for n in _written(t)):
                for place in _sources(statement, targets[0], name):
                    self.follow(other, place)

    def _calls_own_code(self, site: Site, node: ast.AST) -> bool:
        """Whether a node calls a function of the file that the forward does not use."""
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Attribute):
            return isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
        if not isinstance(node.func, ast.Name):
            return True
        called = site.unit.globals.get(node.func.id)
        lines = getattr(called, "__code__", None)
        return isinstance(called, FunctionType) and any(
            other.unit.globals is called.__globals__
            and lines is not None
            and other.line in {line for _, _, line in lines.co_lines()}
            and _mark(other) not in self._forwards
            for other in self._sites
        )


def _writes_part(site: Site) -> bool:
    """Whether a statement writes to a part of an array."""
    statement = site.statement
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Subscript) for target in targets)


def _is_integer(site: Site, place: Place) -> bool:
    """Whether an expression is a whole number, such as a size."""
    known = site.facts(place.node)
    return known is not None and known.kind == "i" and not known.shape


def _names_in(statement: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _loops(sites: list[Site], site: Site) -> bool:
    """Whether there is a loop in the same function as a statement."""
    return any(isinstance(s.statement, ast.For | ast.While) for s in _beside(sites, site))


def _mark(site: Site) -> int:
    return getattr(site.statement, "mark", -1)


def _sources(statement, target: ast.expr, name: str) -> Iterator[Place]:
    """The expressions that an assignment binds to a name."""
    value = statement.value
    if (
        isinstance(target, ast.Tuple | ast.List)
        and isinstance(value, ast.Tuple | ast.List)
        and len(target.elts) == len(value.elts)
    ):
        for index, part in enumerate(target.elts):
            if any(name == n.id for n in _written(part)):
                yield Place(value, "elts", index)
    else:
        yield Place(statement, "value")


def _written(target: ast.expr) -> Iterator[ast.Name]:
    """The names that an assignment to a target changes."""
    match target:
        case ast.Name():
            yield target
        case ast.Tuple() | ast.List():
            for part in target.elts:
                yield from _written(part)
        case ast.Subscript() | ast.Attribute() | ast.Starred():
            if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
                yield from _written(target.value)


def _beside(sites: list[Site], site: Site) -> list[Site]:
    """The statements of the same outermost function."""
    return [other for other in sites if other.unit is site.unit]


def _trivial(nodes: list[ast.AST]) -> bool:
    """Whether an expression passes values on without computing anything."""
    return all(
        _name_of(node) in _TRIVIAL_CALLS
        if isinstance(node, ast.Call)
        else not isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare)
        for node in nodes
    )


def _name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _equals(site: Site, node: ast.AST, gradient) -> bool:
    """Whether an expression had the numbers of a gradient."""
    known = site.facts(node)
    if known is None or known.value is None or not known.floating:
        return False
    gradient = np.asarray(gradient)
    return known.value.size == gradient.size and bool(
        np.allclose(known.value.ravel(), gradient.ravel(), rtol=1e-12, atol=0)
    )
