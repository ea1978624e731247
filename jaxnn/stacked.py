"""Equal layers in sequence as one loop, compiled once whatever the depth."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.combinators import Around
from jaxnn.example_gradients import Stack, map_forms
from jaxnn.layer import Layer, as_layer, bwd_params_of, require_sizes
from jaxnn.op import Op
from jaxnn.reversible import CarryResiduals, Invertible


@jax.tree_util.register_static
@dataclass(frozen=True)
class Places:
    """The location of each leaf of some residuals.

    Attributes:
        tree: their structure.
        of_params: for each leaf, its position among the parameters, or `None`.
        of_arrays: the same among the other arrays.
        others: the leaves that are not arrays.
    """

    tree: Any
    of_params: tuple
    of_arrays: tuple
    others: tuple


class Saved(NamedTuple):
    """The residuals of a layer without its parameters, each array once."""

    arrays: tuple
    places: Places

    @classmethod
    def of(cls, residuals, params) -> "Saved":
        """The residuals of a layer with these parameters."""
        leaves, tree = jax.tree.flatten(residuals)
        known = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}
        arrays = {
            id(leaf): leaf
            for leaf in leaves
            if isinstance(leaf, jax.Array) and id(leaf) not in known
        }
        order = {name: i for i, name in enumerate(arrays)}
        places = Places(
            tree,
            tuple(known.get(id(leaf)) for leaf in leaves),
            tuple(order.get(id(leaf)) for leaf in leaves),
            tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves),
        )
        return cls(tuple(arrays.values()), places)

    def whole(self, params):
        """The residuals."""
        known = jax.tree.leaves(params)
        places = zip(self.places.of_params, self.places.of_arrays, self.places.others, strict=True)
        leaves = [
            known[p] if p is not None else self.arrays[a] if a is not None else other
            for p, a, other in places
        ]
        return jax.tree.unflatten(self.places.tree, leaves)


class StackedResiduals(NamedTuple):
    """The parameters, and the other residuals of each layer along a leading axis."""

    params: Any
    saved: Saved


@dataclass(frozen=True, repr=False)
class Stacked(Around):
    """Equal layers in sequence; see `stacked`.

    Attributes:
        layer: the layer.
        n: the number of layers.
    """

    layer: Layer
    n: int

    def __post_init__(self):
        require_sizes("stacked", n=self.n)

    @property
    def position_wise(self) -> bool:  # type: ignore[override]
        """Whether the layer is."""
        return self.layer.position_wise

    def init(self, key):
        """The parameters of each layer, from its own key, along a leading axis."""
        return jax.vmap(self.layer.init)(jax.random.split(key, self.n))

    def params_of_layer(self, params):
        """The parameters of the first layer."""
        self._require_leading_axis("params", params)
        return jax.tree.map(lambda a: a[0], params)

    def apply(self, params, x, state=None):
        """The output of the last layer."""
        self._require_leading_axis("params", params)
        self._require_leading_axis("state", state)

        def step(x, entry):
            return _same(x, self.layer.apply(entry[0], x, entry[1])), None

        return lax.scan(step, _arrays(x), (params, state), self.n)[0]

    def fwd(self, params, x, key=None):
        """The output of the last layer, and the residuals of each or the last carry."""
        self._require_leading_axis("params", params)
        layer = self.layer
        if isinstance(layer, Invertible):

            def advance(carry, entry):
                p, i = entry
                return layer.advance(p, carry, _key(key, i)), None

            carry, _ = lax.scan(advance, layer.carry_of(x), (params, self._places()))
            return layer.output_of(carry), CarryResiduals(params, carry, key)

        def step(x, entry):
            p, i = entry
            y, residuals = layer.fwd(p, x, _key(key, i))
            return _same(x, y), Saved.of(residuals, p)

        y, saved = lax.scan(step, _arrays(x), (params, self._places()))
        return y, StackedResiduals(params, saved)

    def bwd(self, residuals, dy):
        """The chain rule as a loop from the last layer to the first."""
        layer = self.layer
        if isinstance(residuals, CarryResiduals):
            return self._walk_back(residuals, dy, layer.go_back)
        return self._chain(residuals, dy, layer.bwd)

    def bwd_input(self, residuals, dy):
        """The same loop, without the gradients of the parameters."""
        layer = self.layer
        if isinstance(residuals, CarryResiduals):
            return self._walk_back(residuals, dy, layer.go_back_input)
        return self._chain(residuals, dy, layer.bwd_input)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the parameters, one layer at a time."""

        def gradient(saved, deltas):
            return bwd_params_of(self.layer, saved, deltas, weights, axis)

        return lax.map(lambda entry: _of_layer(gradient, *entry), _entries(residuals, deltas))

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the parameters of each layer, example by example."""

        def gradients(saved, deltas):
            return self.layer.bwd_examples(saved, deltas, axis)

        of_layers = jax.vmap(partial(_of_layer, gradients))(*_entries(residuals, deltas))
        return map_forms(Stack, of_layers)

    def _walk_back(self, residuals, dy, go_back):
        """The backward walk from the last carry, with the result of `go_back` for each layer."""
        params, carry, key = residuals

        def back(state, entry):
            (carry, dy), (p, i) = state, entry
            kept, carry, dx = go_back(p, carry, dy, _key(key, i))
            return (carry, dx), kept

        steps = params, self._places()
        (_, dx), kept = lax.scan(back, (carry, dy), steps, reverse=True)
        return kept, dx

    def _chain(self, residuals, dy, backward):
        """The chain rule, with the result of `backward` for each layer besides dx."""

        def step(dy, entry):
            p, saved = entry
            kept, dx = backward(saved.whole(p), dy)
            return dx, kept

        dx, kept = lax.scan(step, dy, tuple(residuals), reverse=True)
        return kept, dx

    def init_state(self):
        """The state of each layer, along a leading axis."""
        return self._repeated(self.layer.init_state())

    def update_state(self, state, residuals):
        """The state of each layer after a training step."""
        if not self.stateful:
            return state

        def update(entry):
            s, (p, saved) = entry
            return self.layer.update_state(s, saved.whole(p))

        return lax.map(update, (state, tuple(residuals)))

    def init_cache(self, batch, length, dtype=jnp.float32):
        """The cache of each layer, along a leading axis."""
        return self._repeated(self.layer.init_cache(batch, length, dtype))

    def extend(self, params, x, cache):
        """The output of the last layer for the next positions, and the cache of each."""
        self._require_leading_axis("params", params)

        def step(x, entry):
            y, cache = self.layer.extend(entry[0], x, entry[1])
            return _same(x, y), cache

        return lax.scan(step, _arrays(x), (params, cache), self.n)

    def _repeated(self, tree):
        return jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[None], self.n, axis=0), tree)

    def _places(self):
        return jnp.arange(self.n)

    def _require_leading_axis(self, what: str, tree) -> None:
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[:1] != (self.n,):
                raise ValueError(
                    f"stacked: every array of {what} must have a leading axis of the {self.n} "
                    f"layers, got shape {jnp.shape(leaf)}"
                )


def stacked(layer: Layer | Op, n: int) -> Stacked:
    """n equal layers in sequence, each with its own parameters: y = f(θₙ, … f(θ₂, f(θ₁, x))).

    It is `serial` of n equal layers as one loop, so the time to compile does not depend on n. Each
    array of its params, its state and its cache has the n layers along a leading axis; the keys of
    random layers are those of `serial`.

    Backward. With xₖ₊₁ = f(θₖ, xₖ) and dₙ = dy, for k from the last layer to the first
        ⟨dₖ₊₁, ẋₖ₊₁⟩ = ⟨dₖ₊₁, ∂f/∂θ·θ̇ₖ⟩ + ⟨dₖ₊₁, ∂f/∂x·ẋₖ⟩
    so one call f.bwd(dₖ₊₁), with the residuals of layer k, gives dθₖ and dₖ. At the end dx = d₀.

    Saves: the residuals of each layer, without the parameters, which exist anyway. With
    `remat(layer)` these are the inputs; with `reversible` layers only the last output.

    Args:
        layer: a layer, or an op of one argument, whose output has the shape and dtype of its input.
        n: the number of layers.

    Raises:
        TypeError: layer is neither a layer nor an op of one argument.
        ValueError: n is not a positive integer; later, the layer changes the shape or the dtype, or
            params, state or cache do not have a leading axis of n.

    Example:
        >>> block = jaxnn.residual(jaxnn.serial(jaxnn.LayerNorm(4), jaxnn.Linear(4, 4), jaxnn.gelu))
        >>> net = jaxnn.stacked(block, 16)
        >>> params = net.init(jax.random.key(0))
        >>> params[1]["w"].shape
        (16, 4, 4)
        >>> net.apply(params, jnp.ones((5, 4))).shape
        (5, 4)

        To stack the parameters of n layers, and to take out those of layer k:

        >>> params = jax.tree.map(lambda *arrays: jnp.stack(arrays), *[block.init(key) for key in
        ...     jax.random.split(jax.random.key(0), 16)])
        >>> third = jax.tree.map(lambda array: array[2], params)
    """
    return Stacked(as_layer(layer), n)


def _entries(residuals, deltas):
    """The arrays along the axis of layers; the deltas of invertible layers hold the residuals."""
    return None if isinstance(residuals, CarryResiduals) else residuals, deltas


def _of_layer(function, residuals, deltas):
    """A function of the whole residuals and the deltas of one layer."""
    return function(residuals and residuals.saved.whole(residuals.params), deltas)


def _key(key, i):
    """The key that `serial` gives to layer i."""
    return None if key is None else jax.random.fold_in(key, i)


def _arrays(x):
    return jax.tree.map(jnp.asarray, x)


def _same(x, y):
    """y, if it has the type of x."""
    kinds = [jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree) for tree in (x, y)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"stacked: the layer gives {kinds[1]} for {kinds[0]}; they must be equal")
    return y
