"""Ops on devices: inside `jax.shard_map`, and on a mesh with explicit axes.

Inside `shard_map` an array varies over some of the mesh's axes or is the same on all their devices.
An op runs with all its arguments varying alike; the gradient of an argument that varied over fewer
axes is the sum over the devices of the others.

On explicit axes every array has its sharding in its type. The compiler shards the inside of an op;
its output has the sharding of the definition's output, and each gradient that of its argument.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes


def is_placed(array) -> bool:
    """Whether an array varies inside `shard_map`, or lies on a mesh with explicit axes."""
    kind = jax.typeof(array)
    mesh = kind.sharding.mesh
    return not mesh.empty and bool(_varying(kind) or AxisType.Explicit in mesh.axis_types)


def alike(*trees):
    """The same trees, every array varying over all the axes that one of them varies over."""
    kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(trees)]
    axes = frozenset().union(*map(_varying, kinds))

    def vary(leaf):
        missing = tuple(axes - _varying(jax.typeof(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, trees) if axes else trees


def with_output_of(definition: Callable, function: Callable, *args):
    """`function(*args)`, whose first or only output has the sharding of the definition's output.

    Args:
        definition: `(*args) -> y`.
        function: `(*args) -> y` or `(*args) -> (y, residuals)`.
        *args: the arguments.
    """
    args = alike(*args)
    kinds = [jax.typeof(a) for a in jax.tree.leaves(args) if is_placed(a)]
    if not kinds or any(map(_varying, kinds)):
        return function(*args)
    plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
    outputs = jax.eval_shape(function, *plain)
    with suppress(Exception):  # if the definition is ambiguous and would need `out_sharding=`
        kinds = [*jax.tree.leaves(jax.eval_shape(definition, *args)), *kinds]
    shardings = jax.tree.map(partial(_sharding_like, kinds), outputs)
    return auto_axes(function, out_sharding=shardings)(*args)


def with_types_of(arguments: tuple, function: Callable, residuals, dy) -> tuple:
    """`function(residuals, dy)`, whose gradients are placed like their arguments.

    Args:
        arguments: the types of the arrays in each positional argument, as `jax.typeof` gives them;
            `None` for an output that is not the gradient of an argument.
        function: `(residuals, dy) -> gradients`, with `None` for an argument that has none.
        residuals: the residuals.
        dy: the gradient of the output.
    """
    residuals, dy = alike(residuals, dy)
    kinds = [kind for kind in jax.tree.leaves(arguments) if kind is not None]
    if any(map(_varying, (*kinds, *map(jax.typeof, jax.tree.leaves((residuals, dy)))))):
        gradients = function(residuals, dy)
        return tuple(
            g if g is None or kind is None else jax.tree.map(_summed, g, kind)
            for g, kind in zip(gradients, arguments, strict=True)
        )
    plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (residuals, dy))
    kinds = [k for k in (*kinds, *map(jax.typeof, jax.tree.leaves(dy))) if _has_mesh(k)]

    def placed(kind):
        """The placement of the argument; whole on every device if it has no mesh."""
        if _has_mesh(kind):
            return kind.sharding
        return NamedSharding(kinds[0].sharding.mesh, PartitionSpec(*[None] * kind.ndim))

    shardings = tuple(
        jax.tree.map(partial(_sharding_like, kinds), g)
        if g is None or kind is None
        else jax.tree.map(placed, kind)
        for g, kind in zip(jax.eval_shape(function, *plain), arguments, strict=True)
    )
    return auto_axes(function, out_sharding=shardings)(residuals, dy)


def _varying(kind) -> frozenset:
    """The axes of `shard_map` over which a type varies."""
    axes = getattr(kind, "manual_axis_type", None)  # JAX 0.10 and newer
    return kind.vma if axes is None else axes.varying


def _has_mesh(kind) -> bool:
    return not kind.sharding.mesh.empty


def _summed(gradient, kind):
    """The sum over the devices among which the argument does not vary."""
    extra = tuple(_varying(jax.typeof(gradient)) - _varying(kind))
    return lax.psum(gradient, extra) if extra else gradient


def _sharding_like(kinds, output) -> NamedSharding:
    """A sharding that splits each axis like that of its place and size in the first of these."""
    spec, used = [], set()
    whole = [kind for kind in kinds if kind.shape == output.shape]
    for axis, size in enumerate(output.shape):
        names = (
            kind.sharding.spec[axis]
            for kind in whole or kinds
            if kind.ndim > axis and kind.shape[axis] == size
        )
        name = next((n for n in names if n is not None and n not in used), None)
        used.add(name)
        spec.append(name)
    return NamedSharding(kinds[0].sharding.mesh, PartitionSpec(*spec))
