"""Load a file and its neighbours as modules, without their training."""

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import socket
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxnn
from jaxnn.gradcheck.files.definitions import parse, run_definitions
from jaxnn.gradcheck.report import in_one_line

NETWORK_SECONDS = 3
INSTALLED = ("site-packages", "dist-packages")
LIBRARIES = (Path(sysconfig.get_path("stdlib")), Path(jaxnn.__file__).parent)


class Unusable(Exception):
    """A file, or a function in it, that cannot be checked; the message says why."""


@dataclass(frozen=True)
class File:
    """A file as a module.

    Attributes:
        module: the module with its definitions.
        tree: its syntax tree.
        examples: the arguments by name, returned by `examples()` of this or the other file.
        remarks: sentences on imports and definitions that were skipped because they raised.
    """

    module: ModuleType
    tree: ast.Module
    examples: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def is_own(self, thing: Any) -> bool:
        """Whether the file, or another file of its author, defines a function or a class."""
        name = getattr(thing, "__module__", None)
        if name == self.module.__name__:
            return True
        path = getattr(sys.modules.get(name or ""), "__file__", None)
        return path is not None and _is_own(Path(path))


@contextlib.contextmanager
def loaded(path: Path, examples: Path | None = None) -> Iterator[File]:
    """A file as a module, importable by its own name while the context lasts.

    Args:
        path: the path of the file.
        examples: a file whose `examples()` returns the arguments; by default the same file.

    Raises:
        Unusable: the file does not exist or is not valid Python, or `examples()` fails.
    """
    for wanted in (path, examples):
        if wanted is not None and not wanted.is_file():
            raise Unusable(f"there is no file {wanted}")
    try:
        source = path.read_text(encoding="utf-8")
        tree = parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise Unusable(f"{path} raised {in_one_line(error)}") from error
    package = _package(path, tree)
    root = path.resolve().parents[len(package)]
    folders = [root, path.resolve().parent]
    if examples is not None:
        folders.append(examples.resolve().parent)
    remarks: list[str] = []
    with _surroundings(path, folders, remarks):
        module = _module(path, ".".join([*package, path.stem]))
        sys.modules.setdefault(path.stem, module)
        given = module if examples is None else _whole(examples)
        yield File(module, tree, _examples(given), remarks)


def _module(path, name) -> ModuleType:
    """The file as a module of this name, or of a different one if the name is taken."""
    known = sys.modules.get(name)
    if known is not None and _is_the_file(known, path):
        return known
    if known is not None:
        name = f"checked_{path.stem}"
    elif "." in name:
        with contextlib.suppress(Exception):
            return importlib.import_module(name)
    return _execute(name, path, _finder().loader(name, str(path.resolve())))


def _whole(path) -> ModuleType:
    """A file as a module, executed in full."""
    name = path.stem if path.stem not in sys.modules else f"examples_{path.stem}"
    try:
        return _execute(name, path, SourceFileLoader(name, str(path.resolve())))
    except (Exception, SystemExit) as error:
        raise Unusable(f"{path} raised {in_one_line(error)}") from error


def _execute(name, path, loader) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    assert spec is not None  # because a loader is passed
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _examples(module) -> dict[str, Any]:
    """The arguments by name that a module's function `examples()` returns."""
    if not hasattr(module, "examples"):
        return {}
    try:
        given = module.examples()
    except (Exception, SystemExit) as error:
        raise Unusable(f"examples() raised {in_one_line(error)}") from error
    if not isinstance(given, dict):
        raise Unusable(f"examples() must return a dict keyed by name, not {type(given).__name__}")
    return given


class _Definitions(SourceFileLoader):
    """Loads a module without its training."""

    def __init__(self, name, path, remarks):
        super().__init__(name, path)
        self.remarks = remarks

    def exec_module(self, module):
        source = self.get_data(self.path).decode("utf-8", "replace")
        omitted = run_definitions(source, self.path, vars(module))
        if omitted:
            self.remarks.append(f"{Path(self.path).name}: skipped: {'; '.join(omitted)}")


class _Finder(MetaPathFinder):
    """Finds the modules next to the checked file, and loads them without their training."""

    def __init__(self, folders, remarks):
        self.folders, self.remarks = folders, remarks

    def loader(self, name, path) -> _Definitions:
        """The loader of such a module."""
        return _Definitions(name, path, self.remarks)

    def find_spec(self, fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        file = Path(spec.loader.path).resolve()
        if not _is_own(file) or not any(folder in file.parents for folder in self.folders):
            return None
        spec.loader = self.loader(fullname, str(file))
        return spec


def _finder() -> _Finder:
    return next(finder for finder in sys.meta_path if isinstance(finder, _Finder))


@contextlib.contextmanager
def _surroundings(path, folders, remarks) -> Iterator[None]:
    """The interpreter state at the start of a script, restored afterwards."""
    modules, timeout = set(sys.modules), socket.getdefaulttimeout()
    kept = {name: getattr(sys, name) for name in ("argv", "meta_path", "path", "stdin")}
    first, *others = map(str, folders)
    sys.path = [first, *sys.path, *others]
    sys.meta_path = [_Finder(folders, remarks), *sys.meta_path]
    sys.argv, sys.stdin = [str(path)], io.StringIO()
    os.environ.setdefault("MPLBACKEND", "Agg")
    socket.setdefaulttimeout(NETWORK_SECONDS)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(sys, name, value)
        socket.setdefaulttimeout(timeout)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and any(folder in Path(file).parents for folder in folders):
                del sys.modules[name]


def _package(path, tree) -> list[str]:
    """The names of the packages that contain a file, by `__init__.py` or its relative imports."""
    folders = path.resolve().parents
    depth = max(
        (node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0
    )
    while len(folders) > depth + 1 and (folders[depth] / "__init__.py").is_file():
        depth += 1
    return [folder.name for folder in reversed(folders[:depth])]


def _is_the_file(module, path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()


def _is_own(path) -> bool:
    """Whether a file belongs neither to installed packages, nor to Python, nor to jaxnn."""
    return not (
        set(INSTALLED) & set(path.parts) or any(folder in path.parents for folder in LIBRARIES)
    )
