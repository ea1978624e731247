"""How people write a backward in NumPy: the arguments it takes, and where its gradients are."""

import copy
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_UPSTREAM = re.compile(
    r"d_?(y|z|a|h|l|o|s|up|next|outs?|outputs?|values?|upstream|l_?d\w+)(_\w+)?"
    r"|g|err|error|delta\w*|\w*grad\w*|\w*upstream\w*",
    re.IGNORECASE,
)
_CACHE = re.compile(r"\w*(cache|residual|context|saved|tape)s?|memory|mem|ctx|res", re.IGNORECASE)
_OUTPUT = re.compile(r"y|out|outputs?|a|activations?", re.IGNORECASE)
LEARNING_RATE = re.compile(r"learning_?rate|lr|eta", re.IGNORECASE)
RESET = re.compile(r"(zero|reset|clear)_?grad\w*", re.IGNORECASE)
_MARKED = re.compile(
    r"(?:d_?|(?:grad(?:ient)?s?|nabla|delta)_?)(\w*)|(\w+?)_?grad(?:ient)?s?", re.IGNORECASE
)
_CONTAINER = re.compile(r"param(eter)?s?|data|values?", re.IGNORECASE)


class NamedArray(NamedTuple):
    """An array somewhere in the arguments, in the object, or in the result of backward.

    Attributes:
        owner: "argument", "object" or "returned".
        path: where it is, as one writes it, such as `params['W']`.
        names: the same as a tuple.
        value: the array.
    """

    owner: str
    path: str
    names: tuple
    value: Any

    @property
    def key(self) -> tuple[str, str]:
        """Its identity, which stays when its value changes."""
        return self.owner, self.path


class Misfit(Exception):
    """The result of backward does not fit the arguments."""


class NumPyBackward:
    """A forward and a backward as they were given, and the arrays that they work on."""

    def __init__(self, forward, backward, args, params, grads):
        if inspect.isclass(forward):
            raise TypeError(f"check_numpy takes an object, such as {forward.__name__}(…), no class")
        if hasattr(forward, "backward") and not inspect.isroutine(forward):
            if not callable(backward):
                args = args if backward is None else (backward, *args)
                backward = forward.backward
            forward = forward.forward if hasattr(forward, "forward") else forward.__call__
        if not callable(forward) or not callable(backward):
            raise TypeError(
                "check_numpy takes a forward and a backward function, or an object that has both; "
                f"got {forward!r} and {backward!r}"
            )
        self.forward, self.backward = forward, backward
        self.params, self.grads = params, grads or {}
        self.args = tuple(np.float64(a) if isinstance(a, float) else a for a in args)
        names = [name for name, _ in _parameters(forward)][: len(args)]
        self.names = names + [f"argument{i}" for i in range(len(names), len(args))]
        self.instance = _instance_of(forward)
        shortest: dict[int, NamedArray] = {}
        for leaf in _leaves_of(self.names, self.args, self.instance):
            known = shortest.setdefault(id(leaf.value), leaf)
            if len(leaf.names) < len(known.names):
                shortest[id(leaf.value)] = leaf
        self.leaves = list(shortest.values())

    @property
    def name(self) -> str:
        """Its name in the report."""
        if self.instance is not None:
            return type(self.instance).__name__
        return _name(self.forward).removesuffix("_forward").removesuffix("_fwd")

    @property
    def statement(self) -> str:
        """The arguments of the call of `check_numpy`, for the line that repeats it."""
        if self.instance is not None:
            return f"{self.name.lower()}, *args"
        return f"{_name(self.forward)}, {_name(self.backward)}, *args"

    def copy(self, values=None) -> "Copy":
        """A copy with other values of some leaves, all of them in float64."""
        memo = {
            id(leaf.value): _in_float64(leaf.value, (values or {}).get(leaf.key, leaf.value))
            for leaf in self.leaves
        }
        return Copy(self, *copy.deepcopy((self.forward, self.backward, self.args), memo))


