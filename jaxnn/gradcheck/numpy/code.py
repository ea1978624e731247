"""A forward and a backward written with NumPy, and the copies of them that run."""

import ast
import contextlib
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import MethodType
from typing import Any

import numpy as np

from jaxnn.gradcheck.numpy import calls
from jaxnn.gradcheck.numpy.calls import Call, Unrunnable, keywords, parameters
from jaxnn.gradcheck.numpy.found import Candidate, candidates, handed_over
from jaxnn.gradcheck.numpy.held import (
    NamedArray,
    Variables,
    attributes,
    deep_copy,
    gradient,
    in_float64,
    is_floating,
    is_node,
    is_number,
    nodes_of_numbers,
    objects_in,
    plain_function,
    same_random_numbers,
    value_name,
    walk,
    with_nodes_as_arrays,
)
from jaxnn.gradcheck.numpy.naming import (
    BACKWARD_METHODS,
    CONTEXT,
    FORWARD_METHODS,
    NUMBER_AS_PARAMETER,
    OUTPUT,
    RESET,
    without_marks,
)
from jaxnn.gradcheck.numpy.optimizers import watch


@dataclass(frozen=True)
class Convention:
    """One way to read the code.

    Attributes:
        outputs: the number of leading items of forward's result that are outputs.
        call: the meaning of each parameter of the backward.
        as_arrays: the positions of the arguments to convert from lists of numbers or integers to
            floating-point arrays.
    """

    outputs: int = 1
    call: Call | None = None
    as_arrays: tuple[int, ...] = ()


