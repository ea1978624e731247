"""A layer that saves its input instead of its residuals, and recomputes those."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun
from jax.sharding import AxisType

from jaxnn.combinators import Around
from jaxnn.layer import Layer


def computed_after(tree, event):
    """The same arrays, such that operations on them are recomputed, and only after `event`.

    Without it XLA merges the second forward pass with the first, or computes it early, and stores
    the result in between. `optimization_barrier` prevents that, but not on a CPU, where XLA removes
    it before it merges equal operations. There the arrays also pass through a `select` whose
    condition is true, which the compiler cannot know.
    """
    behind, _ = lax.optimization_barrier((tree, event))
    condition = always(event)

    def passed(a, behind):
        if jax.typeof(behind) != jax.typeof(a):  # in `shard_map`, a is the same on all devices
            return a
        if condition is None or jnp.issubdtype(a.dtype, jax.dtypes.extended):
            return behind
        return jnp.where(condition, behind, jnp.zeros_like(behind))

    return jax.tree.map(passed, tree, behind)


def always(tree):
    """True, computed on a CPU from a number of the tree: it equals itself or is NaN.

    `None` if the tree has no floating-point number, or only on explicit axes.
    """
    for a in jax.tree.leaves(tree):
        explicit = AxisType.Explicit in jax.typeof(a).sharding.mesh.axis_types
        if a.size and jnp.issubdtype(a.dtype, jnp.floating) and not explicit:
            return lax.platform_dependent(
                a[(0,) * a.ndim],
                cpu=lambda number: (number == number) | jnp.isnan(number),
                default=lambda number: jnp.full_like(number, True, bool),
            )
    return None


class RematResiduals(NamedTuple):
    """The arguments of `fwd`, and the statistics from which the state is updated."""

    params: Any
    x: Any
    key: Any
    statistics: "Statistics | None"


@dataclass(frozen=True, repr=False)
class Remat(Around):
    """A layer whose residuals are recomputed in the backward; see `jaxnn.remat`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    @property
    def position_wise(self) -> bool:  # type: ignore[override]
        """Whether the layer is."""
        return self.layer.position_wise

    def apply(self, params, x, state=None):
        """The output of the layer."""
        return self.layer.apply(params, x, state)

    def fwd(self, params, x, key=None):
        """The output of the layer, and the arguments."""
        y, saved = self.layer.fwd(params, x, key)
        statistics = Statistics.of(self.layer, saved) if self.stateful else None
        return y, RematResiduals(params, x, key, statistics)

    def bwd(self, residuals, dy):
        """The forward again, and the layer's backward from its residuals."""
        params, x, key, _ = residuals
        _, saved = self.layer.fwd(params, computed_after(x, dy), key)
        return self.layer.bwd(saved, dy)

    def bwd_input(self, residuals, dy):
        """The same in two halves; until the second, the residuals are held beside the deltas."""
        params, x, key, _ = residuals
        _, saved = self.layer.fwd(params, computed_after(x, dy), key)
        deltas, dx = self.layer.bwd_input(saved, dy)
        return (saved, deltas), dx

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the layer's parameters."""
        return super().bwd_params(*deltas, weights, axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the layer's parameters, example by example."""
        return super().bwd_examples(*deltas, axis)

    def update_state(self, state, residuals):
        """The state of the layer after a training step."""
        if not self.stateful:
            return state
        return residuals.statistics.update(self.layer, state)

    def extend(self, params, x, cache):
        """The output of the layer for the next positions."""
        return self.layer.extend(params, x, cache)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Structure:
    """The tree of some residuals, with the type of each array, and leaves that are not arrays."""

    tree: Any
    leaves: tuple

    def cut(self, layer: Layer, state) -> tuple[ClosedJaxpr, ClosedJaxpr]:
        """`layer.update_state`, split into its part that needs only the residuals, and the rest."""
        kinds = [leaf for leaf in self.leaves if isinstance(leaf, ShapedArray)]

        def update(state, arrays):
            arrays = iter(arrays)
            leaves = [next(arrays) if isinstance(a, ShapedArray) else a for a in self.leaves]
            return layer.update_state(state, jax.tree.unflatten(self.tree, leaves))

        closed = jax.make_jaxpr(update)(state, kinds)
        jaxpr = closed.jaxpr
        n = len(jaxpr.invars) - len(kinds)
        from_state = set(jaxpr.invars[:n])
        before: list = []
        after: list = []
        for eqn in jaxpr.eqns:
            depends = any(isinstance(v, Var) and v in from_state for v in eqn.invars)
            (after if depends else before).append(eqn)
            from_state.update(eqn.outvars if depends else ())
        needed = [v for eqn in after for v in eqn.invars] + jaxpr.outvars
        given = from_state | set(jaxpr.constvars)
        values = list(dict.fromkeys(v for v in needed if isinstance(v, Var) and v not in given))
        return (
            ClosedJaxpr(
                jaxpr.replace(invars=jaxpr.invars[n:], eqns=before, outvars=values), closed.consts
            ),
            ClosedJaxpr(jaxpr.replace(invars=jaxpr.invars[:n] + values, eqns=after), closed.consts),
        )


class Statistics(NamedTuple):
    """The values that `update_state` computes from the residuals alone: they are small.

    Attributes:
        values: the results, which the rest of `update_state` takes.
        structure: the structure of the residuals, to trace `update_state` again.
    """

    values: tuple
    structure: Structure

    @classmethod
    def of(cls, layer: Layer, residuals) -> "Statistics":
        """The statistics of the residuals of a layer."""
        leaves, tree = jax.tree.flatten(residuals)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        kinds = (jax.typeof(leaf) if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
        structure = Structure(tree, tuple(kinds))
        before, _ = structure.cut(layer, jax.eval_shape(layer.init_state))
        return cls(tuple(jaxpr_as_fun(before)(*arrays)), structure)

    def update(self, layer: Layer, state):
        """The state after a training step."""
        _, after = self.structure.cut(layer, state)
        leaves, tree = jax.tree.flatten(state)
        return jax.tree.unflatten(tree, jaxpr_as_fun(after)(*leaves, *self.values))
