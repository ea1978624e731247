"""Combinators: layers made of layers, whose backward is the chain rule."""

from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.example_gradients import map_forms
from jaxnn.layer import Layer, OpLayer, State, as_layer, bwd_params_of
from jaxnn.op import Op
from jaxnn.padded import swap_batch_and_time, values_of, with_values


class Composed(Layer):
    """The base of combinators of several layers; params and states have one entry for each."""

    layers: tuple[Layer, ...]

    @property
    def stateful(self) -> bool:
        """Whether one of the layers is."""
        return any(layer.stateful for layer in self.layers)

    def init(self, key):
        """The parameters of each layer, from its own key."""
        keys = jax.random.split(key, max(len(self.layers), 1))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=False))

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of each layer's parameters."""
        each = weights if type(weights) is tuple else (weights,) * len(self.layers)
        saved = self.residuals_of_layers(residuals)
        layers = zip(self.layers, saved, deltas, each, strict=True)
        return tuple(bwd_params_of(*layer, axis) for layer in layers)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of each layer's parameters, example by example."""
        i, layer, found = 0, self, []
        saved = self.residuals_of_layers(residuals)
        try:
            for i, (layer, s, delta) in enumerate(  # noqa: B007  an error names it
                zip(self.layers, saved, deltas, strict=True)
            ):
                found.append(layer.bwd_examples(s, delta, axis))
        except ValueError as error:
            raise located(error, i, layer) from None
        return tuple(found)

    def init_state(self):
        """The state of each layer."""
        return tuple(layer.init_state() for layer in self.layers)

    def update_state(self, state, residuals):
        """The state of each layer after a training step."""
        return tuple(
            layer.update_state(s, saved)
            for layer, s, saved in zip(
                self.layers, state, self.residuals_of_layers(residuals), strict=True
            )
        )

    def residuals_of_layers(self, residuals) -> tuple:
        """The residuals of each layer."""
        return residuals

    def init_cache(self, batch, length, dtype=jnp.float32):
        """The cache of each layer."""
        return tuple(layer.init_cache(batch, length, dtype) for layer in self.layers)

    def states(self, state: State) -> tuple:
        """The state of each layer; `None` for each if there is none."""
        if state is None or not self.stateful:
            return (None,) * len(self.layers)
        self.require_one_for_each("state", state)
        return state

    def require_one_for_each(self, what: str, tree) -> None:
        """Raise unless a tree is a tuple with an entry for each layer."""
        require_entries(type(self).__name__.lower(), what, tree, len(self.layers), "layers")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


class SideBySide(Composed):
    """The base of `Parallel` and `Each`: a layer for each of several inputs."""

    def apply_each(self, params, inputs, state) -> tuple:
        """The output of each layer."""
        self.require_one_for_each("params", params)
        layers = zip(self.layers, params, inputs, self.states(state), strict=True)
        return tuple(layer.apply(p, x, s) for layer, p, x, s in layers)

    def fwd_each(self, params, inputs, key) -> tuple[tuple, tuple]:
        """The output and the residuals of each layer."""
        self.require_one_for_each("params", params)
        outputs, saved = [], []
        for i, (layer, p, x) in enumerate(zip(self.layers, params, inputs, strict=True)):
            y, residuals = layer.fwd(p, x, None if key is None else jax.random.fold_in(key, i))
            outputs.append(y)
            saved.append(residuals)
        return tuple(outputs), tuple(saved)

    def bwd_each(self, residuals, dys) -> tuple[tuple, tuple]:
        """The deltas and the gradient of the input of each layer."""
        self.require_one_for_each("dy", dys)
        deltas, dxs = [], []
        for layer, saved, dy in zip(self.layers, residuals, dys, strict=True):
            delta, dx = layer.bwd_input(saved, dy)
            deltas.append(delta)
            dxs.append(dx)
        return tuple(deltas), tuple(dxs)

    def extend_each(self, params, inputs, cache) -> tuple[tuple, tuple]:
        """The output of each layer for the next positions, and its cache."""
        layers = zip(self.layers, params, inputs, cache, strict=True)
        steps = [layer.extend(p, x, c) for layer, p, x, c in layers]
        return tuple(y for y, _ in steps), tuple(c for _, c in steps)


