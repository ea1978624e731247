"""The values of the expressions of the code, recorded in one run of an instrumented copy."""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnn.gradcheck.repair.source import FUNCTIONS, Unit

VALUE, SCOPE = "__gradcheck_value__", "__gradcheck_scope__"
MOST_OPERANDS = 40


class Facts(NamedTuple):
    """The known facts about a value.

    Attributes:
        shape: of the array; () for a number.
        kind: "f", "c", "i", "b" as in NumPy; "" for anything but an array.
        value: the array itself; None while JAX traces.
    """

    shape: tuple[int, ...]
    kind: str
    value: np.ndarray | None

    @property
    def floating(self) -> bool:
        """Whether it is an array or a number with a gradient."""
        return self.kind in ("f", "c")

    def same_as(self, other: "Facts") -> bool:
        """Whether both are known and equal."""
        return (
            self.value is not None
            and other.value is not None
            and self.shape == other.shape
            and np.array_equal(self.value, other.value, equal_nan=True)
        )


class Operand(NamedTuple):
    """An expression that can be written at a place, and its value."""

    source: str
    facts: Facts


class Recording:
    """The values of expressions, and the variables in scope at each statement, at the first visit.

    Attributes:
        order: the statements that ran, in the order of their first visits.
        repeated: the expressions that ran more than once.
    """

    def __init__(self):
        self.values: dict[int, Facts] = {}
        self.scopes: dict[int, list[Operand]] = {}
        self.order: list[int] = []
        self.repeated: set[int] = set()

    def value(self, node: ast.AST) -> Facts | None:
        """The value of an expression; None if it did not run."""
        return self.values.get(getattr(node, "mark", -1))

    def scope(self, statement: ast.AST) -> list[Operand]:
        """The arrays and numbers in scope at a statement."""
        return self.scopes.get(getattr(statement, "mark", -1), [])

    def ran(self, statement: ast.AST) -> bool:
        """Whether a statement ran."""
        return getattr(statement, "mark", -1) in self.scopes

    def note_value(self, mark: int, value):
        """Record the value of an expression, and return it."""
        if mark in self.values:
            self.repeated.add(mark)
        else:
            self.values[mark] = facts(value)
        return value

    def note_scope(self, mark: int, names: Mapping[str, Any]) -> None:
        """Record the variables in scope at a statement."""
        if mark not in self.scopes:
            self.order.append(mark)
            self.scopes[mark] = list(operands(names))


def record(units: list[Unit], run: Callable[[], object]) -> Recording:
    """Run once with every expression of the units recorded.

    The nodes of their trees get the attribute `mark`, by which `Recording` identifies them.
    """
    recording = Recording()
    mark = 0
    for unit in units:
        for node in ast.walk(unit.root):
            mark += 1
            node.mark = mark  # type: ignore[attr-defined]
    copies = []
    for unit in units:
        root = _Instrumented().visit(copy.deepcopy(unit.root))
        copies.append(ast.fix_missing_locations(root))
        unit.globals.update({VALUE: recording.note_value, SCOPE: recording.note_scope})
    try:
        _run_swapped(list(zip(units, copies, strict=True)), run)
    finally:
        for unit in units:
            for name in (VALUE, SCOPE):
                unit.globals.pop(name, None)
    return recording


def facts(value) -> Facts:
    """The facts of a value; kind "" if it is not an array of numbers."""
    if isinstance(value, bool | int | float | complex | np.generic | np.ndarray) or (
        hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "ndim")
    ):
        try:
            shape, dtype = tuple(np.shape(value)), getattr(value, "dtype", np.asarray(value).dtype)
            kind = dtype.kind if hasattr(dtype, "kind") else ""
            kind = "f" if str(dtype).startswith(("bfloat", "float")) else kind
            if kind not in "fcibu":
                return Facts((), "", None)
            try:
                held = np.array(value)
            except Exception:
                held = None
            return Facts(shape, "i" if kind == "u" else kind, held)
        except Exception:
            return Facts((), "", None)
    return Facts((), "", None)


