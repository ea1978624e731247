"""The op contract: a function and its hand-written backward, declared with decorators."""

import importlib
import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import jax

from jaxnn import calls, transformations
from jaxnn.arguments import as_arrays, signature_in_short

P = ParamSpec("P")
T = TypeVar("T")


class Op(Generic[P, T]):
    """A pure function with a hand-written backward; `@jaxnn.op` makes one of its definition.

        y                 = op(*args, **options)
        y, residuals      = op.fwd(*args, **options)
        d_arg0, d_arg1, … = op.bwd(residuals, dy)
        y                 = op.definition(*args, **options)

    Positional arguments are arrays or pytrees of arrays; one with the default `None` is optional.
    An argument annotated with a jaxtyping array takes exactly one array. Options are keyword-only,
    static and hashable.

    Calling the op runs `forward` and drops the residuals, so the value is always the one to which
    the backward belongs. Reverse mode runs `backward`; forward mode runs its transpose, or
    `tangent` where the op gives one; every transformation of JAX composes with both.

    Example:
        >>> y, residuals = jaxnn.tanh.fwd(jnp.array([0.0, 1.0]))
        >>> (dx,) = jaxnn.tanh.bwd(residuals, jnp.array([1.0, 1.0]))
        >>> [round(float(d), 4) for d in dx]
        [1.0, 0.42]
    """

    def __init__(self, definition: Callable[P, T]):
        update_wrapper(self, definition)
        self.__signature__ = inspect.signature(definition)
        self._rules = calls.Rules(definition.__name__, definition)

    def validate(self, function):
        """Declare `(*args, **options)`, which raises a sentence; the op's name goes before it."""
        self._rules.validate = function
        return function

    def forward(self, function):
        """Declare `(*args, **options) -> (y, residuals)`; the residuals are a `NamedTuple`."""
        self._rules.forward = function
        return function

    def backward(self, function):
        """Declare `(residuals, dy, **options) -> one gradient per argument`, linear in `dy`."""
        self._rules.backward = function
        return function

    def backward_input(self, function):
        """Declare `(residuals, dy) -> (deltas, dx)`: the half of `backward` that reaches the input.

        The op's first argument is `params`; `deltas` is what the other half needs of `dy`.
        """
        self._rules.backward_input = function
        return function

    def backward_params(self, function):
        """Declare `(residuals, deltas) -> dparams`: the half that reaches the parameters."""
        self._rules.backward_params = function
        return function

    def tangent(self, function):
        """Declare `(residuals, tangents, **options) -> ẏ`, where the transpose would cost more."""
        self._rules.tangent = function
        return function

    def __call__(self, *args: P.args, **options: P.kwargs) -> T:
        """The value `y`; its derivative is `backward`."""
        arrays, static = self._bind(args, options)
        if transformations.by_definition.value:
            return self._rules.definition(*arrays, **static)
        return transformations.call(self._rules, arrays, static)

    def fwd(self, *args: P.args, **options: P.kwargs) -> tuple[T, Any]:
        """The value and the residuals, `(y, residuals)`."""
        arrays, static = self._bind(args, options)
        if transformations.by_definition.value:
            _, residuals = calls.forward(self._rules, jax.lax.stop_gradient(arrays), static)
            return self._rules.definition(*arrays, **static), residuals
        return calls.forward(self._rules, arrays, static)

    def bwd(self, residuals, dy, **options) -> tuple:
        """The gradient with respect to each positional argument, with the options of `fwd`."""
        return calls.backward(self._rules, residuals, dy, options)

    def bwd_input(self, residuals, dy) -> tuple:
        """What the parameters' gradients need of `dy`, and the gradients of the other arguments."""
        return calls.backward_input(self._rules, residuals, dy)

    def bwd_params(self, residuals, deltas):
        """The gradient of the parameters."""
        return calls.backward_params(self._rules, residuals, deltas)

    def definition(self, *args: P.args, **options: P.kwargs) -> T:
        """The textbook formula in `jax.numpy`, which autodiff differentiates."""
        arrays, static = self._bind(args, options)
        return self._rules.definition(*arrays, **static)

    def check(self, *args: P.args, **options: P.kwargs) -> None:
        """Raise `TypeError` or `ValueError`, in words, if these arguments do not fit."""
        self._bind(args, options)

    def bind(self, **options) -> "Op[P, T]":
        """The same op with these options fixed, so that it can enter `serial`.

        Example:
            >>> jaxnn.leaky_relu.bind(slope=0.5)
            leaky_relu(slope=0.5)
        """
        if unknown := sorted(set(options) - set(self.options)):
            raise TypeError(
                f"{self.__name__}: there is no option {unknown[0]!r} in {signature_in_short(self)}"
            )
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__signature__ = self.__signature__.replace(
            parameters=[
                p.replace(default=options.get(name, p.default))
                for name, p in self.__signature__.parameters.items()
            ]
        )
        return bound

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the positional arguments."""
        parameters = self.__signature__.parameters.values()
        return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)

    @property
    def options(self) -> dict[str, Any]:
        """The options with their values; `inspect.Parameter.empty` where there is no default."""
        parameters = self.__signature__.parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def _bind(self, args, options) -> tuple[tuple, dict[str, Any]]:
        """The positional arguments as arrays, and all the options, valid."""
        try:
            bound = self.__signature__.bind(*args, **options)
        except TypeError as error:
            reason = f"{self.__name__}: {error}; it is {signature_in_short(self)}"
            raise TypeError(reason) from None
        bound.apply_defaults()
        try:
            arrays, static = as_arrays(self.__signature__.parameters, bound.arguments)
            self._rules.validate(*arrays, **static)
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):
                raise
            raise type(error)(f"{self.__name__}: {error}") from None
        return arrays, static

    def __eq__(self, other) -> bool:
        return isinstance(other, Op) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self):
        return self._rules, tuple(self.options.items())

    def __reduce__(self):
        defined = inspect.signature(self._rules.definition).parameters
        fixed = {n: v for n, v in self.options.items() if v is not defined[n].default}
        return (_bound, (self.__module__, self.__qualname__, fixed)) if fixed else self.__qualname__

    def __repr__(self) -> str:
        defined = inspect.signature(self._rules.definition).parameters
        fixed = [f"{n}={v!r}" for n, v in self.options.items() if v != defined[n].default]
        return f"{self.__name__}({', '.join(fixed)})" if fixed else self.__name__


def op(definition: Callable[P, T]) -> Op[P, T]:
    """Declare an op by its definition, whose docstring, name and signature become the op's."""
    return Op(definition)


def _bound(module: str, name: str, options: dict) -> Op:
    """Unpickle an op with fixed options."""
    return getattr(importlib.import_module(module), name).bind(**options)