@dataclass(frozen=True, repr=False)
class Serial(Composed):
    """Layers in sequence; see `serial`.

    Attributes:
        layers: the layers, first to last.
    """

    layers: tuple[Layer, ...]

    def apply(self, params, x, state=None):
        """The output of the last layer."""
        self.require_one_for_each("params", params)
        states = self.states(state)
        i, layer = 0, self
        try:
            for i, (layer, p, s) in enumerate(  # noqa: B007  an error names it
                zip(self.layers, params, states, strict=True)
            ):
                x = layer.apply(p, x, s)
        except (TypeError, ValueError) as error:
            raise located(error, i, layer) from None
        return x

    def fwd(self, params, x, key=None):
        """The output of the last layer, and the residuals of each."""
        if type(params) is not tuple or len(params) != len(self.layers):
            self.require_one_for_each("params", params)
        residuals, i, layer = [], 0, self
        try:
            for i, (layer, p) in enumerate(zip(self.layers, params, strict=True)):
                x, saved = layer.fwd(p, x, self.key_of_layer(key, i))
                residuals.append(saved)
        except (TypeError, ValueError) as error:
            raise located(error, i, layer) from None
        return x, tuple(residuals)

    def key_of_layer(self, key, i):
        """The key of layer i in training."""
        return None if key is None else jax.random.fold_in(key, i)

    def extend(self, params, x, cache):
        """The output of the last layer for the next positions."""
        caches = []
        for layer, p, c in zip(self.layers, params, cache, strict=True):
            x, c = layer.extend(p, x, c)
            caches.append(c)
        return x, tuple(caches)

    def bwd(self, residuals, dy):
        """The chain rule: each layer turns the gradient of its output into that of its input."""
        dparams = []
        for layer, saved in zip(reversed(self.layers), reversed(residuals), strict=True):
            dlayer, dy = layer.bwd(saved, dy)
            dparams.append(dlayer)
        return tuple(reversed(dparams)), dy

    def bwd_input(self, residuals, dy):
        """The same walk, without the gradients of the parameters."""
        deltas = []
        for layer, saved in zip(reversed(self.layers), reversed(residuals), strict=True):
            delta, dy = layer.bwd_input(saved, dy)
            deltas.append(delta)
        return tuple(reversed(deltas)), dy


def serial(*layers: Layer | Op) -> Serial:
    """Layers in sequence: y = fₙ(… f₂(f₁(x))), again a layer.

    Its params are the tuple of the layers' params. Its backward is the chain rule: it walks back
    through the layers, passes each one the gradient of its output and receives that of its input.

    Args:
        *layers: layers, or ops of one argument.

    Raises:
        TypeError: an argument is neither.
        ValueError: params does not have one entry for each layer.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(4, 3), jaxnn.relu, jaxnn.Linear(3, 2))
        >>> net
        Serial(Linear(4, 3), relu, Linear(3, 2))
        >>> params = net.init(jax.random.key(0))
        >>> net.apply(params, jnp.ones((5, 4))).shape
        (5, 2)
    """
    return Serial(tuple(map(as_layer, layers)))