class NumPyCode:
    """A forward and a backward as passed to `check_numpy`, and the arrays that they use.

    Attributes:
        forward, backward: the functions; backward is `None` for a function that returns the loss
            with its gradients, with its backward, or as a node that has a backward.
        args: the arguments of forward.
        names: their names.
        named: further arguments of forward, of the loss and of the backward, by name.
        loss: the function that turns the output into a loss, or `None`.
        loss_is_method: whether it is a method of the object.
        loss_takes_input: whether that method takes the input, not the output.
        instance: the object whose methods they are, or `None`.
        lifted: the paths of its parameters that are plain numbers.
        returns_output: whether forward is known to return its output, not to store it.
        context: whether forward takes a context in which to save, as its first argument.
        variables: the variables of modules and closures that they read.
        params, grads: the names of parameters and gradients passed by the user.
    """

    def __init__(self, forward, backward, args, params=None, grads=None, loss=None, named=None):
        self.forward, self.backward, args = _functions(forward, backward, args)
        self.params, self.grads = params, dict(grads or {})
        self.loss, self.named = loss, dict(named or {})
        self.instance = _instance_of(self.forward)
        self.loss_is_method = inspect.ismethod(loss) and loss.__self__ is self.instance
        self.loss_takes_input = self.loss_is_method and self._loss_takes_input()
        takes = parameters(self.forward)
        required = sum(parameter.required for parameter in takes)
        self.context = bool(
            takes
            and CONTEXT.fullmatch(takes[0].name)
            and len(args) in (required - 1, len(takes) - 1)
        )
        self.args = tuple(np.float64(a) if isinstance(a, float) else a for a in args)
        if nodes_of_numbers(self.args):
            self.args = with_nodes_as_arrays(deep_copy(self.args, {}))
        self.lifted = self._lift_numbers()
        self.returns_output = self.instance is None
        names = [p.name for p in takes[int(self.context) :]][: len(args)]
        self.names = names + [f"argument{i}" for i in range(len(names), len(args))]
        functions = [f for f in (self.forward, self.backward, loss) if f is not None]
        self.variables = Variables([] if self.instance is not None else functions)
        self._require_takers(functions)

    def _loss_takes_input(self) -> bool:
        """Whether a method that computes the loss takes the input, not the output.

        It does if it runs forward, or if it reads the parameters and its first parameter has the
        name of forward's.
        """
        read = _attributes_read(self.loss)
        if getattr(self.forward, "__name__", None) in read:
            return True
        first, other = ([p.name for p in parameters(f)[:1]] for f in (self.loss, self.forward))
        held = {leaf.names[0] for leaf in walk("object", self.instance)}
        return first == other and not held.isdisjoint(read)

    def _require_takers(self, functions) -> None:
        """Refuse a named argument that none of the functions takes."""
        taken = {name for function in functions for name in keywords(function)}
        unknown = [name for name in self.named if name not in taken and "**" not in taken]
        if unknown:
            raise TypeError(
                f"check_numpy: neither forward nor backward nor loss takes {unknown[0]!r}"
            )

    def _lift_numbers(self) -> frozenset[str]:
        """Turn plain-number parameters into NumPy numbers, in a copy; return their paths."""
        if not (_plain_parameters(self.instance) or nodes_of_numbers(self.instance)):
            return frozenset()
        known = {leaf.key for leaf in walk("object", self.instance)}
        try:
            copied = deep_copy((self.forward, self.backward), {})
        except Exception:
            return frozenset()
        self.forward, self.backward = copied
        self.instance = with_nodes_as_arrays(_instance_of(self.forward))
        for owner, name in _plain_parameters(self.instance):
            setattr(owner, name, np.float64(getattr(owner, name)))
        lifted = [leaf for leaf in walk("object", self.instance) if leaf.key not in known]
        return frozenset(leaf.path for leaf in lifted)

    @property
    def name(self) -> str:
        """Its name in the report."""
        if self.instance is not None:
            return type(self.instance).__name__
        name = _name(self.forward)
        for ending in ("_forward", "_fwd"):
            name = name.removesuffix(ending)
        return name

    @property
    def backward_name(self) -> str:
        """The name of the backward, without that of its class."""
        return _name(self.backward) if self.backward is not None else ""

    @property
    def statement(self) -> str:
        """The arguments of the call of `check_numpy`, for the line that repeats it."""
        more = [f"loss={_name(self.loss)}"] if self.loss is not None else []
        more += [f"{name}={name}" for name in self.named]
        if self.instance is not None:
            return ", ".join([self.name.lower(), "*args", *more])
        backward = _name(self.backward) if self.backward is not None else "None"
        return ", ".join([_name(self.forward), backward, "*args", *more])

    @property
    def identity(self) -> tuple[int, ...]:
        """A key that distinguishes forward and its loss from their versions without guards."""
        functions = [plain_function(function) for function in (self.forward, self.loss)]
        return tuple(id(getattr(function, "__code__", None)) for function in functions)

    @property
    def functions(self) -> list[Callable]:
        """The author's functions."""
        return [f for f in (self.backward, self.forward) if f is not None]

    @cached_property
    def args_as_arrays(self) -> tuple:
        """The arguments with integers and lists of numbers as floating-point arrays."""
        return tuple(map(_as_array, self.args))

    def things(self, convention: Convention) -> tuple:
        """The things to copy: the functions with their object, arguments and variables."""
        args = [
            self.args_as_arrays[i] if i in convention.as_arrays else arg
            for i, arg in enumerate(self.args)
        ]
        return self.forward, self.backward, tuple(args), self.named, self.variables.read()

    def copy(self, convention: Convention, leaves, values=None, cleared=()) -> "Copy":
        """A copy with other values of some leaves, all of them in float64.

        Args:
            convention: how to read the code.
            leaves: the leaves of `things(convention)`.
            values: the new values, by the keys of the leaves.
            cleared: the keys of leaves that hold gradients, which are set to zero.
        """
        values = dict(values or {})
        for leaf in leaves:
            if leaf.key in cleared:
                values[leaf.key] = np.zeros_like(leaf.value)
        memo = {
            id(leaf.value): in_float64(leaf.value, values.get(leaf.key, leaf.value))
            for leaf in leaves
        }
        try:
            return Copy(self, convention, *deep_copy(self.things(convention), memo))
        except Exception as error:
            raise Unrunnable(f"it cannot be copied: {type(error).__name__}: {error}") from error


