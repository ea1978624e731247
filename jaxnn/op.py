"""The op contract: a function and its hand-written backward, declared with decorators."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from operator import attrgetter, methodcaller
from typing import Any, Generic, ParamSpec, TypeVar

from jaxnn import arguments, transformations
from jaxnn.calls import Rules

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable)


def _declares(rule: str, kind: str):
    """A decorator that makes a function one of the rules of an op."""

    def declare(self, function: F) -> F:
        setattr(self.rules, rule, function)
        return function

    declare.__doc__ = f"Declare {kind}."
    return declare


class Op(Generic[P, T]):
    """A pure function with a hand-written backward; `@jaxnn.op` makes one from its definition.

        y                 = op(*args, **options)
        y, residuals      = op.fwd(*args, **options)
        d_arg0, d_arg1, … = op.bwd(residuals, dy)
        y                 = op.definition(*args, **options)

    Positional arguments are arrays or pytrees of arrays; one with the default `None` is optional,
    and has an entry in the gradients only if it or one after it is given.
    One annotated with a jaxtyping array takes exactly one array. Options are keyword-only, static
    and hashable. Reverse mode runs `backward`; forward mode runs its transpose, or `tangent`. An op
    whose first argument is its parameters may have its backward in two halves, `bwd_input` and
    `bwd_params`, and then the gradient of each example, `bwd_examples`.

    Example:
        >>> y, residuals = jaxnn.tanh.fwd(jnp.array([0.0, 1.0]))
        >>> (dx,) = jaxnn.tanh.bwd(residuals, jnp.array([1.0, 1.0]))
        >>> [round(float(d), 4) for d in dx]
        [1.0, 0.42]
    """

    __name__: str
    mixes_examples = False  # whether the loss of one example depends on the others in its batch
    bwd = property(
        attrgetter("rules.bwd"), doc="`(residuals, dy) -> gradients`, a tuple of those of the args."
    )
    bwd_input = property(
        attrgetter("rules.bwd_input"), doc="`(residuals, dy) -> (deltas, dx, …)`, the chain rule."
    )
    bwd_params = property(
        attrgetter("rules.bwd_params"), doc="`(residuals, deltas) -> dparams`, a sum over examples."
    )
    bwd_examples = property(
        attrgetter("rules.bwd_examples"), doc="`(residuals, deltas) -> gradients` of each example."
    )
    squared_norms = property(
        attrgetter("rules.squared_norms"), doc="`(residuals, deltas) -> ‖gₙ‖²` of each example."
    )

    def __init__(self, definition: Callable[P, T]):
        update_wrapper(self, definition)
        self.__signature__ = inspect.signature(definition)
        self.rules, self._unbound = Rules(definition.__name__, definition), self

    validate = _declares("validate", "`(*args, **options)`, which raises if they are invalid")
    forward = _declares("forward", "`(*args, **options) -> (y, residuals)`, a `NamedTuple`")
    backward = _declares("backward", "`(residuals, dy, **options) -> gradients`, linear in `dy`")
    backward_input = _declares("backward_input", "`(residuals, dy, **options) -> (deltas, dx, …)`")
    backward_params = _declares("backward_params", "`(residuals, deltas, **options) -> dparams`")
    backward_examples = _declares("backward_examples", "`(residuals, deltas, examples_axis, …)`")
    tangent = _declares("tangent", "`(residuals, tangents, **options) -> ẏ`, if it is cheaper")
    hessian_root = _declares("hessian_root", "`(residuals, **options) -> the columns of a root`")
    row_weights = _declares("row_weights", "`(*args, **options) -> weight of each loss in a mean`")

    def __call__(self, *args: P.args, **options: P.kwargs) -> T:
        """The value `y`; its derivative is `backward`."""
        arrays, static = arguments.bind(self, args, options)
        if transformations.by_definition.value:
            return self.rules.by_definition(arrays, static)
        return transformations.call(self.rules, arrays, static)

    def fwd(self, *args: P.args, **options: P.kwargs) -> tuple[T, Any]:
        """The value and the residuals, `(y, residuals)`."""
        arrays, static = arguments.bind(self, args, options)
        if transformations.by_definition.value:
            residuals = transformations.undifferentiated(self.rules, arrays, static)
            return self.rules.by_definition(arrays, static), residuals
        return self.rules.fwd(arrays, static)

    def definition(self, *args: P.args, **options: P.kwargs) -> T:
        """The textbook formula in `jax.numpy`, which autodiff differentiates."""
        return self.rules.by_definition(*arguments.bind(self, args, options))

    def check(self, *args: P.args, **options: P.kwargs) -> None:
        """Raise `TypeError` or `ValueError`, with a clear message, if the arguments are invalid."""
        arguments.bind(self, args, options)

    def bind(self, **fixed) -> "Op[P, T]":
        """The same op with these options and optional arrays fixed, such as for `serial` or `fit`.

        Example:
            >>> jaxnn.leaky_relu.bind(slope=0.5)
            leaky_relu(slope=0.5)
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__signature__ = arguments.with_defaults(self.__name__, self.__signature__, fixed)
        return bound

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the positional arguments."""
        parameters = self.__signature__.parameters.values()
        return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the arguments without a default: one for a layer, two for a loss."""
        parameters = self.__signature__.parameters
        return tuple(n for n in self.arguments if parameters[n].default is inspect.Parameter.empty)

    @property
    def options(self) -> dict[str, Any]:
        """The options with their values; `inspect.Parameter.empty` for one without a default."""
        parameters = self.__signature__.parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def fixed(self) -> dict[str, Any]:
        """The options and arrays that `bind` has fixed to a value other than the default."""
        defined = inspect.signature(self.rules.definition).parameters
        given = self.__signature__.parameters.values()
        return {p.name: p.default for p in given if p.default != defined[p.name].default}

    def is_same_as(self, other) -> bool:
        """Whether another object is this op, whatever the options of the two."""
        return isinstance(other, Op) and self.rules is other.rules

    def __eq__(self, other) -> bool:
        return self.is_same_as(other) and self.fixed == other.fixed

    def __hash__(self) -> int:
        return hash((self.rules, tuple(self.fixed.items())))

    def __reduce__(self):
        bind = methodcaller("bind", **self.fixed)
        return self.__name__ if self is self._unbound else (bind, (self._unbound,))

    def __repr__(self) -> str:
        fixed = ", ".join(f"{name}={value!r}" for name, value in self.fixed.items())
        return f"{self.__name__}({fixed})" if fixed else self.__name__


def op(definition: Callable[P, T]) -> Op[P, T]:
    """Declare an op by its definition, whose docstring, name and signature become the op's.

    The definition is plain `jax.numpy`, which autodiff differentiates when the op is checked. Its
    forward returns the output and the residuals, a `NamedTuple`; its backward returns a gradient
    for each argument. Options are keyword-only and reach all three.

    Example:
        >>> from typing import NamedTuple
        >>> class Residuals(NamedTuple):
        ...     x: jax.Array
        >>> @jaxnn.op
        ... def scaled_square(x, *, scale=1.0):
        ...     return scale * x**2
        >>> @scaled_square.forward
        ... def scaled_square_fwd(x, *, scale=1.0):
        ...     return scale * x * x, Residuals(x)
        >>> @scaled_square.backward
        ... def scaled_square_bwd(residuals, dy, *, scale=1.0):
        ...     return (2 * scale * residuals.x * dy,)
        >>> print(jax.grad(lambda x: scaled_square(x, scale=3.0))(2.0))
        12.0
    """
    return Op(definition)
