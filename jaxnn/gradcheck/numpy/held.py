"""The arrays that NumPy code uses: in arguments, objects and variables of modules."""

import contextlib
import copy
import inspect
import random
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VALUE_NAMES = ("data", "value", "val", "v", "array", "values")
GRADIENT_NAMES = ("grad", "gradient", "g", "derivative", "adjoint")
LARGEST_GLOBAL = 20_000


class NamedArray(NamedTuple):
    """An array somewhere in the arguments, in the object, or in the result of backward.

    Attributes:
        owner: "argument", "object", "global" or "returned".
        path: its location as source text, such as `params['W']`.
        names: the location as a tuple.
        value: the array.
    """

    owner: str
    path: str
    names: tuple
    value: Any

    @property
    def key(self) -> tuple[str, str]:
        """Its identity, which is independent of its value."""
        return self.owner, self.path


def walk(owner, thing, path="", names=(), wanted=None, inside=()) -> Iterator[NamedArray]:
    """Every array in an object, including nested dicts, sequences and attributes."""
    if (wanted or is_floating)(thing):
        yield NamedArray(owner, path, names, thing)
        thing = getattr(thing, "__dict__", {}) if isinstance(thing, np.ndarray) else {}
        for name, part in list(thing.items()):
            yield from walk(owner, part, f"{path}.{name}", (*names, name), wanted, inside)
        return
    if isinstance(thing, Mapping):
        parts = [(f"{path}[{key!r}]", key, part) for key, part in list(thing.items())]
    elif isinstance(thing, list | tuple):
        parts = [(f"{path}[{i}]", i, part) for i, part in enumerate(thing)]
    elif (hasattr(thing, "__dict__") or hasattr(thing, "__slots__")) and not isinstance(
        thing, type | ModuleType | jax.Array | FunctionType | MethodType
    ):
        parts = [(f"{path}.{n}" if path else n, n, part) for n, part in attributes(thing)]
    else:
        return
    if id(thing) in inside:
        return
    for inner, name, part in parts:
        yield from walk(owner, part, inner, (*names, name), wanted, (*inside, id(thing)))


def is_floating(thing) -> bool:
    """Whether an object is a floating-point array of NumPy or JAX."""
    return isinstance(thing, np.ndarray | np.floating | jax.Array) and jnp.issubdtype(
        thing.dtype, jnp.inexact
    )


def is_number(thing) -> bool:
    """Whether an object is a number or an array of numbers."""
    return isinstance(thing, bool | int | float | complex | np.number) or (
        isinstance(thing, np.ndarray | jax.Array) and jnp.issubdtype(thing.dtype, jnp.number)
    )


def in_float64(like, value):
    """A value as an array of the type of another, in float64 or, for the complex step, complex."""
    array = np.array(value, complex if np.iscomplexobj(value) else np.float64)
    if isinstance(like, jax.Array):
        return jnp.asarray(array)
    return array.view(type(like)) if isinstance(like, np.ndarray) else array[()]


def is_node(thing) -> bool:
    """Whether an object is a node of a user's autodiff: it has a value and a gradient."""
    return (
        not isinstance(thing, np.ndarray | np.generic | jax.Array | type)
        and value_name(thing) is not None
        and any(hasattr(thing, name) for name in GRADIENT_NAMES)
    )


def value_name(thing) -> str | None:
    """The attribute in which a node keeps its value."""
    return next((n for n in VALUE_NAMES if is_number(getattr(thing, n, None))), None)


def gradient(node):
    """The gradient stored in a node: a number, an array or a node."""
    return next(getattr(node, name) for name in GRADIENT_NAMES if hasattr(node, name))


def objects_in(thing) -> Iterator[Any]:
    """The objects of the author's classes inside an object, including itself, each once."""
    pending, seen = [thing], set()
    while pending:
        part = pending.pop()
        if id(part) in seen or isinstance(
            part, type | ModuleType | jax.Array | np.ndarray | FunctionType | MethodType
        ):
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            pending += reversed(list(part.values()))
        elif isinstance(part, list | tuple):
            pending += reversed(part)
        elif hasattr(part, "__dict__") or hasattr(part, "__slots__"):
            yield part
            pending += [value for _, value in reversed(attributes(part))]