class Copy:
    """A copy of the code that runs.

    Attributes:
        args, named, context: the arguments of the next call.
        results: the outputs of the last forward, as it returned them.
        cache: the rest of its result, or `None`.
    """

    def __init__(self, code, convention, forward, backward, args, named, held):
        self.code, self.convention = code, convention
        self.args, self.named, self.held = args, named, held
        self.forward_function, self.backward_function = forward, backward
        self.instance = _instance_of(forward)
        self.context = Context() if code.context else None
        self.results: list[Any] = []
        self.cache = self.gradients = None

    def forward(self) -> list[np.ndarray]:
        """The outputs, as new arrays; with a loss, only the loss."""
        before = {} if self.code.returns_output else self._written()
        given = (self.context, *self.args) if self.context is not None else self.args
        with self._running():
            result = self.forward_function(*given, **self._options())
            self._split(result, before)
            if self.code.loss is not None:
                outputs = [self._loss_of(self.results[0])]
            else:
                outputs = [_value_of(y) for y in self.results]
        return [np.array(y) for y in outputs]

    @property
    def left(self) -> dict[str, np.ndarray]:
        """The arrays in the object with the names of outputs, by path."""
        outputs = _outputs_among(walk("object", self.instance, wanted=is_floating))
        return {leaf.path: leaf.value for leaf in outputs}

    def _options(self) -> dict[str, Any]:
        """The named arguments that forward takes."""
        taken = keywords(self.forward_function)
        return {name: value for name, value in self.named.items() if name in taken}

    def backward(self, dy: list, rate: float = 1.0) -> list[Candidate]:
        """The arrays that the backward wrote and returned, as candidates for gradients."""
        arrays, handed = self.named_arrays(), watch(self.instance)
        before = {leaf.key: np.array(leaf.value) for leaf in arrays}
        returned, order = self._call(dy, rate)
        return [*candidates(self, before, returned, order), *handed_over(handed, arrays)]

    def _call(self, dy, rate) -> tuple[Any, Callable | None]:
        backward = self.backward_function
        if self.gradients is not None:
            return self.gradients, self.forward_function
        with self._running(seeded=False):
            if backward is None:
                backward = _method(self.results[0], BACKWARD_METHODS)
                if backward is None:
                    raise Unrunnable(
                        "it returns neither gradients with its loss, nor its backward, nor a "
                        "node that has one: pass its backward as well"
                    )
                backward(*dy[: sum(p.required for p in parameters(backward))])
                return None, None
            given, options = calls.values(self.convention.call or {}, self, dy, rate)
            return backward(*given, **options), backward

    def leaves(self) -> list[NamedArray]:
        """The arrays in their present state."""
        return leaves_of(self.code, self.args, self.instance, self.held)

    def values(self) -> dict[tuple[str, str], np.ndarray]:
        """Copies of the arrays in their present state."""
        return {leaf.key: np.array(leaf.value) for leaf in self.leaves()}

    def named_arrays(self) -> list[NamedArray]:
        """Every number and array that backward may write."""
        places: list[tuple[str, str, tuple, Any]] = [("object", "", (), self.instance)]
        for path, names, part in _parts_of(self.code.names, self.args):
            if is_node(part):
                places.append(("argument", f"{path}.grad", (*names, "grad"), gradient(part)))
            else:
                places.append(("argument", path, names, part))
        places += [
            ("global", name, (name,), thing)
            for (_, name), thing in zip(self.code.variables.places, self.held, strict=True)
        ]
        places.append(("cache", "cache", (), self.cache))
        return [leaf for o, p, n, t in places for leaf in walk(o, t, p, n, wanted=is_number)]

    def _written(self) -> dict[tuple[str, str], Any]:
        return {leaf.key: leaf.value for leaf in self.named_arrays()}

    @contextlib.contextmanager
    def _running(self, seeded=True):
        """Run the author's code on copies of its variables, with a fixed seed and no output."""
        with contextlib.ExitStack() as stack:
            if seeded:
                stack.enter_context(same_random_numbers())
            stack.enter_context(self.code.variables.holding(self.held))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            yield

    def _split(self, result, before) -> None:
        """Separate the outputs, the cache and the gradients in the result of forward."""
        self.cache = self.gradients = None
        pullback = self._pullback_in(result)
        if pullback is not None:
            self.backward_function = pullback
            self.results = [item for item in result if item is not pullback]
        elif self.code.backward is None and isinstance(result, tuple | list) and len(result) > 1:
            loss, self.gradients = loss_and_gradients(result)
            self.results = [loss]
        elif isinstance(result, tuple | list) and len(result) > 1 and _is_output(result[0]):
            n = self.convention.outputs
            self.results, rest = list(result[:n]), list(result[n:])
            self.cache = None if not rest else rest[0] if len(rest) == 1 else tuple(rest)
        elif isinstance(result, tuple | list) and len(result) == 1:
            self.results = [result[0]]
        elif result is None or not _is_output(result):
            self.results = [self._written_output(before, result)]
        else:
            self.code.returns_output = True
            self.results = [result]

    def _pullback_in(self, result) -> Callable | None:
        """The function in the result of forward that is its backward."""
        if self.code.backward is not None or not isinstance(result, tuple | list):
            return None
        functions = [item for item in result if inspect.isroutine(item)]
        return functions[0] if len(functions) == 1 and len(result) > 1 else None

    def _written_output(self, before, result):
        """The output that forward stored in the object."""
        if self.code.backward is None or self.instance is None:
            raise Unrunnable(
                f"forward must return y or (y, cache), but it returned {_kind(result)}"
            )
        inputs = {id(leaf.value) for leaf in walk("argument", list(self.args), wanted=is_number)}
        written = [
            leaf
            for leaf in walk("object", self.instance, wanted=is_floating)
            if before.get(leaf.key) is not leaf.value and id(leaf.value) not in inputs
        ]
        if not written:
            raise Unrunnable("forward returns nothing and stores no array in its object")
        return (_outputs_among(written) or written)[-1].value

    def _loss_of(self, output):
        """The loss of an output or of the input, with the labels given by name."""
        loss = self.code.loss
        if self.code.loss_is_method:
            loss = MethodType(loss.__func__, self.instance)
        free = [p for p in parameters(loss) if p.name not in self.named]
        by_name = {p.name: self.named[p.name] for p in parameters(loss) if p.name in self.named}
        if self.code.loss_is_method and not any(p.required for p in free):
            return loss(**by_name)  # it reads the output that forward stored
        if not free or any(p.required for p in free[1:]):
            missing = [p.name for p in free[1:] if p.required]
            raise Unrunnable(
                f"the loss takes {' and '.join(missing) or 'no output'}: pass it by name"
            )
        given = self.args[0] if self.code.loss_takes_input else output
        return loss(**{free[0].name: given}, **by_name)


