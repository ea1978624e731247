"""Edits of one step: the places in a statement, and the operations that change them."""

import ast
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnn.gradcheck.repair.probe import Facts, Operand, Recording, facts
from jaxnn.gradcheck.repair.source import FUNCTIONS, Unit

Statement = ast.stmt | ast.Lambda


class Place(NamedTuple):
    """The position of a node: in a field of its parent, or in a list in that field."""

    parent: ast.AST
    field: str
    at: int | None = None

    @property
    def node(self) -> Any:
        """The current node."""
        held = getattr(self.parent, self.field)
        return held if self.at is None else held[self.at]

    def put(self, node) -> None:
        """Replace the node."""
        if self.at is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.at] = node


class Edit(NamedTuple):
    """A change of one statement.

    Attributes:
        statement: the statement to change.
        changes: the new nodes and their places.
        cost: how implausible the edit is; 1 is the most plausible.
        reason: a short description of the mistake.
        added: the kind of the inserted part: "constant", "array", or "" for none.
    """

    statement: Statement
    changes: tuple[tuple[Place, Any], ...]
    cost: int
    reason: str
    added: str = ""

    def apply(self) -> list[tuple[Place, Any]]:
        """Make the changes, and return the argument of `restore` that undoes them."""
        before = [(place, place.node) for place, _ in self.changes]
        for place, node in self.changes:
            place.put(node)
        return before


def restore(before: list[tuple[Place, Any]]) -> None:
    """Undo the changes of an edit."""
    for place, node in reversed(before):
        place.put(node)


class Site:
    """A statement that ran, with the context for editing it.

    Attributes:
        unit: the outermost function around it.
        statement: a statement or a lambda.
        scope: the arrays and numbers that can be written there.
        unused: the names that the enclosing function assigns and never uses.
        library: the file's name for `jax.numpy`, or else for NumPy.
        numpy: the file's name for NumPy.
        places: the places of its expressions.
        relevant: whether a wrong gradient, and no right one, depends on the code at a place.
    """

    def __init__(self, unit: Unit, statement: Statement, recording: Recording, scope):
        self.unit, self.statement, self._recording = unit, statement, recording
        self.scope: list[Operand] = scope
        self.unused: frozenset[str] = frozenset()
        modules = _modules(unit.globals)
        self.numpy = modules.get("numpy")
        self.library = modules.get("jax.numpy", self.numpy)
        self.places = list(_places(statement))
        self.relevant: Callable[[Place], bool] = lambda place: True

    @property
    def line(self) -> int:
        """The line where the statement begins."""
        return self.statement.lineno

    def facts(self, node: ast.AST) -> Facts | None:
        """The value of an expression; None if it did not run or is not an array."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return Facts((), "f" if type(node.value) is float else "i", np.asarray(node.value))
        known = self._recording.value(node)
        return known if known is not None and known.kind else None

    def ran(self, node: ast.AST) -> bool:
        """Whether an expression ran."""
        return self._recording.value(node) is not None

    def floating(self, node: ast.AST) -> Facts | None:
        """The value of a floating-point expression; None for any other."""
        known = self.facts(node)
        return known if known is not None and known.floating else None

    def edit(self, place: Place, new, cost: int, reason: str, added: str = "") -> Edit:
        """The edit that puts a node, or the source of an expression, at a place."""
        new = parsed(new) if isinstance(new, str) else new
        return Edit(self.statement, ((place, located(new, place.node)),), cost, reason, added)


def sites(unit: Unit, recording: Recording) -> Iterator[Site]:
    """The statements and lambdas of a unit that ran."""
    for node in ast.walk(unit.root):
        if isinstance(node, FUNCTIONS):
            yield from _sites_of_function(unit, node, recording)


def parsed(source: str, **nodes: ast.expr) -> ast.expr:
    """An expression parsed from its source, with nodes substituted for some names."""
    tree = ast.parse(source, mode="eval").body
    for node in ast.walk(tree):
        for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
            if hasattr(node, name):
                delattr(node, name)
    if isinstance(tree, ast.Name) and tree.id in nodes:
        return nodes[tree.id]
    return _Filled(nodes).visit(tree)


def located(new, like: ast.AST):
    """A node whose new parts take their source location from another node."""
    for node in ast.walk(new) if isinstance(new, ast.AST) else ():
        if isinstance(node, ast.expr | ast.stmt | ast.keyword) and not hasattr(node, "lineno"):
            ast.copy_location(node, like)
            for name, value in (("lineno", 1), ("col_offset", 0)):
                if not hasattr(node, name):
                    setattr(node, name, value)
    return new


def factors(place: Place) -> list[tuple[Place, bool, Place]]:
    """The factors of a product: their places, whether they divide, the places of the products."""
    node = place.node
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div)):
        return []
    left, right = Place(node, "left"), Place(node, "right")
    divides = isinstance(node.op, ast.Div)
    return [
        *(factors(left) or [(left, False, place)]),
        *([] if divides else factors(right)),
        *([(right, divides, place)] if divides or not factors(right) else []),
    ]


def additive_places(site: Site) -> Iterator[Place]:
    """The places where a factor or a term may be missing, without equivalent ones."""
    for place in results(site):
        yield from _open_places(site, place)


def factor_places(site: Site) -> Iterator[Place]:
    """The places of factors in products, where a term may be missing."""
    for place in site.places:
        inner = isinstance(place.parent, ast.BinOp) and isinstance(
            place.parent.op, ast.Mult | ast.Div
        )
        if inner and isinstance(place.node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
            yield place


def results(site: Site) -> Iterator[Place]:
    """The expressions that a statement computes, those of a tuple, list or dict one by one."""
    field = "body" if isinstance(site.statement, ast.Lambda) else "value"
    if isinstance(getattr(site.statement, field, None), ast.expr):
        yield from _entries(Place(site.statement, field))


def number(node: ast.AST):
    """The numeric literal that a node represents, with its sign, or None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    return None


