"""Run the definitions of a script without the statements that use them."""

import __future__

import ast
import contextlib
import re
import signal
import symtable
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from jaxnn.gradcheck.report import in_one_line

SECONDS = 2.0  # of CPU time for one statement
ALL_SECONDS = 6.0  # and for all statements
LONGEST_RANGE = 1000  # the longest loop that may fill a table

_MAGIC = re.compile(r"^[ \t]*(?:[%!].*|.*\?)$", re.MULTILINE)
_USES = re.compile(
    r"(\w+_)?(train\w*|fit|run\w*|main|learn|optimi[sz]e|minimi[sz]e|tests?|check\w*|eval(uate)?"
    r"|experiment|plot|show|demo|download|fetch|simulate|sgd|gradient_descent|load_data|sleep"
    r"|input|urlopen|urlretrieve|system|popen)(_\w+)?",
    re.IGNORECASE,
)
_REGISTERS = re.compile(
    r"def\w*(vjp|jvp)s?|def_(fwd|bwd)|register\w*|setattr|(set_|manual_)?seed|add_argument"
    r"|append|extend|insert|update|setdefault|add",
    re.IGNORECASE,
)
_FACTORIES = {"custom_vjp", "custom_gradient", "filter_custom_vjp", "jit", "partial"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign


class OutOfTime(BaseException):
    """Not an `Exception`, so the slow statement does not catch it."""


def parse(source: str, filename: str) -> ast.Module:
    """The syntax tree of a script, or of a notebook saved as one.

    Raises:
        SyntaxError: the source is neither.
    """
    try:
        return ast.parse(source, filename)
    except SyntaxError:
        return ast.parse(_without_magics(source), filename)


def run_definitions(source: str, filename: str, namespace: dict[str, Any]) -> list[str]:
    """Run the imports, definitions and cheap assignments of a script, but not its work.

    Loops, calls for their side effects and results of the script's own functions are skipped,
    unless a definition depends on them: a registration, a seed, a table that a function reads.
    Statements that raise or take too long are skipped too.

    Args:
        source: the source of the script.
        filename: its name, for tracebacks.
        namespace: the namespace to run it in, such as the attributes of a module.

    Returns:
        A remark on each import or definition that was skipped because it raised.

    Raises:
        SyntaxError: the source is not valid Python.
    """
    tree = parse(source, filename)
    flags = _future_flags(tree)
    selection = _Selection(tree, _without_magics(source), filename)
    clock, remarks = _Clock(), []
    for statement in selection.statements(tree.body):
        code = compile(ast.Module([statement], []), filename, "exec", flags, dont_inherit=True)
        limit = contextlib.nullcontext() if _imports(statement) else clock.limit()
        try:
            with limit:
                exec(code, namespace)
        except (Exception, SystemExit, OutOfTime) as error:
            if _imports(statement) or isinstance(statement, Definition):
                remarks.append(f"line {statement.lineno} ({in_one_line(error)})")
    return remarks


class _Selection:
    """The choice of the statements that define something."""

    def __init__(self, tree: ast.Module, source: str, filename: str):
        definitions = [node for node in ast.walk(tree) if isinstance(node, Definition)]
        self.own = {node.name for node in definitions}
        self.functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.factories = _FACTORIES | {node.name for node in definitions if _makes(node)}
        self.factories |= {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if (getattr(node, "module", None) or alias.name).split(".")[0] == "jaxnn"
        }
        self.needed = _names_in_functions(source, filename)
        self.needed = self.needed.union(
            *map(_names_in_header, definitions),
            *(_loaded(n) for n in tree.body if isinstance(n, ast.Expr) and self._registers(n)),
        )
        self._add_what_is_needed_indirectly(tree)

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The defining statements of a body; compound ones are reduced to their definitions."""
        return [kept for statement in body if (kept := self._reduced(statement)) is not None]

    def _reduced(self, statement: ast.stmt) -> ast.stmt | None:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Delete():
                return statement
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return statement
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                return statement if self._defines(statement) else None
            case ast.Expr():
                return statement if self._registers(statement) else None
            case ast.If(test=test) if _called(test).isdisjoint(self.own) and not _is_main(test):
                return self._compound(statement, "body", "orelse")
            case ast.Try():
                return self._compound(statement, "body", "orelse", "finalbody")
            case ast.With():
                reduced = self._compound(statement, "body")
                return reduced if reduced is not None and _imports(reduced) else None
            case ast.For():
                return statement if self._fills_a_table(statement) else None
        return None

    def _compound(self, statement, *parts) -> ast.stmt | None:
        """A compound statement with its bodies reduced, or `None` if nothing remains."""
        bodies = {part: self.statements(getattr(statement, part)) for part in parts}
        if not any(bodies.values()):
            return None
        bodies["body"] = bodies["body"] or [ast.Pass()]
        fields = dict(ast.iter_fields(statement)) | bodies
        if isinstance(statement, ast.Try):
            fields["handlers"] = [
                ast.ExceptHandler(h.type, h.name, self.statements(h.body) or [ast.Pass()])
                for h in statement.handlers
            ]
        reduced = ast.copy_location(type(statement)(**fields), statement)
        return ast.fix_missing_locations(reduced)

    def _defines(self, statement) -> bool:
        """Whether an assignment is cheap, needed by a definition, or creates something to check."""
        called = _called(statement.value)
        if not called:
            return statement.value is not None
        if any(map(_USES.fullmatch, called)):
            return False
        return bool(_stored(statement) & self.needed) or self._makes_something(statement.value)

    def _makes_something(self, value) -> bool:
        """Whether a call creates a function, an op, a layer or an object of the script's class."""
        return isinstance(value, ast.Call) and not self.factories.isdisjoint(_path(value.func))

    def _registers(self, statement) -> bool:
        """Whether a call with a side effect completes a definition, as `f.defvjp(fwd, bwd)`."""
        call = statement.value
        if not isinstance(call, ast.Call) or any(map(_USES.fullmatch, _called(call))):
            return False
        path = _path(call.func)
        of_a_function = len(path) > 1 and path[0] in self.functions
        return of_a_function or any(map(_REGISTERS.fullmatch, path[-1:]))

    def _fills_a_table(self, loop) -> bool:
        """Whether a loop is short and only registers or stores values for a definition."""
        if _path(getattr(loop.iter, "func", None)) == ["range"] and not _is_short(loop.iter):
            return False
        if loop.orelse or len(self.statements(loop.body)) != len(loop.body):
            return False
        stores = {name for node in loop.body for name in _stored(node)}
        return bool(stores & self.needed) or any(isinstance(s, ast.Expr) for s in loop.body)

    def _add_what_is_needed_indirectly(self, tree) -> None:
        """Mark the names from which needed values are computed as needed too."""
        count = -1
        while count < len(self.needed):
            count = len(self.needed)
            for node in ast.walk(tree):
                if isinstance(node, Assignment) and _stored(node) & self.needed:
                    self.needed |= _loaded(node)


class _Clock:
    """Limits of CPU time, on platforms with a timer that does not disturb other code."""

    def __init__(self):
        self.left = ALL_SECONDS

    @contextlib.contextmanager
    def limit(self) -> Iterator[None]:
        """Raise `OutOfTime` in a statement that runs for too long."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(
            signal, "SIGVTALRM"
        ):
            yield
            return
        if self.left <= 0:
            raise OutOfTime
        started = time.process_time()
        before = signal.signal(signal.SIGVTALRM, _ring)
        signal.setitimer(signal.ITIMER_VIRTUAL, min(SECONDS, self.left))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
            self.left -= time.process_time() - started


def _ring(*_) -> None:
    raise OutOfTime


def _without_magics(source: str) -> str:
    """The source with notebook commands, such as `%matplotlib inline`, blanked."""
    return _MAGIC.sub("", source)


def _future_flags(tree) -> int:
    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    ]
    return sum({getattr(__future__, name).compiler_flag for name in names})


def _makes(definition) -> bool:
    """Whether calling it creates a target: it is a class, or a function that defines another."""
    inner = ast.FunctionDef | ast.Lambda | ast.ClassDef
    return isinstance(definition, ast.ClassDef) or any(
        isinstance(node, inner) for child in definition.body for node in ast.walk(child)
    )


def _names_in_functions(source, filename) -> set[str]:
    """The global names that functions and classes read."""
    names: set[str] = set()
    tables = symtable.symtable(source, filename, "exec").get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return names


def _names_in_header(definition) -> set[str]:
    """The names in decorators, defaults, annotations and bases."""
    parts = [*definition.decorator_list]
    if isinstance(definition, ast.ClassDef):
        parts += [*definition.bases, *(keyword.value for keyword in definition.keywords)]
    else:
        parts += [definition.args]
    return {name for part in parts for name in _loaded(part)}


def _loaded(node) -> set[str]:
    """The names that a statement reads."""
    return {
        inner.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load)
    }


def _stored(statement) -> set[str]:
    """The names that a statement binds, or whose contents it modifies."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", statement)]
    return {
        inner.id
        for target in targets
        for inner in ast.walk(target)
        if isinstance(inner, ast.Name)
        and (isinstance(inner.ctx, ast.Store) or isinstance(target, ast.Subscript | ast.Attribute))
    }


def _called(node) -> set[str]:
    """The last names of the functions that an expression calls directly, not inside a lambda."""
    if node is None or isinstance(node, ast.Lambda):
        return set()
    names = set(_path(node.func)[-1:] or [""]) if isinstance(node, ast.Call) else set()
    return names.union(*map(_called, ast.iter_child_nodes(node)))


def _path(node) -> list[str]:
    """The names of a dotted expression, such as ["np", "random", "seed"]."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*_path(node.value), node.attr]
    return []


def _imports(statement) -> bool:
    """Whether a statement imports something."""
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(statement))


def _is_short(call) -> bool:
    """Whether a call of `range` has only small numbers as arguments."""
    return all(
        isinstance(arg, ast.Constant) and isinstance(arg.value, int) and arg.value <= LONGEST_RANGE
        for arg in call.args
    )


def _is_main(test) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