class Copy:
    """A copy of the code, in use.

    Attributes:
        args: the arguments of the next forward.
        y: the value of the last forward.
        cache: the rest of its result, or `None`.
    """

    def __init__(self, code, forward, backward, args):
        self.code, self.args = code, args
        self._forward, self._backward = forward, backward
        self._instance = _instance_of(forward)
        self.y = self.cache = None

    def forward(self) -> np.ndarray:
        """The value, as an array of its own."""
        result, self.cache = self._forward(*self.args), None
        if isinstance(result, tuple) and len(result) > 1:
            result, *rest = result
            self.cache = rest[0] if len(rest) == 1 else tuple(rest)
        self.y = result
        return np.array(result)

    def backward(self, dy, variables) -> dict[tuple[str, str], np.ndarray]:
        """The gradients that backward yields, by the keys of their variables."""
        before = self.values()
        given = self.arguments_of_backward(dy)
        required = [name for name, optional in _parameters(self._backward) if not optional]
        options = {name: value for name, value in given.items() if name not in required}
        returned = self._backward(*(given[name] for name in required), **options)
        candidates = [
            *self._returned(returned, variables),
            *(
                (names, leaf)
                for leaf in _walk("object", self._instance, wanted=_is_number)
                for names in [(), *_without_marks(leaf.names)]
            ),
        ]
        found = {}
        for variable in variables:
            gradient = _gradient_of(variable, candidates, self.code.grads.get(variable.path))
            if gradient is not None:
                found[variable.key] = np.array(gradient, np.float64)
        if any(map(LEARNING_RATE.fullmatch, given)):
            after = self.values()
            for variable in variables:
                if variable.owner == "object":
                    change = before[variable.key] - after[variable.key]
                    found.setdefault(variable.key, change)
        return found

    def leaves(self) -> list[NamedArray]:
        """The arrays in their present state."""
        return _leaves_of(self.code.names, self.args, self._instance)

    def values(self) -> dict[tuple[str, str], np.ndarray]:
        """Copies of the arrays in their present state."""
        return {leaf.key: np.array(leaf.value) for leaf in self.leaves()}

    def arguments_of_backward(self, dy) -> dict[str, Any]:
        """The arguments of the backward, by the names of its parameters."""
        inputs = dict(zip(self.code.names, self.args, strict=True))
        parameters = _parameters(self._backward)
        required = [name for name, optional in parameters if not optional]
        if self._instance is not None and len(required) == 1:
            return {required[0]: dy}
        given, unknown, upstream = {}, [], [dy]
        for name, optional in parameters:
            if name in inputs:
                given[name] = inputs[name]
            elif self.cache is not None and _CACHE.fullmatch(name):
                given[name] = self.cache
            elif LEARNING_RATE.fullmatch(name):
                given[name] = 1.0
            elif upstream and _UPSTREAM.fullmatch(name):
                given[name] = upstream.pop()
            elif not optional:
                unknown.append(name)
        if upstream and unknown:
            given[unknown.pop(0)] = upstream.pop()
        return given | dict(zip(unknown, self._unnamed(unknown), strict=True))

    def _unnamed(self, names) -> Sequence:
        """Values for those parameters of the backward whose names say nothing."""
        if self.cache is not None and len(names) == 1:
            return [self.cache]
        if isinstance(self.cache, tuple) and len(names) == len(self.cache):
            return self.cache
        if len(names) == 1 and _OUTPUT.fullmatch(names[0]):
            return [self.y]
        if len(names) in (0, len(self.args)):
            return self.args[: len(names)]
        raise TypeError(
            f"{self.code.name}: what is {' and '.join(names)} of its backward? It may take dy, "
            "the cache that forward returns, and the arguments of forward by their names"
        )

    def _returned(self, returned, variables) -> Iterator[tuple[tuple, NamedArray]]:
        """The arrays that the backward returned, with the names to which each may belong."""
        if returned is None:
            return
        if isinstance(returned, Mapping):
            prefixes, entries = [()], [returned]
        else:
            entries = list(returned) if isinstance(returned, tuple | list) else [returned]
            prefixes = self._names_of(len(entries), variables)
        for prefix, entry in zip(prefixes, entries, strict=False):
            for leaf in _walk("returned", entry, names=prefix, wanted=_is_number):
                yield leaf.names, leaf
                yield from ((names, leaf) for names in _without_marks(leaf.names))

    def _names_of(self, count, variables) -> list[tuple]:
        """The names of `count` gradients that the backward returned in sequence."""
        inputs = [(name,) for name in self.code.names]
        floating = list(dict.fromkeys(v.names[:1] for v in variables if v.owner == "argument"))
        parameters = [v.names for v in variables if v.owner == "object"]
        for names in (floating, floating + parameters, [*floating, ()]):
            if len(names) == count:
                return names
        if count > len(inputs):
            raise Misfit(
                f"returned {count} gradients for {len(inputs)} argument(s) and "
                f"{len(parameters)} parameter(s)"
            )
        return inputs[:count]