def plain_function(function) -> Any:
    """The function behind a method or a callable object; other objects are returned unchanged."""
    if isinstance(function, FunctionType) or function is None:
        return function
    inner = getattr(function, "__func__", None)
    return inner or inspect.getattr_static(type(function), "__call__", function)


def attributes(thing) -> list[tuple[str, Any]]:
    """The attributes of an object with their values, including slots."""
    names = [*getattr(thing, "__dict__", {}), *_slots(thing)]
    return [(name, getattr(thing, name)) for name in dict.fromkeys(names) if hasattr(thing, name)]


def nodes_of_numbers(thing) -> list:
    """The nodes in an object whose values are plain Python numbers."""
    return [
        part
        for part in objects_in(thing)
        if is_node(part) and isinstance(getattr(part, value_name(part) or ""), int | float)
    ]


def with_nodes_as_arrays(thing):
    """Turn the plain numbers of nodes into NumPy arrays, so that each can be replaced."""
    for node in nodes_of_numbers(thing):
        name = value_name(node)
        setattr(node, name, np.float64(getattr(node, name)))
    return thing


class Variables:
    """The variables of modules and closures that functions read, so that copies can replace them.

    Attributes:
        places: for each variable, its name and the dict or cell that holds it.
    """

    def __init__(self, functions):
        self.places: list[tuple[Any, str]] = []
        seen: set[CodeType] = set()
        for function in functions:
            self._search(function, seen)

    def _search(self, function, seen) -> None:
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is None or code in seen:
            return
        seen.add(code)
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        held = [(cell, name, _content(cell)) for name, cell in cells]
        scope = function.__globals__
        held += [(scope, name, scope[name]) for name in _names_in(code) if name in scope]
        for place, name, thing in held:
            if isinstance(thing, FunctionType):
                if thing.__module__ == function.__module__:
                    self._search(thing, seen)
            elif _may_vary(thing) and not any(p is place and n == name for p, n in self.places):
                self.places.append((place, name))

    def read(self) -> list:
        """Their values."""
        return [_content(p) if not isinstance(p, dict) else p[name] for p, name in self.places]

    def leaves(self, things) -> list[NamedArray]:
        """The arrays in their values."""
        return [
            leaf
            for (_, name), thing in zip(self.places, things, strict=True)
            for leaf in walk("global", thing, name, (name,))
        ]

    @contextlib.contextmanager
    def holding(self, things: list):
        """Hold other values in a `with` block; afterwards `things` contains the final values."""
        before = self.read()
        self._write(things)
        try:
            yield
        finally:
            things[:] = self.read()
            self._write(before)

    def _write(self, things) -> None:
        for (place, name), thing in zip(self.places, things, strict=True):
            if isinstance(place, dict):
                place[name] = thing
            else:
                place.cell_contents = thing


@contextlib.contextmanager
def same_random_numbers():
    """Seed NumPy's and Python's global generators, and restore their states afterwards."""
    states = np.random.get_state(), random.getstate()
    np.random.seed(0)
    random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


def deep_copy(things, memo):
    """A deep copy that shares modules, classes and functions."""
    for module in _modules_in(things):
        memo[id(module)] = module
    return copy.deepcopy(things, memo)


def _modules_in(things) -> Iterator[ModuleType]:
    pending, seen = [things], set()
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, ModuleType):
            yield thing
        elif isinstance(thing, Mapping):
            pending += thing.values()
        elif isinstance(thing, list | tuple):
            pending += thing
        elif isinstance(thing, MethodType):
            pending.append(thing.__self__)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type | FunctionType | jax.Array):
            pending += vars(thing).values()


def _names_in(code) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _may_vary(thing) -> bool:
    """Whether a module's variable holds parameters or draws random numbers."""
    if isinstance(thing, np.random.Generator | np.random.RandomState):
        return True
    if thing is None or isinstance(thing, ModuleType | type | FunctionType | str | int | float):
        return False
    arrays = list(walk("global", thing))
    return bool(arrays) and sum(np.size(a.value) for a in arrays) <= LARGEST_GLOBAL


def _slots(thing) -> Iterator[str]:
    for kind in type(thing).__mro__:
        names = getattr(kind, "__slots__", ())
        yield from [names] if isinstance(names, str) else names