def _outputs_among(arrays) -> list[NamedArray]:
    return [leaf for leaf in arrays if OUTPUT.fullmatch(str(leaf.names[-1]))]


class Context:
    """The context in which a static forward saves arrays for its backward."""

    def __init__(self):
        self.saved_tensors: tuple = ()

    def save_for_backward(self, *tensors) -> None:
        """Save arrays for the backward."""
        self.saved_tensors = tensors

    @property
    def saved_values(self) -> tuple:
        """The saved arrays."""
        return self.saved_tensors


def leaves_of(code, args, instance, held) -> list[NamedArray]:
    """The floating-point arrays of the arguments, of the object and of the variables."""
    inputs: list[NamedArray] = []
    for path, names, part in _parts_of(code.names, args):
        if is_node(part):
            inputs.append(NamedArray("argument", path, names, _value_of(part)))
        else:
            inputs += walk("argument", part, path, names)
    inputs = [leaf for leaf in inputs if is_floating(leaf.value)]
    return [*inputs, *walk("object", instance), *code.variables.leaves(held)]


def _parts_of(names, args) -> Iterator[tuple[str, tuple, Any]]:
    """The arguments and the items of sequences among them, each with its path and names."""
    for name, arg in zip(names, args, strict=True):
        if isinstance(arg, list | tuple):
            yield from ((f"{name}[{i}]", (name, i), part) for i, part in enumerate(arg))
        else:
            yield name, (name,), arg


def resets(owner, depth=4):
    """The methods of an object, and of the objects that it holds, that set gradients to zero."""
    if owner is None or depth == 0 or isinstance(owner, type | np.ndarray | np.generic | str):
        return
    if isinstance(owner, list | tuple):
        for part in owner:
            yield from resets(part, depth - 1)
    elif hasattr(owner, "__dict__"):
        for name in dir(type(owner)):
            if RESET.fullmatch(name) and callable(getattr(type(owner), name, None)):
                method = getattr(owner, name)
                if not any(p.required for p in parameters(method)):
                    yield method
        for part in list(vars(owner).values()):
            yield from resets(part, depth - 1)


def loss_and_gradients(result) -> tuple[Any, Any]:
    """The loss and the gradients in the result of a function that returns both."""
    scalars = [i for i, item in enumerate(result) if is_number(item) and np.size(item) == 1]
    if not scalars:
        raise Unrunnable("it returns no scalar loss with its gradients, and no backward was given")
    place = 0 if 0 in scalars else scalars[-1] if len(result) - 1 in scalars else scalars[0]
    rest = [item for i, item in enumerate(result) if i != place]
    return result[place], rest[0] if len(rest) == 1 else tuple(rest)


