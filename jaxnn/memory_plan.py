"""The choice of the layers to recompute so that the backward of a network fits a memory budget."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.combinators import Around, Serial
from jaxnn.layer import Layer
from jaxnn.padded import Padded, values_of
from jaxnn.recomputed import Remat

STATES = 512  # partial plans kept at each layer; fewer only make a plan slower than the best


class Unit(NamedTuple):
    """Neighbouring layers that save either all residuals or only the input.

    Attributes:
        start: the first layer.
        stop: the one after the last.
        remat: whether only the input is saved.
    """

    start: int
    stop: int
    remat: bool


class Cost(NamedTuple):
    """The cost of a layer, in bytes and in floating-point operations.

    Attributes:
        x: the arrays of the input, by identity.
        saved: the residuals in the same form, without the parameters.
        dy: the gradient of the output.
        bwd: the peak memory of its backward besides its residuals and dy, including dx.
        remat: the same for the forward and the backward, besides x and dy.
        flops: the operations of the forward.
    """

    x: dict
    saved: dict
    dy: int
    bwd: int
    remat: int
    flops: float


@jax.tree_util.register_static
@dataclass(frozen=True)
class Plan:
    """The units of a network, first to last."""

    units: tuple[Unit, ...]

    def grouped(self, entries: tuple) -> tuple:
        """One entry for each unit, from one entry for each layer."""
        return tuple(
            tuple(entries[u.start : u.stop]) if u.stop - u.start > 1 else entries[u.start]
            for u in self.units
        )

    def flat(self, entries: tuple) -> tuple:
        """One entry for each layer, from one entry for each unit."""
        parts = zip(self.units, entries, strict=True)
        return tuple(e for u, part in parts for e in (part if u.stop - u.start > 1 else (part,)))

    def net(self, layers: tuple[Layer, ...]) -> Layer:
        """The network of the units."""
        return OneKey(tuple(self._unit(layers, unit) for unit in self.units))

    def _unit(self, layers, unit):
        *inner, last = (layers[i] for i in range(unit.start, unit.stop))
        if not unit.remat:
            return last
        return Remat(OneKey((*map(Remat, inner), last)) if inner else last)


@dataclass(frozen=True, repr=False)
class Numbered(Around):
    """A layer that receives the key of its place in a network."""

    layer: Layer
    place: int

    def fwd(self, params, x, key=None):
        """The forward of the layer, with its own key."""
        return self.layer.fwd(
            params, x, None if key is None else jax.random.fold_in(key, self.place)
        )

    def bwd(self, residuals, dy):
        """The layer's."""
        return self.layer.bwd(residuals, dy)

    def bwd_input(self, residuals, dy):
        """The layer's."""
        return self.layer.bwd_input(residuals, dy)


class OneKey(Serial):
    """Layers in sequence that all receive the key of the whole."""

    def key_of_layer(self, key, i):
        """The key of the whole."""
        return key


def costs_of(layers, params, x, key) -> list[Cost]:
    """The cost of each layer; arrays that are the same in two layers have the same identity."""
    costs: list[Cost] = []

    def forward(params, x, key):
        for layer, p in zip(layers, params, strict=True):
            y, saved = layer.fwd(p, x, key)
            of_params = set(map(id, jax.tree.leaves((params, key))))
            arrays = [a for a in jax.tree.leaves(saved) if id(a) not in of_params]
            measured = _measured(layer, *map(Kinds.of, (p, x, key, y)))
            costs.append(Cost(_sizes(jax.tree.leaves(x)), _sizes(arrays), *measured))
            alive.append((x, saved))
            x = y
        return x

    alive: list = []  # so that no two arrays have one identity
    jax.eval_shape(forward, params, x, key)
    return costs


class Kinds(NamedTuple):
    """The types of a tree of arrays, hashable."""

    tree: Any
    leaves: tuple

    @classmethod
    def of(cls, tree) -> "Kinds":
        """The types of the arrays in a tree."""
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda tree: tree, tree))
        return cls(structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))

    def shapes(self):
        """The tree of shapes and dtypes."""
        return jax.tree.unflatten(
            self.tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.leaves]
        )