class Around(Layer):
    """The base of combinators of one layer, whose params and state are the layer's."""

    layer: Layer

    @property
    def stateful(self) -> bool:
        """Whether the layer is."""
        return self.layer.stateful

    def init(self, key):
        """The parameters of the layer."""
        return self.layer.init(key)

    def input_of_layer(self, x):
        """The input that the layer is given."""
        return x

    def params_of_layer(self, params):
        """The parameters that the layer is given."""
        return params

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the layer's parameters."""
        return bwd_params_of(self.layer, residuals, deltas, weights, axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the layer's parameters, example by example."""
        return self.layer.bwd_examples(residuals, deltas, axis)

    def init_cache(self, batch, length, dtype=jnp.float32):
        """The cache of the layer."""
        return self.layer.init_cache(batch, length, dtype)

    def init_state(self):
        """The state of the layer."""
        return self.layer.init_state()

    def update_state(self, state, residuals):
        """The state of the layer after a training step."""
        return self.layer.update_state(state, residuals)


@dataclass(frozen=True, repr=False)
class Residual(Around):
    """A layer and a path around it; see `residual`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def apply(self, params, x, state=None):
        """x + f(x)."""
        return self._sum(x, self.layer.apply(params, x, state))

    def fwd(self, params, x, key=None):
        """x + f(x), and the residuals of the layer."""
        y, saved = self.layer.fwd(params, x, key)
        return self._sum(x, y), saved

    def bwd_input(self, residuals, dy):
        """dx = dy + f.bwd(dy)."""
        deltas, dx = self.layer.bwd_input(residuals, dy)
        return deltas, dy + dx

    def extend(self, params, x, cache):
        """x + f(x) for the next positions."""
        y, cache = self.layer.extend(params, x, cache)
        return self._sum(x, y), cache

    def _sum(self, x, y):
        before, after = values_of(x), values_of(y)
        if before.shape != after.shape:
            raise ValueError(
                f"residual: the layer gives shape {after.shape} for an input of shape "
                f"{before.shape}; the two must be equal"
            )
        return with_values(x, before + after)


def residual(layer: Layer | Op) -> Residual:
    """A layer and a path around it: y = x + f(x), with the params and the state of the layer.

    Backward, by the sum of the two paths:
        dx = dy + f.bwd(dy)
    so the gradient reaches x undiminished, whatever the layer does to it.

    Args:
        layer: a layer, or an op of one argument, whose output has the shape of its input.

    Raises:
        TypeError: it is neither.
        ValueError: its output has another shape.

    Reference: K. He et al., "Deep Residual Learning for Image Recognition", 2015, equation 1.

    Example:
        >>> block = jaxnn.residual(jaxnn.serial(jaxnn.Linear(4, 4), jaxnn.relu))
        >>> block
        Residual(Serial(Linear(4, 4), relu))
        >>> block.apply(block.init(jax.random.key(0)), jnp.ones((5, 4))).shape
        (5, 4)
    """
    return Residual(as_layer(layer))


class ParallelResiduals(NamedTuple):
    """The residuals of each layer, and the width of its output if they are concatenated."""

    layers: tuple
    widths: "Widths | None"


@dataclass(frozen=True, repr=False)
class Parallel(SideBySide):
    """Layers on the same input; see `parallel`.

    Attributes:
        layers: the layers.
        combine: "sum", "concatenate" or `None`.
    """

    layers: tuple[Layer, ...]
    combine: str | None = field(default="sum", kw_only=True)

    def __post_init__(self):
        if not self.layers:
            raise ValueError("parallel: there is no layer")
        if self.combine not in ("sum", "concatenate", None):
            raise ValueError(
                f"parallel: combine must be 'sum', 'concatenate' or None, got {self.combine!r}"
            )

    def apply(self, params, x, state=None):
        """The outputs, combined."""
        return self._combined(self.apply_each(params, self._inputs(x), state))

    def fwd(self, params, x, key=None):
        """The outputs, combined, and the residuals of each layer."""
        outputs, saved = self.fwd_each(params, self._inputs(x), key)
        widths = None
        if self.combine == "concatenate":
            widths = Widths(tuple(y.shape[-1] if y.ndim else 1 for y in map(values_of, outputs)))
        return self._combined(outputs), ParallelResiduals(saved, widths)

    def bwd_input(self, residuals, dy):
        """Each layer gets dy, or its own part of dy; dx is the sum of their dx."""
        saved, widths = residuals
        parts = dy if self.combine is None else self._inputs(dy)
        if widths is not None:
            parts = widths.split(dy)
        deltas, dxs = self.bwd_each(saved, parts)
        return deltas, sum_of_gradients(dxs)

    def extend(self, params, x, cache):
        """The outputs for the next positions, combined."""
        outputs, cache = self.extend_each(params, self._inputs(x), cache)
        return self._combined(outputs), cache

    def residuals_of_layers(self, residuals):
        """The residuals of each layer."""
        return residuals.layers

    def _inputs(self, x) -> tuple:
        return (x,) * len(self.layers)

    def _combined(self, outputs: tuple):
        if self.combine is None:
            return outputs
        values = list(map(values_of, outputs))
        compared = [y.shape if self.combine == "sum" else y.shape[:-1] for y in values]
        if len(set(compared)) > 1:
            raise ValueError(
                f"parallel: the outputs have the shapes {[y.shape for y in values]}, which cannot "
                f"be combined by {self.combine!r}"
            )
        if self.combine == "sum":
            return with_values(outputs[0], sum(values[1:], values[0]))
        return with_values(outputs[0], jnp.concatenate(values, axis=-1))

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        option = "" if self.combine == "sum" else f", combine={self.combine!r}"
        return f"Parallel({layers}{option})"


def parallel(*layers: Layer | Op, combine: str | None = "sum") -> Parallel:
    """Layers on the same input: y = Σ fᵢ(x), their outputs concatenated, or the tuple of them.

    Its params are the tuple of the layers' params. Backward:
        "sum"          each layer gets dy
        "concatenate"  each layer gets its own part of dy
        None           each layer gets its own entry of dy
        dx = Σᵢ dxᵢ    because x goes into each of them

    Args:
        *layers: at least one layer, or op of one argument.
        combine: "sum", "concatenate" (along the last axis), or `None` for the tuple.

    Raises:
        TypeError: an argument is neither a layer nor an op.
        ValueError: there is no layer, combine is unknown, or, later, the outputs cannot be
            combined.

    Example:
        >>> net = jaxnn.parallel(jaxnn.Linear(4, 3), jaxnn.identity, combine="concatenate")
        >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 4))).shape
        (5, 7)
    """
    return Parallel(tuple(map(as_layer, layers)), combine=combine)


@dataclass(frozen=True, repr=False)
class Each(SideBySide):
    """Layers on one input each; see `each`.

    Attributes:
        layers: the layers.
    """

    layers: tuple[Layer, ...]

    def apply(self, params, x, state=None):
        """The tuple of the outputs."""
        self.require_one_for_each("x", x)
        return self.apply_each(params, x, state)

    def fwd(self, params, x, key=None):
        """The tuple of the outputs, and the residuals of each layer."""
        self.require_one_for_each("x", x)
        return self.fwd_each(params, x, key)

    def bwd_input(self, residuals, dy):
        """Each layer gets its own entry of dy, and gives its entry of dx."""
        return self.bwd_each(residuals, dy)

    def extend(self, params, x, cache):
        """The tuple of the outputs for the next positions."""
        return self.extend_each(params, x, cache)


def each(*layers: Layer | Op) -> Each:
    """Layers on one input each: (x₀, x₁, …) ↦ (f₀(x₀), f₁(x₁), …).

    With `parallel(…, combine=None)`, which passes one input to several layers, and `concatenate`,
    `add` and `multiply`, which join a tuple, it builds every acyclic graph. Its params are the
    tuple of the layers' params. Backward: each layer gets its own entry of dy.

    Args:
        *layers: layers, or ops of one argument; `serial()` is the identity.

    Raises:
        TypeError: an argument is neither a layer nor an op.
        ValueError: later, x or params does not have one entry for each layer.

    Example:
        >>> net = jaxnn.serial(
        ...     jaxnn.each(jaxnn.Linear(4, 3), jaxnn.serial()), jaxnn.concatenate
        ... )
        >>> x = jnp.ones((5, 4)), jnp.ones((5, 2))
        >>> net.apply(net.init(jax.random.key(0)), x).shape
        (5, 5)
    """
    return Each(tuple(map(as_layer, layers)))


@dataclass(frozen=True, repr=False)
class Shared(Around):
    """One layer on several inputs; see `shared`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def apply(self, params, x, state=None):
        """The tuple of the outputs."""
        require_entries("shared", "x", x)
        return tuple(self.layer.apply(params, entry, state) for entry in x)

    def input_of_layer(self, x):
        """The first of the inputs."""
        return x[0]

    def fwd(self, params, x, key=None):
        """The tuple of the outputs, and the residuals of each call."""
        require_entries("shared", "x", x)
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(x))]
        steps = [self.layer.fwd(params, entry, k) for entry, k in zip(x, keys, strict=True)]
        return tuple(y for y, _ in steps), tuple(saved for _, saved in steps)

    def bwd_input(self, residuals, dy):
        """Each call gets its own entry of dy."""
        require_entries("shared", "dy", dy, len(residuals), "inputs")
        steps = [
            self.layer.bwd_input(saved, entry) for saved, entry in zip(residuals, dy, strict=True)
        ]
        return tuple(deltas for deltas, _ in steps), tuple(dx for _, dx in steps)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The sum over the calls, because each of them uses the params."""
        calls = zip(residuals, deltas, strict=True)
        return sum_of_gradients([bwd_params_of(self.layer, *call, weights, axis) for call in calls])

    def bwd_examples(self, residuals, deltas, axis=0):
        """The sum over the calls, which are further places of each example."""
        calls = zip(residuals, deltas, strict=True)
        first, *others = [self.layer.bwd_examples(*call, axis) for call in calls]
        return reduce(partial(map_forms, lambda g, h: g.plus(h)), others, first)

    def update_state(self, state, residuals):
        """The state after each call in turn."""
        for saved in residuals:
            state = self.layer.update_state(state, saved)
        return state


def shared(layer: Layer | Op) -> Shared:
    """One layer on each entry of a tuple, (x₀, x₁, …) ↦ (f(x₀), f(x₁), …): a siamese network.

    Its params are those of the layer. Backward: dparams is the sum over the entries.

    Args:
        layer: a layer, or an op of one argument.

    Raises:
        TypeError: it is neither.

    Reference: J. Bromley et al., "Signature Verification using a Siamese Time Delay Neural
    Network", 1993.

    Example:
        >>> net = jaxnn.shared(jaxnn.Linear(4, 3))
        >>> a, b = net.apply(net.init(jax.random.key(0)), (jnp.ones((5, 4)), jnp.ones((5, 4))))
        >>> a.shape, bool((a == b).all())
        ((5, 3), True)
    """
    return Shared(as_layer(layer))


@dataclass(frozen=True, repr=False)
class Pick(Layer):
    """Some entries of a tuple; see `pick`.

    Attributes:
        indices: their positions.
    """

    indices: tuple[int, ...]
    position_wise = True

    def apply(self, params, x, state=None):
        """The entry, or the tuple of the entries."""
        if not isinstance(x, tuple | list) or max(self.indices) >= len(x):
            raise ValueError(f"pick: x must be a tuple with an entry {max(self.indices)}")
        picked = tuple(x[i] for i in self.indices)
        return picked if len(picked) > 1 else picked[0]

    def fwd(self, params, x, key=None):
        """The same, and the shapes of the input."""
        y = self.apply(params, x)
        leaves, tree = jax.tree.flatten(tuple(map(values_of, x)))
        return y, Shapes(tree, tuple((a.shape, a.dtype) for a in leaves))

    def bwd_input(self, residuals, dy):
        """dy at the positions of the picked entries, and 0 elsewhere."""
        dx, entries = list(residuals.zeros()), (dy,)
        if len(self.indices) > 1:
            require_entries("pick", "dy", dy, len(self.indices), "positions")
            entries = dy
        for i, entry in zip(self.indices, entries, strict=True):
            require_gradient("pick", dx[i], entry)
            dx[i] = sum_of_gradients([dx[i], entry])
        return (), tuple(dx)

    def __repr__(self) -> str:
        return f"pick({', '.join(map(repr, self.indices))})"


def pick(*indices: int) -> Pick:
    """The entries of a tuple at these positions: one by itself, several as a tuple.

    Backward: dx is dy at these positions, and 0 at the others.

    Args:
        *indices: at least one position, from 0.

    Raises:
        ValueError: there is none, one is negative, or, later, x has no such entry.

    Example:
        >>> decoder = jaxnn.serial(jaxnn.pick(1, 0), jaxnn.TransformerBlock(8, 2, cross=True))
        >>> source, target = jnp.ones((2, 5, 8)), jnp.ones((2, 3, 8))
        >>> y, memory = decoder.apply(decoder.init(jax.random.key(0)), (source, target))
        >>> y.shape, memory.shape
        ((2, 3, 8), (2, 5, 8))
    """
    if not indices or any(type(i) is not int or i < 0 for i in indices):
        raise ValueError(f"pick: the positions must be integers from 0, got {indices}")
    return Pick(indices)


@dataclass(frozen=True, repr=False)
class BatchFirst(Around):
    """A layer for sequences (T, N, …), applied to (N, T, …); see `batch_first`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def apply(self, params, x, state=None):
        """The output with its first two axes swapped."""
        return swap_batch_and_time(self.layer.apply(params, self.input_of_layer(x), state))

    def input_of_layer(self, x):
        """x with its first two axes swapped."""
        return swap_batch_and_time(x)

    def fwd(self, params, x, key=None):
        """The output with its first two axes swapped, and the residuals of the layer."""
        y, saved = self.layer.fwd(params, self.input_of_layer(x), key)
        return swap_batch_and_time(y), saved

    def extend(self, params, x, cache):
        """The output for the next positions, with its first two axes swapped."""
        y, cache = self.layer.extend(params, self.input_of_layer(x), cache)
        return swap_batch_and_time(y), cache

    def bwd_input(self, residuals, dy):
        """dx and dy have their first two axes swapped like x and y."""
        deltas, dx = self.layer.bwd_input(residuals, swap_batch_and_time(dy, "dy"))
        return deltas, None if dx is None else swap_batch_and_time(dx)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the layer, whose examples are along the other of the two axes."""
        return super().bwd_params(residuals, deltas, weights, 1 - axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The same, example by example."""
        return super().bwd_examples(residuals, deltas, 1 - axis)


