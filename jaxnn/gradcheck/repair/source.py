"""The functions that run, their syntax trees, and the replacement of their code."""

import __future__

import ast
import contextlib
import gc
import itertools
import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import jaxnn

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_FUTURES = sum(
    getattr(__future__, name).compiler_flag for name in __future__.all_feature_names
) & ~sum(getattr(__future__, name).compiler_flag for name in ("nested_scopes", "generators"))


class Unit:
    """An outermost function of a file, with everything defined inside it.

    Its tree may be edited in place. Within `swapped`, the functions created from it run the
    edited code, and so do the functions that they define.

    Attributes:
        file: the path of the file.
        root: a module that holds the imports of the file, which affect the compiler's choice
            of instructions, and the function in its classes.
        globals: the names that its functions see.
    """

    def __init__(self, code: CodeType, names: dict, classes: list, node: FunctionNode):
        self.file, self.globals = code.co_filename, names
        body: ast.stmt = ast.Expr(node) if isinstance(node, ast.Lambda) else node
        for outer in reversed(classes):
            body = ast.ClassDef(outer.name, [], [], [body], [])
        self.root = ast.fix_missing_locations(ast.Module([*_imports(self.file), body], []))
        self._flags = code.co_flags & _FUTURES
        self._codes = self._compiled(self.root)
        self._live: list[tuple[FunctionType, int]] = []

    def holds(self, code: CodeType) -> bool:
        """Whether a code object was compiled from this source."""
        return any(_same(code, own) for own in self._codes)

    def find_live(self, functions: Iterable[FunctionType]) -> None:
        """Keep the functions that were created from this unit."""
        for function in functions:
            if function.__globals__ is self.globals:
                places = (i for i, own in enumerate(self._codes) if _same(function.__code__, own))
                self._live += [(function, place) for place in itertools.islice(places, 1)]

    @contextlib.contextmanager
    def swapped(self, root: ast.Module | None = None) -> Iterator[None]:
        """Run a block with the current code of the tree.

        Args:
            root: another tree of the same functions.

        Raises:
            ValueError: the new code cannot take the place of the old one.
            SyntaxError: the tree is not a valid program.
        """
        codes = self._compiled(root or self.root)
        if len(codes) != len(self._codes):
            raise ValueError("the number of functions differs")
        before = [function.__code__ for function, _ in self._live]
        try:
            for function, place in self._live:
                function.__code__ = codes[place]
            yield
        finally:
            for (function, _), code in zip(self._live, before, strict=True):
                function.__code__ = code

    def _compiled(self, root: ast.Module) -> list[CodeType]:
        return list(_nested(compile(root, self.file, "exec", self._flags, dont_inherit=True)))


def units_of(run: Callable[[], object], functions: Iterable[Callable] | None) -> list[Unit]:
    """The units of user code that run, with their live functions.

    Args:
        run: the function to run, once.
        functions: the functions whose code, and whose callees' code, counts; None for all code
            outside Python, installed packages and jaxnn.
    """
    entries = (
        None
        if functions is None
        else {code for function in functions for code in _codes_of(function)}
    )
    units: list[Unit] = []
    for code, names in executed_codes(run, entries).items():
        if any(
            unit.file == code.co_filename and unit.globals is names and unit.holds(code)
            for unit in units
        ):
            continue
        for classes, node in _outermost(code):
            unit = Unit(code, names, classes, node)
            if unit.holds(code):
                units.append(unit)
                break
    files = {unit.file for unit in units}
    live = [
        thing
        for thing in gc.get_objects()
        if type(thing) is FunctionType and thing.__code__.co_filename in files
    ]
    for unit in units:
        unit.find_live(live)
    return units


def executed_codes(
    run: Callable[[], object], entries: set[CodeType] | None = None
) -> dict[CodeType, dict[str, Any]]:
    """The code objects of the user's files that run, with their global names."""
    seen: dict[CodeType, dict[str, Any]] = {}
    depth = 0

    def profile(frame, event, _):
        nonlocal depth
        code = frame.f_code
        entered = entries is not None and code in entries
        counts = entered or ((depth or entries is None) and _has_source(code.co_filename))
        if event == "call" and counts:
            seen.setdefault(code, frame.f_globals)
        if entered and event in ("call", "return"):
            depth += 1 if event == "call" else -1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return seen


def _codes_of(thing) -> Iterator[CodeType]:
    """The code of a function inside its decorators, or of the methods of a class."""
    if isinstance(thing, type):
        for part in vars(thing).values():
            yield from _codes_of(part)
        return
    pending: list[Any] = [thing]
    seen: set[int] = set()
    while pending:
        function = pending.pop()
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code
        names = ("__func__", "__wrapped__", "func", "fun", "fwd", "bwd")
        inner = [getattr(function, name, None) for name in names]
        new = [part for part in inner if callable(part) and id(part) not in seen]
        seen.update(map(id, new))
        pending += new


@cache
def _foreign_folders() -> tuple[str, ...]:
    """The folders of Python, of installed packages, and of jaxnn."""
    paths = sysconfig.get_paths()
    folders = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return *folders, str(Path(jaxnn.__file__).parent)


@cache
def _is_own(file: str) -> bool:
    """Whether a file belongs to the user."""
    return "site-packages" not in file and not file.startswith(_foreign_folders())


@cache
def _has_source(file: str) -> bool:
    return _is_own(file) and bool(linecache.getlines(file))


def _tree(file: str) -> ast.Module:
    return _parsed("".join(linecache.getlines(file)))


@cache
def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def _imports(file: str) -> list[ast.stmt]:
    """The imports at the top level of a file."""
    return [
        part
        for part in _tree(file).body
        if isinstance(part, ast.Import)
        or (isinstance(part, ast.ImportFrom) and part.module != "__future__")
    ]


def _outermost(code: CodeType) -> Iterator[tuple[list[ast.ClassDef], FunctionNode]]:
    """The outermost functions whose lines include those of a code object, and their classes."""
    pending: list[tuple[ast.AST, list[ast.ClassDef]]] = [(_tree(code.co_filename), [])]
    while pending:
        node, classes = pending.pop()
        if isinstance(node, FUNCTIONS):
            if _first_line(node) <= code.co_firstlineno <= (node.end_lineno or 0):
                yield classes, node
            continue
        inner = [*classes, node] if isinstance(node, ast.ClassDef) else classes
        pending += [(child, inner) for child in ast.iter_child_nodes(node)]


def _first_line(node) -> int:
    decorators = getattr(node, "decorator_list", [])
    return decorators[0].lineno if decorators else node.lineno


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects inside a code object, from the outside in."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _same(a: CodeType, b: CodeType) -> bool:
    """Whether two code objects were compiled from the same source.

    Their instructions may differ: the compiler treats a name that it saw imported differently.
    """
    return (
        a.co_firstlineno == b.co_firstlineno
        and a.co_qualname == b.co_qualname
        and a.co_varnames == b.co_varnames
        and set(a.co_names) == set(b.co_names)
        and a.co_freevars == b.co_freevars
        and _plain_constants(a) == _plain_constants(b)
        and set(a.co_positions()) == set(b.co_positions())
    )


def _plain_constants(code: CodeType) -> list[str]:
    return sorted(repr(c) for c in code.co_consts if not isinstance(c, CodeType))
