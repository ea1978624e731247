"""Small constants that guard a logarithm or a division in forward, and their removal."""

import contextlib
from collections.abc import Iterator
from types import CodeType, FunctionType

from jaxnn.gradcheck.numpy.held import attributes, objects_in, plain_function

SMALLEST, LARGEST = 1e-16, 1e-3


def guards_in(functions, owner) -> set[float]:
    """The small constants in functions and in the object that they belong to.

    Args:
        functions: the author's functions.
        owner: the object, or `None`.
    """
    found = set()
    for function in _reached(functions, owner):
        found |= {abs(c) for c in _constants(function.__code__) if _is_guard(c)}
        found |= {abs(d) for d in _defaults(function) if _is_guard(d)}
        scope = function.__globals__
        names = [name for code in _codes(function.__code__) for name in code.co_names]
        found |= {abs(scope[n]) for n in names if _is_guard(scope.get(n))}
    for thing in objects_in(owner):
        found |= {abs(value) for _, value in attributes(thing) if _is_guard(value)}
    return found


@contextlib.contextmanager
def without_guards(functions, owner) -> Iterator[None]:
    """Run functions with each guard set to 0, and each limit within a guard of 1 set to 1."""
    with contextlib.ExitStack() as undo:
        for function in _reached(functions, owner):
            _swap(undo, function, "__code__", _without(function.__code__))
            if function.__defaults__:
                _swap(undo, function, "__defaults__", tuple(map(_plain, function.__defaults__)))
            if function.__kwdefaults__:
                defaults = {k: _plain(v) for k, v in function.__kwdefaults__.items()}
                _swap(undo, function, "__kwdefaults__", defaults)
            scope = function.__globals__
            for code in _codes(function.__code__):
                for name in code.co_names:
                    if _is_guard(scope.get(name)):
                        undo.callback(scope.__setitem__, name, scope[name])
                        scope[name] = 0.0
        for thing in objects_in(owner):
            for name, value in attributes(thing):
                if _is_guard(value):
                    undo.callback(setattr, thing, name, value)
                    setattr(thing, name, 0.0)
        yield


def _swap(undo, function, name, value) -> None:
    undo.callback(setattr, function, name, getattr(function, name))
    setattr(function, name, value)


def _is_guard(number) -> bool:
    return bool(isinstance(number, float) and SMALLEST < abs(number) <= LARGEST)


def _plain(number):
    """A constant without its guard."""
    if _is_guard(number):
        return 0.0
    if isinstance(number, float) and number != 1 and _is_guard(1 - number):
        return 1.0
    return number


def _without(code: CodeType) -> CodeType:
    constants = tuple(_without(c) if isinstance(c, CodeType) else _plain(c) for c in code.co_consts)
    return code.replace(co_consts=constants)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _constants(code: CodeType) -> Iterator:
    for part in _codes(code):
        yield from (1 - c if _plain(c) == 1.0 else c for c in part.co_consts)


def _defaults(function) -> tuple:
    return (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())


def _reached(functions, owner) -> list[FunctionType]:
    """Functions, the functions that they call by name, and the methods of objects that they use."""
    held = list(objects_in(owner))
    kinds = dict.fromkeys(kind for thing in held for kind in type(thing).__mro__)
    found: list[FunctionType] = []
    pending = [*functions, *(part for thing in held for _, part in attributes(thing))]
    while pending:
        function = plain_function(pending.pop())
        if not isinstance(function, FunctionType) or function in found:
            continue
        found.append(function)
        scope = function.__globals__
        for name in ("__call__", *(n for code in _codes(function.__code__) for n in code.co_names)):
            called = scope.get(name)
            if getattr(called, "__module__", None) == function.__module__:
                pending.append(called)
            pending += [vars(kind)[name] for kind in kinds if name in vars(kind)]
    return found
