"""Whatever `check` was given, in the terms of an op: a definition, a forward and a backward."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_arrays
from jaxnn.example_gradients import map_forms, squared_norms
from jaxnn.layer import Layer
from jaxnn.op import Op
from jaxnn.transformations import definitions


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A function with a backward, in the terms of an op.

    Attributes:
        name: for the report.
        arguments: the names of its positional arguments.
        definition: the function that autodiff differentiates.
        fwd: `(*args) -> (y, residuals)`.
        bwd: `(residuals, dy) -> one gradient for each argument`.
        halves: `(residuals, dy) -> one gradient for each argument` by the two halves of the
            backward, or `None` if there are none.
        examples: `(residuals, dy) -> Examples`, or `None` if the gradient of each example is not
            defined.
        exported: the function that users hand to `jax.grad`, or `None` if there is none.
        has_forward_mode: whether `jax.jvp` takes `exported` as well.
        statement: the arguments of the call of `check`, for the line that repeats it.
    """

    name: str
    arguments: tuple[str, ...]
    definition: Callable
    fwd: Callable
    bwd: Callable
    halves: Callable | None = None
    examples: Callable | None = None
    exported: Callable | None = None
    has_forward_mode: bool = False
    statement: str


class Examples(NamedTuple):
    """Three pairs that must be equal, each a tree like the parameters.

    Attributes:
        sum: by `bwd_params`, and by it with the weight 1 for each example.
        weighted: by `bwd_params` with other weights, and the sum of the weighted `bwd_examples`.
        norms: the squared norms of `bwd_examples`, and those of the gradients themselves.
    """

    sum: tuple
    weighted: tuple
    norms: tuple


def adapt(target, args, options: dict[str, Any], definition=None) -> tuple[Checked, tuple]:
    """A target of `check` in the terms of an op, and its arguments as arrays.

    Raises:
        TypeError: the target cannot be checked, or an argument is not an array.
    """
    if isinstance(target, Op):
        checked = _of_op(target, options)
        args = (*args, *[None] * (len(target.arguments) - len(args)))
    elif isinstance(target, Layer):
        checked = _of_layer(target, len(args) == 3, options)
    elif isinstance(target, jax.custom_vjp):
        checked, args = _of_custom_vjp(target, args, options)
    elif isinstance(target, tuple) and len(target) == 2 and all(map(callable, target)):
        checked = _of_pair(*target, definition, options)
    else:
        raise TypeError(
            "check takes an op, a (fwd, bwd) pair, a jax.custom_vjp function or a layer, "
            f"got {target!r}"
        )
    if len(args) != len(checked.arguments):
        raise TypeError(
            f"{checked.name} takes {len(checked.arguments)} argument(s), "
            f"({', '.join(checked.arguments)}), and {len(args)} were given"
        )
    return checked, tuple(
        _arrays(name, arg) for name, arg in zip(checked.arguments, args, strict=True)
    )


@lru_cache(maxsize=1024)
def _bound_once(op, options):
    """The op with its options in the terms of `check`: equal calls share their compilations."""
    op = op.bind(**dict(options))

    def by_halves(residuals, dy):
        deltas, *gradients = op.bwd_input(residuals, dy)
        return op.bwd_params(residuals, deltas), *gradients

    return Checked(
        name=op.__name__,
        arguments=op.arguments,
        definition=op.definition,
        fwd=op.fwd,
        bwd=op.bwd,
        halves=None if op.rules.backward_input is None else by_halves,
        examples=None if op.rules.backward_examples is None else partial(_examples, op),
        exported=op,
        has_forward_mode=True,
        statement=_statement(op.__name__, dict(options)),
    )


def _examples(target, residuals, dy) -> Examples | None:
    """What the gradient of each example must agree with; `None` where it is refused."""
    deltas, *_ = target.bwd_input(residuals, dy)
    for axis in (0, 1):
        try:
            forms = target.bwd_examples(residuals, deltas, axis)
        except ValueError:  # the examples are along another axis, or depend on each other
            continue
        whole = map_forms(lambda form: form.whole(), forms)
        n = jax.tree.leaves(whole)[0].shape[0] if jax.tree.leaves(whole) else 0
        weights = 2 / (1 + jnp.arange(n, dtype=jnp.float32))
        by_weight = partial(target.bwd_params, residuals, deltas, axis=axis)

        def weighted(g, weights=weights):
            return jnp.tensordot(weights.astype(g.dtype), g, 1)

        return Examples(
            (target.bwd_params(residuals, deltas), by_weight(weights=jnp.ones_like(weights))),
            (by_weight(weights=weights), jax.tree.map(weighted, whole)),
            (
                squared_norms(forms),
                jax.tree.map(lambda g: jnp.sum(g**2, axis=range(1, g.ndim)), whole),
            ),
        )
    return None


