"""One call of an op: its forward and backward, each with the types that the contract promises.

The backward must know the call: a `dy` of another shape than `y` is refused, and each gradient has
the dtype, the sharding and the devices of its argument. All of that is static, so it lives in the
class of the residuals: `forward` returns the op's own `NamedTuple` in a subclass for the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import meshes


@dataclass(eq=False)
class Rules:
    """The functions that make an op; see the decorators of `Op`."""

    name: str
    definition: Callable
    validate: Callable = lambda *args, **options: None
    forward: Callable | None = None
    backward: Callable | None = None
    backward_input: Callable | None = None
    backward_params: Callable | None = None
    tangent: Callable | None = None


class Call(NamedTuple):
    """What is static in a call of an op.

    Attributes:
        options: `(name, value)` of each option.
        arguments: the structure of the tuple of the arguments.
        dtypes: of all the arrays in the arguments.
        placements: `jax.typeof` of all the arrays in the arguments if they are on devices of their
            own, see `meshes`; else `None`.
        output: the structure of `y`.
        shapes: of all the arrays in `y`.
    """

    options: tuple[tuple[str, Any], ...]
    arguments: Any
    dtypes: tuple
    placements: tuple | None
    output: Any
    shapes: tuple


def forward(rules: Rules, args: tuple, options: dict) -> tuple[Any, tuple]:
    """`y`, in the narrowest floating dtype of the arguments, and residuals that know the call."""
    arrays, arguments = jax.tree.flatten(args)
    placed, dtypes, narrowest = False, [], None
    for array in arrays:
        dtypes.append(array.dtype)
        placed = placed or not jax.typeof(array).sharding.mesh.empty
        if jnp.issubdtype(array.dtype, jnp.floating) and (
            narrowest is None or array.dtype.itemsize < narrowest.itemsize
        ):
            narrowest = array.dtype
    placed = placed and any(map(meshes.is_placed, arrays))
    if placed:
        run, definition = partial(rules.forward, **options), partial(rules.definition, **options)
        y, residuals = meshes.with_output_of(definition, run, *args)
    else:
        y, residuals = rules.forward(*args, **options)
    leaves, output = jax.tree.flatten(y)
    for i, leaf in enumerate(leaves):
        if leaf.dtype != narrowest:
            leaves[i] = leaf.astype(narrowest)
            residuals = _replaced(residuals, leaf, leaves[i])
    call = Call(
        options=tuple(options.items()),
        arguments=arguments,
        dtypes=tuple(dtypes),
        placements=tuple(map(jax.typeof, arrays)) if placed else None,
        output=output,
        shapes=tuple(map(np.shape, leaves)),
    )
    return jax.tree.unflatten(output, leaves), _class_for(type(residuals), call)._make(residuals)


def backward(rules: Rules, residuals, dy, options: dict) -> tuple:
    """The gradient of each positional argument, in its dtype and where it lies."""
    call = getattr(residuals, "call", None)
    if call is None:  # from the plain forward function
        return rules.backward(residuals, dy, **options)
    _require_cotangent(rules.name, call, dy)
    options = dict(call.options) | options
    if call.placements is None:
        gradients = rules.backward(residuals, dy, **options)
    else:
        run, kinds = partial(rules.backward, **options), _placed(call)
        gradients = meshes.with_types_of(kinds, run, residuals, dy)
    return _rounded(gradients, jax.tree.unflatten(call.arguments, call.dtypes))


def backward_input(rules: Rules, residuals, dy) -> tuple:
    """The deltas, and the gradient of each positional argument but the first, the parameters."""
    call = residuals.call
    _require_cotangent(rules.name, call, dy)
    run = partial(rules.backward_input, **dict(call.options))
    if call.placements is None:
        deltas, *gradients = run(residuals, dy)
    else:
        kinds = (None, *_placed(call)[1:])
        deltas, *gradients = meshes.with_types_of(kinds, run, residuals, dy)
    dtypes = jax.tree.unflatten(call.arguments, call.dtypes)
    return deltas, *_rounded(gradients, dtypes[1:])


def backward_params(rules: Rules, residuals, deltas):
    """The gradient of the first positional argument, the parameters."""
    call = residuals.call
    run = partial(rules.backward_params, **dict(call.options))
    if call.placements is None:
        gradient = run(residuals, deltas)
    else:

        def alone(residuals, deltas):
            return (run(residuals, deltas),)

        (gradient,) = meshes.with_types_of(_placed(call)[:1], alone, residuals, deltas)
    dtypes = jax.tree.unflatten(call.arguments, call.dtypes)
    return _rounded((gradient,), dtypes[:1])[0]


def _require_cotangent(name: str, call: Call, dy) -> None:
    """Raise unless `dy` has the structure and the shapes of the output."""
    leaves, tree = jax.tree.flatten(dy)
    if tree != call.output or tuple(map(np.shape, leaves)) != call.shapes:
        raise ValueError(
            f"{name}: dy has shape {jax.tree.map(np.shape, dy)} but the output has shape "
            f"{jax.tree.unflatten(call.output, call.shapes)}; they must be equal, nothing is "
            "broadcast"
        )


def _placed(call: Call) -> tuple:
    return jax.tree.unflatten(call.arguments, call.placements)


def by_position(call: Call, gradients: tuple) -> list:
    """The gradient of each array of the arguments, `None` for those that have none."""
    positions = jax.tree.unflatten(call.arguments, range(call.arguments.num_leaves))
    found = [None] * call.arguments.num_leaves
    for gradient, argument in zip(gradients, positions, strict=True):
        if gradient is not None:
            for position, leaf in zip(
                jax.tree.leaves(argument), jax.tree.leaves(gradient), strict=True
            ):
                found[position] = leaf
    return found


def _rounded(gradients: tuple, dtypes: tuple) -> tuple:
    """Each gradient in the dtype of its argument."""
    rounded = []
    for gradient, wanted in zip(gradients, dtypes, strict=True):
        leaves, tree = jax.tree.flatten(gradient)
        if gradient is not None and tree == jax.tree.structure(wanted):
            for i, dtype in enumerate(jax.tree.leaves(wanted)):
                if leaves[i].dtype != dtype:
                    leaves[i] = leaves[i].astype(dtype)
            gradient = jax.tree.unflatten(tree, leaves)
        rounded.append(gradient)
    return tuple(rounded)


def _replaced(tree, old, new):
    """The tree with one array in place of another."""
    return jax.tree.map(lambda leaf: new if leaf is old else leaf, tree)


@cache
def _class_for(kind: type, call: Call) -> type:
    """A subclass of the class of some residuals, for a call."""

    def reduce(residuals):
        return _remade, (kind, call, tuple(residuals))

    members = {"__slots__": (), "__module__": kind.__module__, "call": call, "__reduce__": reduce}
    return type(kind.__name__, (kind,), members)


def _remade(kind, call, values):
    return _class_for(kind, call)._make(values)
