"""Adapt any target of `check` to the form of an op: a definition, a forward and a backward."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_arrays, unwrapped
from jaxnn.example_gradients import map_forms, squared_norms
from jaxnn.gradcheck.laws.checked import Checked, Examples
from jaxnn.gradcheck.laws.functions import (
    accepted,
    by_definition,
    name_of,
    names_of,
    of_callable,
    of_custom_vjp,
    plain,
    statement,
)
from jaxnn.layer import Layer
from jaxnn.op import Op


def adapt(target, args, options: dict[str, Any], definition=None) -> tuple[Checked, tuple]:
    """A target of `check` in the form of an op, and its arguments as arrays.

    Raises:
        TypeError: the target cannot be checked, or an argument is not an array.
    """
    while isinstance(target, partial):
        args, options = (*target.args, *args), {**target.keywords, **options}
        target = target.func
    if isinstance(target, jax.stages.Wrapped) and isinstance(plain(target), jax.custom_vjp):
        target = plain(target)
    if isinstance(target, Op):
        checked = _of_op(target, options)
        args = (*args, *[None] * (len(target.arguments) - len(args)))
    elif isinstance(target, Layer):
        checked = _of_layer(target, len(args) == 3, options)
    elif isinstance(target, jax.custom_vjp):
        checked, args = of_custom_vjp(target, args, options)
    elif isinstance(target, tuple) and len(target) == 2 and all(map(callable, target)):
        checked = _of_pair(*target, args, definition, options)
    elif isinstance(target, type):
        raise TypeError(f"check takes an instance of {target.__name__}, not the class")
    elif callable(target):
        checked, args = of_callable(target, args, options)
    else:
        raise TypeError(
            f"check takes an op, a (fwd, bwd) pair, a function or a layer, got {target!r:.80}"
        )
    if len(args) != len(checked.arguments):
        raise TypeError(
            f"{checked.name} takes {len(checked.arguments)} argument(s), "
            f"({', '.join(checked.arguments)}), but {len(args)} were given"
        )
    if definition is not None and not isinstance(target, tuple):
        given = len(args) - sum(arg is None for arg in args) if isinstance(target, Op) else None
        checked = replace(
            checked,
            definition=by_definition(lambda *args: definition(*args[:given])),
            primal=checked.definition,
            statement=f"{checked.statement}, definition={name_of(definition)}",
        )
    named = list(zip(checked.arguments, args, strict=True))
    if isinstance(target, Op | Layer | tuple):
        named = [(name, unwrapped(name, arg)) for name, arg in named]
    return checked, tuple(_arrays(name, arg) for name, arg in named)


@lru_cache(maxsize=1024)
def _bound_once(op, options):
    """The op with its options bound, in the form for `check`: equal calls share compilations."""
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
        keeps_contract=True,
        any_dtype=True,
        repairable=(op.rules.backward, op.rules.forward),
        statement=statement(op.__name__, dict(options)),
    )


def _examples(target, residuals, dy) -> Examples | None:
    """The pairs that per-example gradients must satisfy; `None` if these are not supported."""
    deltas, *_ = target.bwd_input(residuals, dy)
    for axis in (0, 1):
        try:
            forms = target.bwd_examples(residuals, deltas, axis)
        except ValueError:  # the examples are along a different axis, or depend on each other
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
    """A layer; if it depends on a key or on the batch, its training form is its definition."""
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
        definition=by_definition(value_of_fwd if random or layer.stateful else layer.apply),
        fwd=layer.fwd,
        bwd=with_key if random else layer.bwd,
        halves=None if type(layer).bwd_input is Layer.bwd_input else by_halves,
        examples=(
            None if type(layer).bwd_examples is Layer.bwd_examples else partial(_examples, layer)
        ),
        keeps_contract=True,
        statement=statement("layer", options),
    )


def _of_pair(fwd, bwd, args, definition, options) -> Checked:
    op = getattr(fwd, "__self__", None)
    if definition is None and isinstance(op, Op):
        definition = op.definition
    name = op.__name__ if isinstance(op, Op) else _stem(name_of(fwd))
    if definition is None:
        raise TypeError(
            f"{name}: a (fwd, bwd) pair needs definition=, the function to compare with"
        )
    takes = {f: accepted(f, options) for f in (fwd, bwd, definition)}
    return Checked(
        name=name,
        arguments=names_of(op if isinstance(op, Op) else fwd, args, takes[fwd]),
        definition=by_definition(lambda *args: definition(*args, **takes[definition])),
        fwd=lambda *args: fwd(*args, **takes[fwd]),
        bwd=lambda residuals, dy: bwd(residuals, dy, **takes[bwd]),
        statement=statement(
            f"({name_of(fwd)}, {name_of(bwd)})", options, definition=name_of(definition)
        ),
        repairable=(plain(bwd), plain(fwd)),
    )


def _stem(name: str) -> str:
    return name.removesuffix("_fwd").removesuffix("_forward")


def _arrays(name, arg):
    if isinstance(arg, str):
        raise TypeError(f"{name} must hold arrays, got str; pass options by keyword")
    return as_arrays(name, arg)
