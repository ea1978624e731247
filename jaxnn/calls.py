"""The rules of an op, and one call of them with the types that the contract promises.

The backward must know the call: a `dy` of another shape than `y` is rejected, and each gradient has
the dtype, the sharding and the devices of its argument. All of that is static, so it is stored in
the class of the residuals: `fwd` returns the op's own `NamedTuple` in a subclass made for the call.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import dtypes, meshes
from jaxnn.arrays import as_arrays, is_array, unwrapped
from jaxnn.example_gradients import squared_norms

FLOATING = frozenset(map(np.dtype, (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)))
_dtype = attrgetter("dtype")


class Call(NamedTuple):
    """The static part of a call of an op.

    Attributes:
        options: `(name, value)` of each option.
        arguments: the structure of the tuple of the arguments.
        dtypes: the dtypes of all the arrays in the arguments.
        gradient_dtypes: the dtype of all gradients if they have the same; else empty.
        computed_in: the dtype that all floating-point arrays are converted to if their dtypes
            differ; else `None`.
        placements: `jax.typeof` of all the arrays in the arguments if they are on several devices,
            see `meshes`; else `None`.
        output: the structure of `y`.
        shapes: the shapes of all the arrays in `y`.
    """

    options: tuple[tuple[str, Any], ...]
    arguments: Any
    dtypes: tuple
    gradient_dtypes: frozenset
    computed_in: Any
    placements: tuple | None
    output: Any
    shapes: tuple

    def of(self, rule: Callable) -> Callable:
        """A rule of the op, with the options of this call and the dtype that it computes in."""
        if self.computed_in is not None:
            rule = dtypes.computing_in(self.computed_in, rule)
        return partial(rule, **dict(self.options))


@dataclass(eq=False)
class Rules:
    """The functions that make an op; see the decorators of `Op`."""

    name: str
    definition: Callable
    validate: Callable = lambda *args, **options: None
    forward: Any = None
    backward: Any = None
    backward_input: Any = None
    backward_params: Any = None
    backward_examples: Any = None
    tangent: Any = None
    hessian_root: Any = None
    row_weights: Any = None

    @cached_property
    def n_arguments(self) -> int:
        """The number of positional arguments, including optional ones."""
        parameters = inspect.signature(self.definition).parameters.values()
        return sum(p.kind is not p.KEYWORD_ONLY for p in parameters)

    def fwd(self, args: tuple, options: dict) -> tuple[Any, tuple]:
        """`y`, in the dtype of the activations, and residuals that know the call.

        Args:
            args: all the positional arguments, as arrays.
            options: all the options.

        Raises:
            TypeError: the residuals are not a `NamedTuple`.
        """
        arrays, arguments = jax.tree.flatten(args)
        placed, types, floating = False, [], set()
        for array in arrays:
            types.append(array.dtype)
            placed = placed or not jax.typeof(array).sharding.mesh.empty
            if jnp.issubdtype(array.dtype, jnp.floating):
                floating.add(array.dtype)
        forward, computed_in, wanted = self.forward, None, next(iter(floating), None)
        if len(floating) > 1:
            wanted, computed_in = dtypes.of_output(args), dtypes.widest(floating)
            forward = dtypes.computing_in(computed_in, forward)
        if placed and any(map(meshes.is_placed, arrays)):
            definition = partial(self.by_definition, options=options)
            run = partial(forward, **options)
            y, residuals = meshes.with_output_of(lambda *a: definition(a), run, *args)
        else:
            placed = False
            y, residuals = forward(*args, **options)
        if not hasattr(residuals, "_fields"):
            raise TypeError(
                f"{self.name}: the residuals that its forward returns must be a NamedTuple, got "
                f"{type(residuals).__name__}"
            )
        leaves, output = jax.tree.flatten(y)
        for i, leaf in enumerate(leaves):
            if leaf.dtype != wanted:
                leaves[i] = leaf.astype(wanted)
                residuals = _replaced(residuals, leaf, leaves[i])
        call = Call(
            options=tuple(options.items()),
            arguments=arguments,
            dtypes=tuple(types),
            gradient_dtypes=frozenset(floating if len(floating) == 1 else ()),
            computed_in=computed_in,
            placements=tuple(map(jax.typeof, arrays)) if placed else None,
            output=output,
            shapes=tuple(map(np.shape, leaves)),
        )
        return jax.tree.unflatten(output, leaves), _class_for(residuals.__class__, call)(*residuals)

    def by_definition(self, args: tuple, options: dict):
        """`y` by the definition, in the dtype of the activations if the dtypes differ."""
        floating = {a.dtype for a in jax.tree.leaves(args) if dtypes.is_floating(a)}
        if len(floating) < 2:
            return self.definition(*args, **options)
        y = dtypes.computing_in(dtypes.widest(floating), self.definition)(*args, **options)
        return jax.tree.map(lambda leaf: leaf.astype(dtypes.of_output(args)), y)

    def bwd(self, residuals, dy, **options) -> tuple:
        """The gradient with respect to each positional argument that was given, as a tuple.

        Args:
            residuals: those of `fwd`, which remember its options.
            dy: the gradient of the output.
            **options: options for residuals that come from the plain forward function.

        Raises:
            TypeError: dy holds something other than floating-point numbers.
            ValueError: dy does not have the shape of the output.
        """
        call = getattr(residuals, "call", None)
        if call is None:
            return self.backward(residuals, dy, **options)
        leaves, tree = jax.tree.flatten(dy)
        if (
            tree != call.output
            or not all(map(is_array, leaves))
            or tuple(map(np.shape, leaves)) != call.shapes
            or not FLOATING.issuperset(map(_dtype, leaves))
        ):
            dy = self._cotangent(call, dy)
        run = call.of(self.backward)
        if call.placements is None:
            gradients = run(residuals, dy)[: len(call.arguments.children())]
        else:

            def of_given(residuals, dy):
                return run(residuals, dy)[: len(call.arguments.children())]

            gradients = meshes.with_types_of(_placed(call), of_given, residuals, dy)
        if set(map(_dtype, jax.tree.leaves(gradients))) != call.gradient_dtypes:
            gradients = _rounded(gradients, call.arguments, call.dtypes)
        return gradients

    def bwd_input(self, residuals, dy) -> tuple:
        """The deltas, and the gradient of each argument but the first, the parameters.

        Args:
            residuals: those of `fwd`.
            dy: the gradient of the output.

        Raises:
            TypeError: dy holds something other than floating-point numbers.
            ValueError: dy does not have the shape of the output.
        """
        call = residuals.call
        leaves, tree = jax.tree.flatten(dy)
        if (
            tree != call.output
            or not all(map(is_array, leaves))
            or tuple(map(np.shape, leaves)) != call.shapes
            or not FLOATING.issuperset(map(_dtype, leaves))
        ):
            dy = self._cotangent(call, dy)
        run = call.of(self.backward_input)
        if call.placements is None:
            deltas, *gradients = run(residuals, dy)[: len(call.arguments.children())]
        else:

            def of_given(residuals, dy):
                return run(residuals, dy)[: len(call.arguments.children())]

            kinds = (None, *_placed(call)[1:])
            deltas, *gradients = meshes.with_types_of(kinds, of_given, residuals, dy)
        return deltas, *_rounded((None, *gradients), call.arguments, call.dtypes)[1:]

    def bwd_params(self, residuals, deltas, weights=None, axis: int = 0):
        """The gradient of the first argument, the parameters.

        Args:
            residuals: those of `fwd`.
            deltas: those of `bwd_input`.
            weights: optional, one for each example, by which its gradient enters the sum; or a tree
                of them, with those for each array of the parameters.
            axis: the axis of the deltas that has the examples.

        Raises:
            ValueError: there are weights, and the gradient of one example is not defined.
        """
        if weights is not None:
            jax.eval_shape(partial(self.bwd_examples, axis=axis), residuals, deltas)  # may raise
            return weighted(self.bwd_params, residuals, deltas, weights, axis)
        call = residuals.call
        run = call.of(self.backward_params)
        if call.placements is None:
            gradient = run(residuals, deltas)
        else:

            def alone(residuals, deltas):
                return (run(residuals, deltas),)

            (gradient,) = meshes.with_types_of(_placed(call)[:1], alone, residuals, deltas)
        return _rounded((gradient,), call.arguments, call.dtypes)[0]

    def bwd_examples(self, residuals, deltas, axis: int = 0):
        """The gradient of each example, in factored form, for each array of the parameters.

        Args:
            residuals: those of `fwd`.
            deltas: those of `bwd_input`.
            axis: the axis of the deltas that has the examples.

        Raises:
            ValueError: the gradient of one example is not defined.
        """
        if self.backward_examples is None:
            raise ValueError(f"{self.name} does not define the gradient of each example")
        try:
            rule = residuals.call.of(self.backward_examples)
            return rule(residuals, deltas, examples_axis=axis)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def squared_norms(self, residuals, deltas, axis: int = 0):
        """‖gₙ‖² of each example and each array of the parameters; see `bwd_examples`."""
        return squared_norms(self.bwd_examples(residuals, deltas, axis))

    def _cotangent(self, call: Call, dy):
        """dy as floating-point arrays of the output's tree and shapes."""
        name = f"{self.name}: dy"
        dy = as_arrays(name, unwrapped(name, dy))
        leaves, tree = jax.tree.flatten(dy)
        if tree != call.output or tuple(map(np.shape, leaves)) != call.shapes:
            shapes = str(jax.tree.map(np.shape, dy))
            raise ValueError(
                f"{self.name}: dy has shape {shapes:.200} but the output has shape "
                f"{jax.tree.unflatten(call.output, call.shapes)}; they must be equal, nothing is "
                "broadcast"
            )
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(f"{self.name}: dy must be floating point, got {leaf.dtype}")
        return dy


