"""The op contract: a function, its hand-written backward, and their export to `jax.grad`."""

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Op:
    """A pure function with a hand-written backward.

    An op is made of three plain functions:

        y                 = definition(*args, **options)     the textbook formula
        y, residuals      = fwd(*args, **options)            what the backward needs is kept
        d_arg0, d_arg1, … = bwd(residuals, dy, **options)    the derivation, as code

    Positional arguments are arrays or pytrees of arrays; one with the default `None` may be left
    out. Options are keyword-only, static and hashable. `bwd` returns a tuple with one entry for
    each positional argument: a gradient of that argument's tree structure, shapes and dtypes, or
    `None` for an argument that has none (integer labels, ids, PRNG keys, what was left out).

    Calling the op runs `fwd` and drops the residuals, so the value is always the one that the
    backward belongs to. Under `jax.grad` it runs `bwd`; `jit`, `vmap`, `scan` and reverse over
    reverse compose with it. `definition` is there for forward mode.

    Args:
        definition: the textbook formula; its docstring and its name, less `_definition`, become
            the op's.
        fwd: the forward pass that also returns the residuals, a `NamedTuple`.
        bwd: the hand-written backward, linear in `dy`.
        residual_bytes: `(*args, **options) -> int`, the bytes that `fwd` keeps.
        check: `(*args, **options)`, raises in the user's terms if the arguments do not fit.
        output_shape: `(residuals) -> shape` of `y`, or a tuple of shapes where `y` is a tuple, so
            that a `dy` of another shape is refused instead of broadcast.
        options: values of options that are fixed (see `bind`).

    Raises:
        TypeError: the three functions do not take the same options with the same defaults.

    Example:
        >>> y, residuals = jaxnn.tanh.fwd(jnp.array([0.0, 1.0]))
        >>> (dx,) = jaxnn.tanh.bwd(residuals, jnp.array([1.0, 1.0]))
        >>> [round(float(d), 4) for d in dx]
        [1.0, 0.42]
    """

    def __init__(
        self,
        definition: Callable,
        fwd: Callable,
        bwd: Callable,
        *,
        residual_bytes: Callable[..., int],
        check: Callable[..., None],
        output_shape: Callable[[Any], tuple] | None = None,
        options: dict[str, Any] | None = None,
    ):
        self._definition, self._fwd, self._bwd = definition, fwd, bwd
        self._residual_bytes, self._check = residual_bytes, check
        self._output_shape = output_shape
        self.__name__ = self.__qualname__ = definition.__name__.removesuffix("_definition")
        self.__module__ = definition.__module__
        self.__doc__ = definition.__doc__
        self.__signature__ = inspect.signature(definition)
        defaults = _options(definition)
        for function in (fwd, bwd):
            if _options(function) != defaults:
                raise TypeError(
                    f"{self.__name__}: {function.__name__} takes the options {_options(function)} "
                    f"but {definition.__name__} takes {defaults}; they must be the same"
                )
        self.arguments = tuple(
            name
            for name, parameter in self.__signature__.parameters.items()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        )
        self._required = sum(
            self.__signature__.parameters[name].default is inspect.Parameter.empty
            for name in self.arguments
        )
        self._defaults = defaults
        self.options = self._merge(options or {})

    def __call__(self, *args, **options):
        """The value `y`; under `jax.grad` its derivative is `bwd`."""
        args, options = self._checked(args, options)
        if _by_definition.get():
            return self._definition(*args, **options)
        try:
            return _differentiable(self, tuple(sorted(options.items())), *args)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                f"{self.__name__}: its backward is written by hand, so it has no forward mode "
                f"(jvp, jacfwd, linearize); use {self.__name__}.definition there, or "
                "`with jaxnn.definitions():`"
            ) from error

    def fwd(self, *args, **options):
        """The value and what the backward needs: `(y, residuals)`."""
        args, options = self._checked(args, options)
        if _by_definition.get():
            _, residuals = self._fwd(*jax.lax.stop_gradient(args), **options)
            return self._definition(*args, **options), residuals
        return self._fwd(*args, **options)

    def bwd(self, residuals, dy, **options):
        """The gradient with respect to each positional argument, as a tuple."""
        options = self._merge(options)
        if self._output_shape is not None:
            shape, expected = jax.tree.map(np.shape, dy), self._output_shape(residuals)
            if shape != expected:
                raise ValueError(
                    f"{self.__name__}: dy has shape {shape} but the output has shape {expected}; "
                    "they must be equal, nothing is broadcast"
                )
        return self._bwd(residuals, dy, **options)

    def definition(self, *args, **options):
        """The textbook formula, differentiable by JAX in every mode."""
        args, options = self._assign(args, options)
        return self._definition(*args, **self._merge(options))

    def check(self, *args, **options) -> None:
        """Raise `TypeError` or `ValueError`, in words, if these arguments do not fit."""
        self._checked(args, options)

    def residual_bytes(self, *args, **options) -> int:
        """How many bytes `fwd` keeps for these arguments (arrays or their shapes and dtypes)."""
        args, options = self._assign(args, options)
        return self._residual_bytes(*args, **self._merge(options))

    def n_left_out(self, args) -> int:
        """How many of the positional arguments that may be left out these leave out."""
        return max(0, len(self.arguments) - len(args)) if len(args) >= self._required else 0

    def bind(self, **options) -> "Op":
        """The same op with these options fixed, so that it can enter `serial`.

        Example:
            >>> jaxnn.leaky_relu.bind(slope=0.5)
            <op leaky_relu(x, *, slope=0.5)>
        """
        return Op(
            self._definition,
            self._fwd,
            self._bwd,
            residual_bytes=self._residual_bytes,
            check=self._check,
            output_shape=self._output_shape,
            options=self.options | options,
        )

    def _checked(self, args, options) -> tuple[tuple, dict[str, Any]]:
        args, options = self._assign(args, options)
        options = self._merge(options)
        if missing := [name for name, v in options.items() if v is inspect.Parameter.empty]:
            raise TypeError(f"{self.__name__} needs the option {missing[0]}=")
        for name, arg in zip(self.arguments, args, strict=True):
            for leaf in jax.tree.leaves(arg):
                if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
                    raise TypeError(
                        f"{self.__name__}: {name} must hold arrays, got {type(leaf).__name__}"
                    )
        args = jax.tree.map(jnp.asarray, args)
        self._check(*args, **options)
        return args, options

    def _assign(self, args, keywords) -> tuple[tuple, dict[str, Any]]:
        """All the positional arguments, given in order or by name, and the options."""
        by_name = {name: keywords[name] for name in self.arguments if name in keywords}
        missing = self.arguments[len(args) : self._required]
        if len(args) > len(self.arguments) or not set(missing) <= set(by_name):
            least = "" if self._required == len(self.arguments) else f"{self._required} to "
            raise TypeError(
                f"{self.__name__} takes {least}{len(self.arguments)} positional argument(s), "
                f"({', '.join(self.arguments)}), and got {len(args)}"
            )
        if twice := sorted(set(by_name) & set(self.arguments[: len(args)])):
            raise TypeError(f"{self.__name__} got {twice[0]} twice, in its place and by name")
        rest = (by_name.get(name) for name in self.arguments[len(args) :])
        options = {name: value for name, value in keywords.items() if name not in by_name}
        return (*args, *rest), options

    def _merge(self, options) -> dict[str, Any]:
        for name, value in options.items():
            if name not in self._defaults:
                known = ", ".join(self._defaults) or "none"
                raise TypeError(f"{self.__name__} has no option {name!r}; its options: {known}")
            if isinstance(value, jax.Array | np.ndarray):
                raise TypeError(
                    f"{self.__name__}: option {name!r} must be a plain Python value, known when "
                    f"the op is traced, and is an array"
                )
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
        return getattr(self, "options", self._defaults) | plain

    def __eq__(self, other) -> bool:
        return isinstance(other, Op) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self):
        return self._definition, self._fwd, self._bwd, tuple(sorted(self.options.items()))

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return (
            f"<op {self.__name__}({', '.join([*self.arguments, *(options and ['*']), *options])})>"
        )