@lru_cache(maxsize=1024)
def _measured(layer: Layer, params: Kinds, x: Kinds, key: Kinds, y: Kinds):
    """The bytes of dy, those of the two backward passes, and the flops of the forward.

    The passes are compiled: the memory of a backward depends on the compiler's fusions.
    """
    params, x, key, y = (kinds.shapes() for kinds in (params, x, key, y))
    layer = layer.layer if isinstance(layer, Numbered) else layer
    dy = jax.eval_shape(gradient_like, y)
    dx = sum(_sizes(jax.tree.leaves(jax.eval_shape(gradient_like, x))).values())

    def temporary(net):
        residuals = jax.eval_shape(net.fwd, params, x, key)[1]
        return temporary_bytes(net.bwd, residuals, dy) + dx

    lowered = jax.jit(lambda *args: layer.fwd(*args)[0]).lower(params, x, key)
    flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
    bytes_of_dy = sum(_sizes(jax.tree.leaves(dy)).values())
    return bytes_of_dy, temporary(layer), temporary(Remat(layer)), flops


def temporary_bytes(function, *args) -> int:
    """The peak memory of a compiled function, besides its arguments and its outputs."""
    compiled = jax.jit(function).lower(*args).compile()
    return getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)


def gradient_like(tree):
    """The gradient of a tree: that of its values for `Padded`, `None` for integers."""
    tree = jax.tree.map(values_of, tree, is_leaf=lambda part: isinstance(part, Padded))
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, tree)


def _sizes(arrays) -> dict:
    return {id(a): a.size * a.dtype.itemsize for a in arrays if hasattr(a, "dtype")}


def cheapest(costs: list[Cost], budget: int) -> tuple[Unit, ...] | None:
    """The units with the least flops to recompute that fit, or `None`.

    Plans for the first i layers are compared by the bytes that they save and the flops that they
    recompute; one that is worse in both is dropped. A unit fits if its backward does, together with
    everything that the units before it have saved.
    """
    n = len(costs)
    partial: list[dict] = [
        {} for _ in range(n + 1)
    ]  # (saved bytes, shared arrays) -> (flops, units)
    partial[0][0, False] = (0.0, (), {})
    for i in range(n):
        for (held, _), (flops, units, shared) in _frontier(partial[i]):
            for unit in _units_from(costs, i, held, shared, budget):
                saved = costs[i].x if unit.remat else costs[i].saved
                key = (held + _new_bytes(saved, shared), unit.remat)
                candidate = (flops + _recomputed(costs, unit), (*units, unit), saved)
                if key not in partial[unit.stop] or candidate[0] < partial[unit.stop][key][0]:
                    partial[unit.stop][key] = candidate
    return min(partial[n].values(), default=(0.0, None), key=lambda plan: plan[0])[1]


def _units_from(costs, i, held, shared, budget):
    """The units that start with layer i and fit."""
    cost = costs[i]
    if held + _new_bytes(cost.saved, shared) + cost.dy + cost.bwd <= budget:
        yield Unit(i, i + 1, remat=False)
    inside = held + _new_bytes(cost.x, shared)
    for stop in range(i + 1, len(costs) + 1):
        last = costs[stop - 1]
        inside += sum(last.x.values()) if stop > i + 1 else 0
        if inside + last.dy + last.remat > budget:
            return
        yield Unit(i, stop, remat=True)


def _recomputed(costs, unit) -> float:
    """The flops that a unit recomputes: all its layers, and all but the last once more."""
    flops = [cost.flops for cost in costs[unit.start : unit.stop]]
    return 2 * sum(flops) - flops[-1] if unit.remat else 0.0


def _new_bytes(saved: dict, shared: dict) -> int:
    return sum(size for array, size in saved.items() if array not in shared)


def _frontier(plans: dict) -> list:
    """The plans that no other beats in both bytes and flops, by bytes."""
    kept: list = []
    for key, plan in sorted(plans.items(), key=lambda item: (item[0], item[1][0])):
        if not kept or plan[0] < kept[-1][1][0]:
            kept.append((key, plan))
    step = -(-len(kept) // STATES) or 1
    return kept[::-step][::-1]


def least_budget(costs) -> int:
    """The smallest budget for which there is a plan."""
    low, high = 0, sum(sum(c.saved.values()) + c.dy + c.bwd for c in costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cheapest(costs, middle) else (middle + 1, high)
    return low
