"""A function of JAX at arguments of one type: traced once, run in its own dtypes and in float64."""

import re
from collections.abc import Callable
from functools import cached_property, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxnn.gradcheck.arrays import eps, is_differentiable, relative_error
from jaxnn.gradcheck.laws.compilation import jit
from jaxnn.gradcheck.laws.interpret import CALLBACKS, Interpreter

SAME_VALUE = 1e-3
DTYPES = {  # by their names in the printed form of JAX
    "bf16": jnp.bfloat16,
    "f16": jnp.float16,
    "f32": jnp.float32,
    "f64": jnp.float64,
    "c64": jnp.complex64,
    "c128": jnp.complex128,
}


class Program:
    """A function of a list of arrays, as a JAX program.

    Arguments and results are lists of leaves. Methods whose names begin with `wide` take and return
    float64.

    Args:
        closed: the program in its own dtypes.
        again: the function itself, to trace it in float64 if necessary.
        any_dtype: whether the function is one formula for every dtype, as an op is by contract, so
            it is traced again in float64. Constants that depend on the dtype, such as the smallest
            number, are then those of float64.
    """

    def __init__(self, closed: ClosedJaxpr, again: Callable[..., list], any_dtype: bool = False):
        self.closed, self._again, self._any_dtype = closed, again, any_dtype
        self._chosen: Callable[..., list] | None = None
        self.x64 = x64_is_on()

    @cached_property
    def variables(self) -> list[int]:
        """The positions of the arguments that have a gradient."""
        return [i for i, aval in enumerate(self.closed.in_avals) if is_differentiable(aval)]

    @cached_property
    def resolution(self) -> float:
        """The machine epsilon of the coarsest dtype in the program."""
        found = set(re.findall(r":(bf16|f16|f32|f64|c64|c128)\[", self._text))
        return max((eps(DTYPES[name]) for name in found), default=0.0)

    @cached_property
    def iterates(self) -> bool:
        """Whether it has a loop whose number of steps depends on the data."""
        return " while[" in self._text

    @cached_property
    def stops_gradients(self) -> bool:
        """Whether it contains `jax.lax.stop_gradient`."""
        return " stop_gradient " in self._text

    def value(self, leaves) -> list:
        """The values in the program's own dtypes."""
        return self._value(*leaves)

    def pulled_back(self, leaves, dy) -> tuple[list, list]:
        """Values and gradients of the variables by autodiff in the program's own dtypes."""
        return self._pulled_back(leaves, dy)

    def wide_pulled_back(self, leaves, dy) -> tuple[list, list]:
        """Values and gradients of the variables by autodiff in float64."""
        with jax.enable_x64(True):
            return self._wide_pulled_back(leaves, dy)

    def wide_pulled_back_without_rules(self, leaves, dy) -> tuple[list, list]:
        """Like `wide_pulled_back`, without the rules of `jax.custom_jvp` in the program."""
        function = self._interpreted(rules=False)
        with jax.enable_x64(True):
            return _vjp(function, self.variables, leaves, dy)

    def wide_value(self, leaves) -> list:
        """The values in the widest dtypes in which the program runs."""
        function = self._widest(leaves)
        with jax.enable_x64(True):
            return function(*leaves)

    def wide_moved(self, leaves, dy, which: int, places, steps) -> np.ndarray:
        """⟨dy, f(x + s·e) − f(x)⟩ for steps s along entries e of one argument.

        Args:
            leaves: the arguments, in float64.
            dy: the cotangents.
            which: the position of the argument that moves.
            places: the flat indices of the entries.
            steps: the steps, one for each of the places.
        """
        self._widest(leaves)
        padding = (
            0,
            (1 << (len(places) - 1).bit_length()) - len(places),
        )  # limits the number of compiled sizes
        with jax.enable_x64(True):
            moved = self._moved(leaves, dy, np.pad(places, padding), np.pad(steps, padding), which)
        return np.asarray(moved)[: len(places)]

    @cached_property
    def _value(self):
        return jit(jaxpr_as_fun(self.closed))

    @cached_property
    def _pulled_back(self):
        return jit(partial(_vjp, jaxpr_as_fun(self.closed), self.variables))

    @cached_property
    def _wide_pulled_back(self):
        function = self._again if self._runs_again else self._interpreted()
        return jit(partial(_vjp, function, self.variables))

    @cached_property
    def _runs_again(self) -> bool:
        """Whether the function itself should be, and can be, traced in float64."""
        if not self._any_dtype:
            return False
        try:
            with jax.enable_x64(True):
                jax.eval_shape(self._again, *map(_widened, self.closed.in_avals))
        except Exception:
            return False
        return True

    @cached_property
    def _moved(self):
        return jit(partial(_moved, self._chosen), static_argnums=4)

    @cached_property
    def _text(self) -> str:
        return str(self.closed)

    def _interpreted(self, own=frozenset(), rules=True):
        def function(*leaves):
            interpreter = Interpreter(self.x64, own, rules)
            return interpreter.run(self.closed.jaxpr, self.closed.consts, leaves)

        return function

    def _widest(self, leaves):
        """The function in the widest dtypes in which it runs.

        This is the function itself, if it is one formula for every dtype; else the program in
        float64, if all of it runs; else the function itself, traced in float64, if it runs and its
        value is the same; else the program with the remaining parts in their own dtypes.
        """
        if self._chosen is None:
            self._chosen = self._choose(leaves)
        return self._chosen

    def _choose(self, leaves):
        if self._runs_again:
            return jax.jit(self._again)
        with jax.enable_x64(True):
            interpreter = Interpreter(self.x64)
            try:
                program = jax.make_jaxpr(
                    lambda *leaves: interpreter.run(self.closed.jaxpr, self.closed.consts, leaves)
                )(*leaves)
                if not interpreter.narrowed:
                    function = jax.jit(jaxpr_as_fun(program))
                    jax.block_until_ready(function(*leaves))
                    return function
            except Exception:  # for example, a callback that always returns float32
                pass
            narrow = jax.jit(self._interpreted(CALLBACKS))
            try:
                function = jax.jit(self._again)
                pairs = zip(function(*leaves), narrow(*leaves), strict=True)
                if all(relative_error(a, b) <= SAME_VALUE for a, b in pairs):
                    return function
            except Exception:
                pass
            return narrow