_by_definition = ContextVar("by_definition", default=False)


@contextmanager
def definitions():
    """A context in which any op runs its definition, so that JAX differentiates that.

    It gives the autodiff twin of whatever is made of ops, and every mode of differentiation. The
    value that `fwd` gives is the definition's too, so that the training form of a network, with
    its random layers, has a twin as well. What `jax.jit` has compiled outside of the context stays
    as it is: compile it again inside.

    Example:
        >>> net = jaxnn.mlp((3, 2))
        >>> params = net.init(jax.random.key(0))
        >>> with jaxnn.definitions():
        ...     jacobian = jax.jacfwd(net.apply, argnums=1)(params, jnp.ones(3))
        >>> jacobian.shape
        (2, 3)
    """
    token = _by_definition.set(True)
    try:
        yield
    finally:
        _by_definition.reset(token)


def _options(function: Callable) -> dict[str, Any]:
    """The keyword-only parameters of a function and their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(op: Op, options: tuple, *args):
    return op._fwd(*args, **dict(options))[0]


def _differentiable_fwd(op: Op, options: tuple, *args):
    return op._fwd(*args, **dict(options))


def _differentiable_bwd(op: Op, options: tuple, residuals, dy):
    return op._bwd(residuals, dy, **dict(options))


_differentiable.defvjp(_differentiable_fwd, _differentiable_bwd)