def batch_first(layer: Layer | Op) -> BatchFirst:
    """A layer for sequences (T, N, …), such as `LSTM`, applied to (N, T, …).

    Functions that count examples along the first axis, such as `fit`, need them there. Backward: dx
    and dy have their first two axes swapped like x and y.

    Args:
        layer: a layer, or an op of one argument.

    Raises:
        TypeError: it is neither.
        ValueError: x has fewer than two axes.

    Example:
        >>> layer = jaxnn.batch_first(jaxnn.LSTM(4, 3))
        >>> layer
        BatchFirst(LSTM(4, 3))
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((5, 7, 4))).shape
        (5, 7, 3)
    """
    return BatchFirst(as_layer(layer))


def sum_of_gradients(gradients):
    """The sum of gradients of one tree; `None` means no gradient."""

    def added(*parts):
        found = [part for part in parts if part is not None]
        return sum(found[1:], found[0]) if found else None

    first, *others = [gradient for gradient in gradients if gradient is not None] or [None]
    return jax.tree.map(added, first, *others, is_leaf=lambda leaf: leaf is None)


def require_entries(caller: str, what: str, tree, n: int | None = None, of: str = "") -> None:
    """Raise unless a tree is a tuple or list, with an entry for each of n layers or inputs.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(tree, tuple | list) or n not in (None, len(tree)):
        entries = "inputs" if n is None else f"one entry for each of {n} {of}"
        got = str(jax.tree.structure(tree))
        raise ValueError(f"{caller}: {what} must be a tuple with {entries}, got {got:.200}")


def require_gradient(caller: str, zeros, dy) -> None:
    """Raise unless dy has the tree and shapes of an output, and floating point where it has that.

    Raises:
        ValueError: it does not.
    """

    def fits(zero, entry):
        if zero is None:
            return True
        alike = getattr(entry, "shape", None) == zero.shape
        return alike and jnp.issubdtype(entry.dtype, jnp.floating)

    try:
        fit = jax.tree.map(fits, zeros, dy, is_leaf=lambda leaf: leaf is None)
    except (TypeError, ValueError):
        fit = False
    if not all(jax.tree.leaves(fit)):
        raise ValueError(
            f"{caller}: dy must hold floating-point numbers in the shape of the output, "
            f"{jax.tree.map(jnp.shape, zeros)!s:.200}, got {jax.tree.map(_kind, dy)!s:.200}"
        )


def _kind(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__


def located(error: Exception, i: int, layer: Layer) -> Exception:
    """The error of a layer, with the layer's place and kind before its message."""
    if type(error) not in (TypeError, ValueError):
        return error
    kind = layer.op.__name__ if isinstance(layer, OpLayer) else type(layer).__name__
    return type(error)(f"layer {i} ({kind}): {error}")


@jax.tree_util.register_static
@dataclass(frozen=True)
class Shapes:
    """The shapes and dtypes of a tree of arrays, static when the backward is traced."""

    tree: Any
    leaves: tuple

    def zeros(self):
        """A gradient of 0 for each array of floating-point numbers, `None` for the others."""
        return jax.tree.unflatten(
            self.tree,
            [
                jnp.zeros(shape, dtype) if jnp.issubdtype(dtype, jnp.floating) else None
                for shape, dtype in self.leaves
            ],
        )


@jax.tree_util.register_static
@dataclass(frozen=True)
class Widths:
    """Sizes of last axes, static when the backward is traced."""

    sizes: tuple[int, ...]

    def split(self, dy):
        """The part of dy that belongs to each."""
        if getattr(dy, "shape", ())[-1:] != (sum(self.sizes),):
            raise ValueError(
                f"parallel: dy must be an array whose last axis is {sum(self.sizes)}, that of the "
                f"concatenated outputs, got {jax.tree.map(_kind, dy)!s:.200}"
            )
        starts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(dy, starts, axis=-1)