def text(node: ast.AST) -> str:
    """The source of a node, in one line."""
    return ast.unparse(node).replace(" ** ", "**")


def name_of_call(node: ast.Call) -> str:
    """The last part of the name of the function that is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def is_method(site: Site, node: ast.Call) -> bool:
    """Whether a call is a method call on an array."""
    return isinstance(node.func, ast.Attribute) and site.facts(node.func.value) is not None


def is_alias(statement: ast.AST) -> bool:
    """Whether a statement only gives a value another name."""
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Name)
        and isinstance(statement.targets[0], ast.Name)
    )


def _sites_of_function(unit: Unit, function, recording: Recording) -> Iterator[Site]:
    """The sites of one function, without those of the functions inside it."""
    body = [function] if isinstance(function, ast.Lambda) else _statements(function.body)
    ran = [statement for statement in body if recording.ran(statement)]
    names = sorted({n.id for s in ran for n in ast.walk(s) if isinstance(n, ast.Name)})
    numbers = {name: unit.globals[name] for name in names if name in unit.globals}
    outer = list(_global_operands(numbers))
    written = _written_operands(ran, recording)
    unused = _unused_names(function)
    for statement in ran:
        own = recording.scope(statement)
        known = {operand.source for operand in own}
        local = {source.split("[")[0].split(".")[0] for source in known}
        more = [o for o, names in written if o.source not in known and names <= local]
        site = Site(unit, statement, recording, [*own, *more, *outer])
        site.unused = unused
        yield site


def _unused_names(function) -> frozenset[str]:
    """The names that a function assigns and never uses."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return frozenset(node.id for node in names if isinstance(node.ctx, ast.Store)) - used


def _written_operands(statements, recording: Recording) -> list[tuple[Operand, set[str]]]:
    """The entries and attributes of arrays that occur in the code, with their names."""
    found: dict[str, tuple[Operand, set[str]]] = {}
    for statement in statements:
        for place in _places(statement):
            node = place.node
            if not isinstance(node, ast.Subscript | ast.Attribute) or len(found) > 24:
                continue
            known = recording.value(node)
            parts = list(ast.walk(node))
            if (
                known is not None
                and known.floating
                and known.shape
                and isinstance(node.ctx, ast.Load)
                and not any(isinstance(part, ast.Call | ast.Lambda) for part in parts)
            ):
                names = {part.id for part in parts if isinstance(part, ast.Name)}
                found.setdefault(text(node), (Operand(text(node), known), names))
    return list(found.values())