def takes_residuals_first(backward) -> bool:
    """Whether a backward is called as `bwd(residuals, dy)`, as `jax.custom_vjp` calls it."""
    names = [name for name, _ in _parameters(backward)]
    return len(names) == 2 and not _UPSTREAM.fullmatch(names[0])


def is_gradient(leaf, leaves) -> bool:
    """Whether the name of an array says that it is the gradient of another."""
    bare = {_bare(other.names) for other in leaves}
    return any(_bare(of) in bare for of in _without_marks(leaf.names))


def _without_marks(names) -> list[tuple]:
    """The `W` in names such as `dW` or `grads["W"]`; an empty list for other names."""
    choices = []
    for name in names:
        match = _MARKED.fullmatch(name) if isinstance(name, str) else None
        marked = [match[1] or match[2] or ""] if match else []
        choices.append([name, *marked])
    return [tuple(n for n in of if n != "") for of in product(*choices) if of != tuple(names)]


def _gradient_of(variable, candidates, name):
    """The candidate that is the gradient of a variable: of the name given, or of the likeliest."""
    if name is not None:
        return next((c.value for _, c in candidates if name in (c.path, c.names[-1])), None)
    wanted = _bare(variable.names)
    starts = [i for i, part in enumerate(wanted) if i == 0 or isinstance(part, str)]
    for fold in (str, lambda part: str(part).lower()):
        for start in starts:
            ending = [fold(part) for part in wanted[start:]]
            for of, candidate in candidates:
                if [fold(part) for part in _bare(of)] == ending:
                    return candidate.value
    return None


def _bare(names) -> tuple:
    """Names without those of mere containers, such as `params`, unless there are no others."""
    inner = tuple(n for n in names if not (isinstance(n, str) and _CONTAINER.fullmatch(n)))
    return inner or names


def _leaves_of(names, args, instance) -> list[NamedArray]:
    """The floating-point arrays of the arguments and of the object."""
    inputs = [
        leaf
        for name, arg in zip(names, args, strict=True)
        for leaf in _walk("argument", arg, name, (name,))
    ]
    return [*inputs, *_walk("object", instance)]


def _walk(owner, thing, path="", names=(), wanted=None, inside=()) -> Iterator[NamedArray]:
    """Every array that a thing holds in dicts, sequences and attributes of objects."""
    if (wanted or _is_floating)(thing):
        yield NamedArray(owner, path, names, thing)
        return
    if isinstance(thing, Mapping):
        parts = [(f"{path}[{key!r}]", key, part) for key, part in thing.items()]
    elif isinstance(thing, list | tuple):
        parts = [(f"{path}[{i}]", i, part) for i, part in enumerate(thing)]
    elif hasattr(thing, "__dict__") and not isinstance(thing, type | ModuleType | jax.Array):
        parts = [(f"{path}.{n}" if path else n, n, part) for n, part in vars(thing).items()]
    else:
        return
    if id(thing) in inside:
        return
    for inner, name, part in parts:
        yield from _walk(owner, part, inner, (*names, name), wanted, (*inside, id(thing)))


def _in_float64(like, value):
    """A value as an array of the kind of another, in float64 or, for the complex step, complex."""
    array = np.array(value, complex if np.iscomplexobj(value) else np.float64)
    if isinstance(like, jax.Array):
        return jnp.asarray(array)
    return array if isinstance(like, np.ndarray) else array[()]


def _is_floating(thing) -> bool:
    return isinstance(thing, np.ndarray | np.floating | jax.Array) and jnp.issubdtype(
        thing.dtype, jnp.floating
    )


def _is_number(thing) -> bool:
    return _is_floating(thing) or (
        isinstance(thing, np.ndarray | np.number | jax.Array | int | float)
        and np.issubdtype(np.asarray(thing).dtype, np.number)
    )


def _parameters(function) -> list[tuple[str, bool]]:
    """The names of a function's positional parameters, and whether each is optional."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        (name, parameter.default is not inspect.Parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in kinds
    ]


def _instance_of(function):
    """The object that a function is a method of, or `None`."""
    return function.__self__ if inspect.ismethod(function) else None


def _name(function) -> str:
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__)
