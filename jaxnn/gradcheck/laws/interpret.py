"""Run a JAX program in float64, with the operations and random draws of its author."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

try:
    from jax.extend.core import DebugInfo
except ImportError:  # before JAX 0.10
    from jax.core import DebugInfo

CALLS = {  # the parameter that holds the function that is called
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
ROUNDINGS = {"reduce_precision"}
PRINTS = {"debug_callback", "debug_print"}
CALLBACKS = frozenset({"pure_callback", "io_callback"})
BITS = frozenset(  # operations whose results depend on the number of bits
    {"bitcast_convert_type", "nextafter", "random_gamma", "rng_uniform"}
)


def wide_dtype(dtype) -> Any:
    """float64 for a floating-point dtype, complex128 for a complex one, and others as they are."""
    if jax.numpy.issubdtype(dtype, np.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jax.numpy.issubdtype(dtype, np.floating) else dtype


class Interpreter:
    """Evaluates programs with every floating-point number in float64.

    Integers, and with them the bits of random numbers, are those of the program. Operations that
    cannot run in float64 (a callback, a kernel) run in their own dtype between two conversions. The
    rules of `jax.custom_jvp` apply in float64 too; those of `jax.custom_vjp` are omitted, so
    autodiff differentiates the function itself.

    Args:
        x64: whether the program was traced with `jax_enable_x64`.
        own: names of primitives that run in their own dtypes.
        rules: whether the rules of `jax.custom_jvp` apply.

    Attributes:
        narrowed: names of further primitives that had to run in their own dtypes.
    """

    def __init__(self, x64: bool, own: frozenset[str] = frozenset(), rules: bool = True):
        self.x64, self.own, self.rules = x64, own | BITS, rules
        self.narrowed: set[str] = set()

    def run(self, jaxpr: Jaxpr, consts: Sequence, args: Sequence) -> list:
        """The results of a program; `args` are in float64."""
        env = dict(zip(jaxpr.constvars, map(_widened, consts), strict=True))
        env |= dict(zip(jaxpr.invars, args, strict=True))

        def read(atom):
            if isinstance(atom, Literal):
                return _widened(np.asarray(atom.val, atom.aval.dtype))
            return env[atom]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            env |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation, values) -> list:
        name = equation.primitive.name
        if name in PRINTS:
            return []
        if name in ROUNDINGS:
            return values
        if name in CALLS:
            called = equation.params[CALLS[name]]
            return self.run(*_opened(called), values)
        if name == "custom_jvp_call":
            if self.rules:
                return self._by_rule(equation, values)
            return self.run(*_opened(equation.params["call_jaxpr"]), values)
        if name not in self.own:
            try:
                return self._in_float64(equation, values)
            except Exception:
                self.narrowed.add(name)
        avals = [atom.aval for atom in equation.invars]
        narrow = map(_cast, values, avals)
        return [_widened(result) for result in _alone(equation)(*narrow)]

    def _in_float64(self, equation, values) -> list:
        params = {name: self._wide(value) for name, value in equation.params.items()}
        with equation.ctx.manager:
            result = equation.primitive.bind(*values, **params)
        return list(result) if equation.primitive.multiple_results else [result]

    def _wide(self, param):
        """A parameter of a primitive with each dtype and each program in it widened."""
        if isinstance(param, np.dtype):
            return wide_dtype(param)
        if isinstance(param, ClosedJaxpr):
            return self._program(param.jaxpr, param.consts)
        if isinstance(param, Jaxpr):
            program = self._program(param, ())
            return program.jaxpr if not program.consts else param
        if isinstance(param, jax.core.ShapedArray):
            return param.update(dtype=wide_dtype(param.dtype), weak_type=False)
        if isinstance(param, tuple):
            parts = [self._wide(part) for part in param]
            return type(param)(*parts) if hasattr(param, "_fields") else tuple(parts)
        return param

    def _program(self, jaxpr, consts) -> ClosedJaxpr:
        specs = [_spec(atom.aval, wide_dtype) for atom in jaxpr.invars]
        return jax.make_jaxpr(lambda *args: self.run(jaxpr, consts, args))(*specs)

    def _by_rule(self, equation, values) -> list:
        """A function with a rule for its derivative, with both in float64."""
        function = jax.custom_jvp(
            lambda *args: self.run(*_opened(equation.params["call_jaxpr"]), args)
        )
        inexact = [_is_inexact(atom.aval.dtype) for atom in equation.invars]
        specs = [_spec(atom.aval) for atom in equation.invars]
        with jax.enable_x64(self.x64):
            rule = jax.make_jaxpr(_pushed(_alone(equation), inexact))(
                specs, [spec for spec, moves in zip(specs, inexact, strict=True) if moves]
            )

        @function.defjvp
        def _(primals, tangents):
            moving = [t for t, moves in zip(tangents, inexact, strict=True) if moves]
            results = self.run(rule.jaxpr, rule.consts, [*primals, *moving])
            y, given = results[: len(equation.outvars)], iter(results[len(equation.outvars) :])
            return y, [
                next(given) if _is_inexact(a.dtype) else np.zeros(a.shape, jax.dtypes.float0)
                for a in y
            ]

        return function(*values)


def _pushed(function: Callable, inexact: Sequence[bool]) -> Callable:
    """`(primals, tangents of the inexact ones) -> values and tangents`, as a flat list."""

    def pushed(primals, tangents):
        given = iter(tangents)
        full = [
            next(given) if moves else np.zeros(np.shape(p), jax.dtypes.float0)
            for p, moves in zip(primals, inexact, strict=True)
        ]
        y, y_dot = jax.jvp(function, primals, full)
        return [*y, *(d for a, d in zip(y, y_dot, strict=True) if _is_inexact(a.dtype))]

    return pushed


def _alone(equation) -> Callable[..., list]:
    """One equation as a function in its own dtypes."""
    free = {atom: i for i, atom in enumerate(equation.invars) if not isinstance(atom, Literal)}
    names = DebugInfo("gradcheck", equation.primitive.name, None, None)
    jaxpr = Jaxpr((), list(free), equation.outvars, [equation], equation.effects, names)
    program = jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))
    return lambda *values: program(*[values[i] for i in free.values()])


def _opened(program) -> tuple[Jaxpr, Sequence]:
    return (program.jaxpr, program.consts) if isinstance(program, ClosedJaxpr) else (program, ())


def _is_inexact(dtype) -> bool:
    return jax.numpy.issubdtype(dtype, np.inexact)


def _spec(aval, dtype_of=lambda dtype: dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, dtype_of(aval.dtype))


def _cast(value, aval):
    return jax.lax.convert_element_type(value, aval.dtype) if _is_inexact(aval.dtype) else value


def _widened(value):
    """A number of the program in float64."""
    if not hasattr(value, "dtype") or not _is_inexact(value.dtype):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).astype(wide_dtype(value.dtype))
    return jax.lax.convert_element_type(value, wide_dtype(value.dtype))
