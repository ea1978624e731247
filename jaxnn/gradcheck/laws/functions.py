"""Adapt JAX functions to the form of an op."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal

from jaxnn.arrays import is_array
from jaxnn.gradcheck.arrays import is_differentiable
from jaxnn.gradcheck.laws.checked import Checked
from jaxnn.transformations import definitions


def of_custom_vjp(function, args: tuple, options: dict[str, Any]) -> tuple[Checked, tuple]:
    """A `jax.custom_vjp` function, and the arguments that have a gradient.

    Raises:
        TypeError: it has no rule, or its signature does not fit the arguments.
    """
    author = _author_of_gradient(function.fun) or function.fun
    name = name_of(author)
    if function.fwd is None or function.bwd is None:
        raise TypeError(f"{name} has no backward: call its defvjp(fwd, bwd) first")
    full = _positional(function.fun, name, args, options)
    names = names_of(author, full, {})
    static = {i % len(full): full[i] for i in function.nondiff_argnums}
    free = [i for i in range(len(full)) if i not in static]

    def filled(dynamic):
        given = iter(dynamic)
        return [static[i] if i in static else next(given) for i in range(len(full))]

    def fwd(*dynamic):
        if function.symbolic_zeros:
            dynamic = jax.tree.map(_perturbed, dynamic)
        return function.fwd(*filled(dynamic))

    checked = Checked(
        name=name,
        arguments=tuple(names[i] for i in free),
        definition=by_definition(lambda *dynamic: function.fun(*filled(dynamic))),
        fwd=fwd,
        bwd=lambda residuals, dy: function.bwd(*static.values(), residuals, dy),
        exported=lambda *dynamic: function(*filled(dynamic)),
        statement=statement(name, options),
        ignores_integers=True,
        repairable=_written(author, function, full),
    )
    return checked, tuple(full[i] for i in free)


def of_callable(function: Callable, args: tuple, options: dict[str, Any]) -> tuple[Checked, tuple]:
    """Any function, with its `jax.vjp` as the backward, and its arguments that hold arrays.

    Anything but an array (an option, a string, a function in a pytree) is a constant. So are Python
    numbers next to arrays, and all but the first argument of `equinox.filter_custom_vjp`.
    """
    names = names_of(function, args, options)
    rules = [
        getattr(function, rule, None) for rule in ("fn_bwd", "fn_fwd")
    ]  # the attributes of equinox
    differentiated = args[:1] if all(rules) else args
    leaves, tree = jax.tree.flatten(args)
    first = [*map(_is_array, jax.tree.leaves(differentiated))]
    if not any(first):
        first = [isinstance(leaf, float | complex) for leaf in jax.tree.leaves(differentiated)]
    moving = [*first, *[False] * (len(leaves) - len(first))]
    pruned = jax.tree.unflatten(
        tree, [leaf if moves else None for leaf, moves in zip(leaves, moving, strict=True)]
    )
    held = [i for i, arg in enumerate(pruned) if jax.tree.leaves(arg)]

    def of_arrays(*dynamic):
        given = iter(jax.tree.leaves(dynamic))
        full = [next(given) if m else leaf for leaf, m in zip(leaves, moving, strict=True)]
        return function(*jax.tree.unflatten(tree, full), **options)

    checked = Checked(
        name=name_of(function),
        arguments=tuple(names[i] for i in held),
        definition=by_definition(of_arrays),
        fwd=partial(jax.vjp, of_arrays),
        bwd=lambda pullback, dy: pullback(dy),
        statement=statement(name_of(function), options),
        trusted=False,
        ignores_integers=True,
        repairable=tuple(plain(rule) for rule in rules if rule is not None),
    )
    return checked, tuple(pruned[i] for i in held)


def by_definition(function: Callable) -> Callable:
    """The function with every op in it replaced by its definition, for autodiff."""

    def definition(*args):
        with definitions():
            return function(*args)

    return definition


def names_of(function: Callable, args: Sequence, options: dict[str, Any]) -> tuple[str, ...]:
    """The names of a function's positional arguments, such as `x` and `arrays[0]`.

    Raises:
        TypeError: its signature does not fit them.
    """
    signature = _signature(function)
    if signature is None:
        return tuple(f"args[{i}]" for i in range(len(args)))
    try:
        bound = signature.bind(*args, **options).arguments
    except TypeError as error:
        raise TypeError(f"{name_of(function)}: {error}") from None
    names: list[str] = []
    for name in bound:
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(len(bound[name]))]
        else:
            names.append(name)
    return tuple(names[: len(args)])


def name_of(function) -> str:
    """The name of a function, for the report."""
    return getattr(function, "__name__", None) or type(plain(function)).__name__


def accepted(function: Callable, options: dict[str, Any]) -> dict[str, Any]:
    """The options that a function accepts: a backward need not accept all of them."""
    signature = _signature(function)
    if signature is None or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()
    ):
        return options
    return {name: value for name, value in options.items() if name in signature.parameters}


def statement(target: str, options: dict[str, Any], **more: str) -> str:
    """The source text for the arguments of a call of `check`."""
    settings = [f"{name}={text}" for name, text in more.items()]
    settings += [f"{name}={value!r}" for name, value in options.items()]
    return ", ".join([target, "*args", *settings])


def plain(function):
    """The function inside `functools.partial` and `jax.jit`."""
    while isinstance(function, partial | jax.stages.Wrapped):
        function = (
            function.func
            if isinstance(function, partial)
            else getattr(function, "__wrapped__", None)
        )
    return function


def _written(author, function, args) -> tuple[Callable, ...]:
    """The author's functions in a `jax.custom_vjp` or a `jax.custom_gradient`."""
    if author is function.fun:
        return plain(function.bwd), plain(function.fwd)
    try:
        return plain(author(*args)[1]), plain(author)
    except Exception:
        return (plain(author),)


def _author_of_gradient(function) -> Callable | None:
    """The function decorated by `jax.custom_gradient`, if this one was."""
    if getattr(function, "__module__", "") != jax.custom_gradient.__module__:
        return None
    closure = getattr(function, "__closure__", None) or ()
    return next((c.cell_contents for c in closure if callable(c.cell_contents)), None)


def _positional(function, name, args, options) -> tuple:
    """All positional arguments, including defaults and those passed by keyword."""
    signature = _signature(function)
    if signature is None:
        return args
    try:
        bound = signature.bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    bound.apply_defaults()
    if named := [key for key in bound.kwargs if key in options]:
        raise TypeError(f"{name}: jax.custom_vjp takes no keyword-only arguments, got {named[0]}")
    return bound.args


def _signature(function) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _perturbed(leaf) -> CustomVJPPrimal:
    return CustomVJPPrimal(leaf, is_differentiable(leaf))


def _is_array(leaf) -> bool:
    return is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)