def operands(names: Mapping[str, Any]) -> Iterator[Operand]:
    """The arrays and numbers reachable from names, the shortest expressions first."""
    pending = [
        (name, value)
        for name, value in names.items()
        if name.isidentifier() and not name.startswith("__")
    ]
    found: list[Facts] = []
    for depth in range(4):
        inner: list[tuple[str, Any]] = []
        for source, value in pending:
            known = facts(value)
            if not known.kind:
                if depth < 3:
                    inner += _parts(source, value)
            elif not _is_repeated(known, found):
                found.append(known)
                yield Operand(source, known)
                if len(found) >= MOST_OPERANDS:
                    return
        pending = inner


def _is_repeated(known: Facts, found: list[Facts]) -> bool:
    """Whether an array was found under another name; zeros may be arrays still to be filled."""
    return (
        known.value is not None
        and bool(known.value.any())
        and any(known.same_as(other) and known.kind == other.kind for other in found)
    )


def _parts(source: str, value) -> list[tuple[str, Any]]:
    """The parts of a container or of an object, with expressions for them."""
    if isinstance(value, dict):
        items = [(f"{source}[{key!r}]", part) for key, part in value.items() if type(key) is str]
        return items[:16]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f"{source}.{name}", getattr(value, name)) for name in value._fields]
    if isinstance(value, list | tuple):
        return [(f"{source}[{i}]", part) for i, part in enumerate(value[:12])]
    if isinstance(value, type) or callable(value) or type(value).__module__ == "builtins":
        return []
    held = getattr(value, "__dict__", None) or {}
    return [(f"{source}.{name}", part) for name, part in list(held.items())[:24]]


def _run_swapped(pairs: list, run: Callable[[], object]) -> None:
    """Run with the code of several units replaced."""
    if not pairs:
        run()
        return
    (unit, root), *others = pairs
    with unit.swapped(root):
        _run_swapped(others, run)


class _Instrumented(ast.NodeTransformer):
    """A tree in which each expression and each statement reports to the recording."""

    def visit(self, node):
        if isinstance(node, FUNCTIONS):
            return self._function(node)
        if isinstance(node, ast.ClassDef):
            node.body = [self.visit(part) for part in node.body]
            return node
        if isinstance(node, ast.JoinedStr | ast.pattern):
            return node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            return self._call(node)
        self.generic_visit(node)
        if isinstance(node, ast.expr) and _has_value(node):
            return _reported(node)
        return node

    def _call(self, node):
        """A call whose function is not recorded, though the object of a method is."""
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
        node.args = [self.visit(part) for part in node.args]
        node.keywords = [self.visit(part) for part in node.keywords]
        return _reported(node)

    def _function(self, node):
        if isinstance(node, ast.Lambda):
            scope = _scope(node)
            body = ast.Tuple([scope, self.visit(node.body)], ast.Load())
            node.body = ast.Subscript(body, ast.Constant(1), ast.Load())
            return node
        node.body = self._block(node.body)
        return node

    def _block(self, statements):
        """Statements, each of which reports the variables in scope."""
        block = []
        for statement in statements:
            if not isinstance(statement, ast.Global | ast.Nonlocal):
                block.append(ast.Expr(_scope(statement)))
            for field, part in ast.iter_fields(statement):
                if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                    break
                if field in ("body", "orelse", "finalbody"):
                    setattr(statement, field, self._block(part))
                elif isinstance(part, list):
                    setattr(statement, field, [self._part(item) for item in part])
                elif isinstance(part, ast.AST):
                    setattr(statement, field, self._part(part))
            if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                statement = self.visit(statement)
            block.append(statement)
        return block

    def _part(self, part):
        if isinstance(part, ast.ExceptHandler | ast.match_case):
            part.body = self._block(part.body)
            return part
        return self.visit(part) if isinstance(part, ast.AST) else part


def _has_value(node: ast.expr) -> bool:
    """Whether an expression can be wrapped in a call that returns its value."""
    if isinstance(
        node, ast.Constant | ast.Starred | ast.Slice | ast.Tuple | ast.List | ast.NamedExpr
    ):
        return False
    return isinstance(getattr(node, "ctx", ast.Load()), ast.Load)


def _reported(node: ast.expr) -> ast.Call:
    mark = ast.Constant(getattr(node, "mark", -1))
    return ast.Call(ast.Name(VALUE, ast.Load()), [mark, node], [])


def _scope(node: ast.AST) -> ast.Call:
    names = ast.Call(ast.Name("locals", ast.Load()), [], [])
    mark = ast.Constant(getattr(node, "mark", -1))
    return ast.Call(ast.Name(SCOPE, ast.Load()), [mark, names], [])