def weighted(bwd_params, residuals, deltas, weights, axis):
    """Σₙ wₙ·gₙ: the parameters' gradient is linear in the deltas, which the weights multiply.

    If each array of the parameters has its own weights, the others' gradients are dead code.
    """

    def gradient(weights):
        def times(d):
            shape = [1] * d.ndim
            shape[axis] = d.shape[axis]
            return d * weights.reshape(shape).astype(d.dtype)

        return bwd_params(residuals, jax.tree.map(times, deltas))

    if is_array(weights):
        return gradient(weights)
    gradients = {id(w): gradient(w) for w in jax.tree.leaves(weights)}
    leaves, tree = jax.tree.flatten(weights)
    return jax.tree.unflatten(
        tree, [jax.tree.leaves(gradients[id(w)])[i] for i, w in enumerate(leaves)]
    )


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


def _placed(call: Call) -> tuple:
    """The types of the arguments, each a tree of them."""
    return jax.tree.unflatten(call.arguments, call.placements or ())


def _rounded(gradients: tuple, arguments, dtypes: tuple) -> tuple:
    """Each gradient in the dtype of its argument."""
    wanted = jax.tree.unflatten(arguments, dtypes)
    rounded = []
    tree: Any
    for gradient, wanted_dtypes in zip(gradients, wanted, strict=False):
        leaves, tree = jax.tree.flatten(gradient)
        if gradient is not None and tree == jax.tree.structure(wanted_dtypes):
            for i, dtype in enumerate(jax.tree.leaves(wanted_dtypes)):
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
    return _class_for(kind, call)(*values)
