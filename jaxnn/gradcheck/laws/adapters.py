"""What is checked, whatever it was given as: a definition, a forward and a backward."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.layer import Layer
from jaxnn.op import Op
from jaxnn.transformations import definitions


@dataclass(frozen=True)
class Subject:
    """A function with a backward, in the terms of an op.

    Attributes:
        name: what to call it.
        arguments: the names of its positional arguments.
        definition: the function that autodiff is asked about.
        fwd: `(*args) -> (y, residuals)`.
        bwd: `(residuals, dy) -> one gradient for each argument`.
        exported: the function that `jax.grad` is given, or `None` where there is none.
        statement: how the check was called, for the line that repeats it.
    """

    name: str
    arguments: tuple[str, ...]
    definition: Callable
    fwd: Callable
    bwd: Callable
    exported: Callable | None
    statement: str


def subject_of(target, args, options: dict[str, Any], definition=None) -> tuple[Subject, tuple]:
    """A target of `check` as a subject, and its arguments as arrays.

    Raises:
        TypeError: the target is nothing that can be checked, or an argument is not an array.
    """
    if isinstance(target, Op):
        subject = _of_op(target, options)
        args = (*args, *[None] * (len(target.arguments) - len(args)))
    elif isinstance(target, Layer):
        subject = _of_layer(target, len(args) == 3, options)
    elif isinstance(target, jax.custom_vjp):
        subject, args = _of_custom_vjp(target, args, options)
    elif isinstance(target, tuple) and len(target) == 2 and all(map(callable, target)):
        subject = _of_pair(*target, definition, options)
    else:
        raise TypeError(
            "check takes an op, a (fwd, bwd) pair, a jax.custom_vjp function or a layer, "
            f"got {target!r}"
        )
    if len(args) != len(subject.arguments):
        raise TypeError(
            f"{subject.name} takes {len(subject.arguments)} argument(s), "
            f"({', '.join(subject.arguments)}), and {len(args)} were given"
        )
    return subject, tuple(
        _arrays(name, arg) for name, arg in zip(subject.arguments, args, strict=True)
    )


def _of_op(op, options) -> Subject:
    op = _bound(op, tuple(sorted(options.items())))
    return Subject(
        op.__name__,
        op.arguments,
        op.definition,
        op.fwd,
        op.bwd,
        op,
        _statement(op.__name__, options),
    )


@lru_cache(maxsize=1024)
def _bound(op, options):
    """The op with its options: the same object each time, so that nothing is compiled again."""
    return op.bind(**dict(options))


def _of_layer(layer, random, options) -> Subject:
    """A layer; what depends on a key or on the batch is defined by the training form's own ops."""
    _no_options("a layer", options)
    training = random or layer.init_state is not None
    return Subject(
        "layer",
        ("params", "x", *(["key"] if random else [])),
        _by_definition((lambda *args: layer.fwd(*args)[0]) if training else layer.apply),
        lambda *args: layer.fwd(*args),
        (lambda residuals, dy: (*layer.bwd(residuals, dy), None)) if random else layer.bwd,
        None,
        _statement("layer", options),
    )


def _of_pair(fwd, bwd, definition, options) -> Subject:
    name = fwd.__name__.removesuffix("_fwd").removesuffix("_forward")
    if definition is None:
        raise TypeError(
            f"{name}: a (fwd, bwd) pair needs definition=, the function to compare with"
        )
    takes = {f: _accepted(f, options) for f in (fwd, bwd, definition)}
    return Subject(
        name,
        _positional(fwd),
        _by_definition(lambda *args: definition(*args, **takes[definition])),
        lambda *args: fwd(*args, **takes[fwd]),
        lambda residuals, dy: bwd(residuals, dy, **takes[bwd]),
        None,
        _statement(f"({fwd.__name__}, {bwd.__name__})", options, definition.__name__),
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
    subject = Subject(
        name,
        tuple(names[i] for i in free),
        _by_definition(lambda *dynamic: function.fun(*filled(dynamic), **options)),
        lambda *dynamic: function.fwd(*filled(dynamic), **options),
        lambda residuals, dy: function.bwd(*static.values(), residuals, dy),
        lambda *dynamic: function(*filled(dynamic), **options),
        _statement(name, options),
    )
    return subject, tuple(args[i] for i in free if i < len(args))


def _by_definition(function):
    """The function with every op in it run by its definition, so that autodiff is the judge."""

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


def _no_options(what, options):
    if options:
        raise TypeError(f"{what} has no option {next(iter(options))!r}")


def _statement(target, options, definition=None) -> str:
    settings = [f"{name}={value!r}" for name, value in options.items()]
    if definition is not None:
        settings.insert(0, f"definition={definition}")
    return ", ".join([target, "*args", *settings])


def _arrays(name, arg):
    for leaf in jax.tree.leaves(arg):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise TypeError(
                f"{name} must hold arrays, got {type(leaf).__name__}; options go by keyword"
            )
    return jax.tree.map(jnp.asarray, arg)