def _of_op(op, options) -> Checked:
    return _bound_once(op, tuple(sorted(options.items())))


def _of_layer(layer, random, options) -> Checked:
    """A layer; if it depends on a key or on the batch, its training form is its own definition."""
    if options:
        raise TypeError(f"a layer has no option {next(iter(options))!r}")
    of_key = (None,) if random else ()

    def value_of_fwd(*args):
        return layer.fwd(*args)[0]

    def with_key(residuals, dy):
        return *layer.bwd(residuals, dy), None

    def by_halves(residuals, dy):
        deltas, dx = layer.bwd_input(residuals, dy)
        return layer.bwd_params(residuals, deltas), dx, *of_key

    return Checked(
        name="layer",
        arguments=("params", "x", *(["key"] if random else [])),
        definition=_by_definition(value_of_fwd if random or layer.stateful else layer.apply),
        fwd=layer.fwd,
        bwd=with_key if random else layer.bwd,
        halves=None if type(layer).bwd_input is Layer.bwd_input else by_halves,
        examples=(
            None if type(layer).bwd_examples is Layer.bwd_examples else partial(_examples, layer)
        ),
        statement=_statement("layer", options),
    )


def _of_pair(fwd, bwd, definition, options) -> Checked:
    name = fwd.__name__.removesuffix("_fwd").removesuffix("_forward")
    if definition is None:
        raise TypeError(
            f"{name}: a (fwd, bwd) pair needs definition=, the function to compare with"
        )
    takes = {f: _accepted(f, options) for f in (fwd, bwd, definition)}
    return Checked(
        name=name,
        arguments=_positional(fwd),
        definition=_by_definition(lambda *args: definition(*args, **takes[definition])),
        fwd=lambda *args: fwd(*args, **takes[fwd]),
        bwd=lambda residuals, dy: bwd(residuals, dy, **takes[bwd]),
        statement=_statement(f"({fwd.__name__}, {bwd.__name__})", options, definition.__name__),
    )


def _of_custom_vjp(function, args, options):
    """The primal function, the two rules, and the arguments without the static ones."""
    names = _positional(function.fun)
    static = {i: args[i] for i in function.nondiff_argnums if i < len(args)}
    free = [i for i in range(len(names)) if i not in static]

    def filled(dynamic):
        given = iter(dynamic)
        return [static[i] if i in static else next(given) for i in range(len(names))]

    name = function.fun.__name__
    checked = Checked(
        name=name,
        arguments=tuple(names[i] for i in free),
        definition=_by_definition(lambda *dynamic: function.fun(*filled(dynamic), **options)),
        fwd=lambda *dynamic: function.fwd(*filled(dynamic), **options),
        bwd=lambda residuals, dy: function.bwd(*static.values(), residuals, dy),
        exported=lambda *dynamic: function(*filled(dynamic), **options),
        statement=_statement(name, options),
    )
    return checked, tuple(args[i] for i in free if i < len(args))


def _by_definition(function):
    """The function with every op in it run by its definition, for autodiff to differentiate."""

    def definition(*args):
        with definitions():
            return function(*args)

    return definition


def _positional(function) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in kinds)


def _accepted(function, options) -> dict[str, Any]:
    """Those of the options that a function takes: a backward may have no use for one."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def _statement(target, options, definition=None) -> str:
    settings = [f"{name}={value!r}" for name, value in options.items()]
    if definition is not None:
        settings.insert(0, f"definition={definition}")
    return ", ".join([target, "*args", *settings])


def _arrays(name, arg):
    if isinstance(arg, str):
        raise TypeError(f"{name} must hold arrays, got str; options go by keyword")
    return as_arrays(name, arg)