def _global_operands(names: dict[str, Any]) -> Iterator[Operand]:
    """The numbers and arrays among the global names of a file."""
    for name, value in names.items():
        known = facts(value)
        if known.kind:
            yield Operand(name, known)


def _statements(body) -> Iterator[ast.stmt]:
    """The statements of a block and of nested blocks, without those of functions."""
    for statement in body:
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            continue
        yield statement
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            for part in getattr(statement, field, []):
                yield from _statements([part] if isinstance(part, ast.stmt) else part.body)


def _places(statement: Statement) -> Iterator[Place]:
    """The places of all expressions of a statement, except those in blocks and lambdas."""
    fields = ("body",) if isinstance(statement, ast.Lambda) else statement._fields
    pending = [
        place
        for field in fields
        for place in _children_in(statement, field)
        if isinstance(place.node, ast.AST) and not isinstance(place.node, ast.stmt)
    ]
    if isinstance(statement, (*FUNCTIONS[:2], ast.ClassDef)):
        return
    while pending:
        place = pending.pop(0)
        node = place.node
        if isinstance(node, ast.excepthandler | ast.match_case):
            continue
        if isinstance(node, ast.expr):
            yield place
        if not isinstance(node, ast.Lambda):
            pending += [
                child
                for field in node._fields
                for child in _children_in(node, field)
                if isinstance(child.node, ast.AST)
            ]


def _children_in(node: ast.AST, field: str) -> list[Place]:
    held = getattr(node, field, None)
    if isinstance(held, list):
        return [Place(node, field, index) for index in range(len(held))]
    return [Place(node, field)] if isinstance(held, ast.AST) else []


def _entries(place: Place) -> Iterator[Place]:
    """The entries of a tuple, a list or a dict, or the expression itself."""
    node = place.node
    field = {ast.Tuple: "elts", ast.List: "elts", ast.Dict: "values"}.get(type(node))
    if field is None:
        yield place
        return
    for index in range(len(getattr(node, field))):
        yield from _entries(Place(node, field, index))


def _open_places(site: Site, place: Place, closed: bool = False) -> Iterator[Place]:
    """The places below one; `closed` for a factor, whose own place equals its parent's."""
    node = place.node
    if not closed and site.floating(node) and not isinstance(node, ast.Constant):
        yield place
    match node:
        case ast.BinOp(op=ast.Mult() | ast.Div()):
            for factor, _, _ in factors(place):
                yield from _open_places(site, factor, closed=True)
        case ast.BinOp(op=ast.Pow()):
            yield from _open_places(site, Place(node, "left"))
        case ast.BinOp():
            yield from _open_places(site, Place(node, "left"))
            yield from _open_places(site, Place(node, "right"))
        case ast.UnaryOp(op=ast.USub()):
            yield from _open_places(site, Place(node, "operand"), closed=True)
        case ast.Call():
            if isinstance(node.func, ast.Attribute) and site.floating(node.func.value):
                yield from _open_places(site, Place(node.func, "value"))
            for index in range(len(node.args)):
                yield from _open_places(site, Place(node, "args", index))
        case ast.IfExp():
            yield from _open_places(site, Place(node, "body"))
            yield from _open_places(site, Place(node, "orelse"))
        case ast.Subscript():
            yield from _open_places(site, Place(node, "value"))
        case ast.GeneratorExp() | ast.ListComp():
            yield from _open_places(site, Place(node, "elt"))
        case ast.List() | ast.Tuple():
            for index in range(len(node.elts)):
                yield from _open_places(site, Place(node, "elts", index))
        case ast.Starred():
            yield from _open_places(site, Place(node, "value"))


def _modules(names: dict[str, Any]) -> dict[str, str]:
    """The names under which a file imports modules."""
    return {
        getattr(module, "__name__", ""): name
        for name, module in names.items()
        if type(module) is type(ast)
    }


class _Filled(ast.NodeTransformer):
    """Substitutes nodes for names in a tree."""

    def __init__(self, nodes: dict[str, ast.expr]):
        self._nodes = nodes

    def visit_Name(self, node):
        return self._nodes.get(node.id, node)