def x64_is_on() -> bool:
    """Whether JAX gives new numbers 64 bits."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def program_of(function: Callable, args: tuple, any_dtype: bool = False) -> Program:
    """The program of a function at arguments, shared by all functions with the same program.

    Args:
        function: the function.
        args: its arguments.
        any_dtype: whether it is one formula for every dtype.

    Raises:
        Exception: any exception of the function while JAX traces it.
    """
    leaves, tree = jax.tree.flatten(args)

    def flat(*leaves):
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    closed = jax.make_jaxpr(flat)(*leaves)
    return _shared(_Traced(closed, flat, any_dtype))


class _Traced:
    """A traced function, equal to any other with the same text and constants."""

    def __init__(self, closed, function, any_dtype):
        self.closed, self.function, self.any_dtype = closed, function, any_dtype
        self._key = (str(closed), x64_is_on(), any_dtype, *map(_content, closed.consts))

    def __eq__(self, other):
        return self._key == other._key

    def __hash__(self):
        return hash(self._key)


@lru_cache(maxsize=64)
def _shared(traced: _Traced) -> Program:
    return Program(traced.closed, traced.function, traced.any_dtype)


def _content(const):
    """A key that identifies the content of a constant."""
    if jax.dtypes.issubdtype(const.dtype, jax.dtypes.extended):
        const = jax.random.key_data(const)
    return np.asarray(const).tobytes()


def _vjp(function, variables, leaves, dy):
    """Values and gradients of a function from leaves to leaves."""

    def of_variables(*moving):
        full = list(leaves)
        for i, leaf in zip(variables, moving, strict=True):
            full[i] = leaf
        return list(function(*full))

    y, pullback = jax.vjp(of_variables, *[leaves[i] for i in variables])
    return y, list(pullback([_like(a, d) for a, d in zip(y, dy, strict=True)]))


def _widened(aval):
    """The shape and dtype of an argument in float64."""
    dtype = aval.dtype
    if is_differentiable(aval):
        dtype = np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
    return jax.ShapeDtypeStruct(aval.shape, dtype)


def _like(a, d):
    return jnp.asarray(d, a.dtype) if is_differentiable(a) else d


def _moved(function, leaves, dy, places, steps, which):
    def at(move):
        place, step = move
        moved = leaves[which].reshape(-1).at[place].add(step).reshape(leaves[which].shape)
        y = function(*leaves[:which], moved, *leaves[which + 1 :])
        return sum(
            jnp.sum((d * (a - b)).real)
            for a, b, d in zip(y, base, dy, strict=True)
            if is_differentiable(a)
        )

    base = function(*leaves)
    return jax.lax.map(at, (places, steps))