def _functions(forward, backward, args) -> tuple[Callable, Callable | None, tuple]:
    """The forward, the backward and the arguments, of an object or of functions."""
    if inspect.isclass(forward):
        if not _has_static_pair(forward):
            raise TypeError(
                f"check_numpy takes an object, such as {forward.__name__}(…), not a class"
            )
        args = args if backward is None else (backward, *args)
        pair: Any = forward
        return pair.forward, pair.backward, args
    is_object = not inspect.isroutine(forward) and not isinstance(forward, np.ufunc)
    found = _method(forward, BACKWARD_METHODS) if is_object else None
    if backward is not None and not callable(backward):
        args, backward = (backward, *args), None
    if is_object and not (hasattr(forward, "func") and found is None):
        run = _method(forward, FORWARD_METHODS, besides=found, takes=len(args))
        if found is None and backward is None and run is not None and callable(forward):
            return forward, None, args
        backward = found if backward is None else backward
        if run is None:
            raise TypeError(
                "check_numpy takes a forward and a backward function, or an object that has both; "
                f"got {forward!r:.80} and {backward!r:.80}"
            )
        return run, backward, args
    if not callable(forward):
        raise TypeError(f"check_numpy takes functions or an object, got {forward!r:.80}")
    return forward, backward, args


def _plain_parameters(thing) -> list[tuple[Any, str]]:
    """The attributes that are plain numbers, judging by their names or by a matching gradient."""
    found = []
    for owner in objects_in(thing):
        held = dict(attributes(owner))
        differentiated = {of for name in held for of in without_marks((name,))}
        found += [
            (owner, name)
            for name, value in held.items()
            if type(value) is float
            and (NUMBER_AS_PARAMETER.fullmatch(name) or (name,) in differentiated)
        ]
    return found


def _attributes_read(method) -> set[str]:
    """The attributes that a method reads from its object, itself or in other methods."""
    read: set[str] = set()
    pending = [method]
    while pending:
        function = plain_function(pending.pop())
        with contextlib.suppress(OSError, TypeError, SyntaxError):
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
            new = set(_attributes_in(tree, function.__code__.co_varnames[0])) - read
            read |= new
            parts = (inspect.getattr_static(method.__self__, name, None) for name in new)
            pending += [part for part in parts if inspect.isfunction(part)]
    return read


def _attributes_in(tree, owner) -> Iterator[str]:
    """The names of the attributes of a variable that a syntax tree reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == owner:
                yield attribute


def _has_static_pair(cls) -> bool:
    return all(
        isinstance(inspect.getattr_static(cls, name, None), staticmethod | classmethod)
        for name in ("forward", "backward")
    )


def _method(owner, names, besides=None, takes=None) -> Callable | None:
    """The first of these methods that an object has and that takes this many arguments."""
    methods = [getattr(owner, name, None) for name in names]
    methods = [method for method in methods if callable(method) and method != besides]
    fitting = [method for method in methods if takes is None or _takes(method, takes)]
    return next(iter(fitting or methods), None)


def _takes(function, count) -> bool:
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(function)
        with contextlib.suppress(TypeError):
            signature.bind(*[None] * count)
            return True
        return False
    return True


def _value_of(y):
    return getattr(y, value_name(y)) if is_node(y) else y


def _is_output(thing) -> bool:
    return is_number(thing) or is_node(thing) or (isinstance(thing, list) and bool(thing))


def _as_array(arg):
    """Integers and nested lists of numbers as an array of floating-point numbers."""
    if isinstance(arg, list | tuple | np.ndarray | int) and not isinstance(arg, bool):
        with contextlib.suppress(Exception):
            array = np.asarray(arg)
            if np.issubdtype(array.dtype, np.integer):
                return np.asarray(array, np.float64)[()]
    return arg


def _instance_of(function):
    """The object that a function is a method of, or `None`."""
    if inspect.ismethod(function) and not inspect.isclass(function.__self__):
        return function.__self__
    is_plain = inspect.isroutine(function) or isinstance(function, np.ufunc)
    return None if is_plain or hasattr(function, "func") or function is None else function


def _name(function) -> str:
    function = getattr(function, "func", function)
    name = getattr(function, "__qualname__", getattr(function, "__name__", type(function).__name__))
    parts = [part for part in name.split(".") if part != "<locals>"]
    if len(parts) > 1 and parts[-1] in ("forward", "backward"):
        return parts[-2]
    return parts[-1]


def _kind(thing) -> str:
    return "nothing" if thing is None else f"a {type(thing).__name__}"
