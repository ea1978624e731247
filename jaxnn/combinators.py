"""Combinators: layers made of layers, whose backward is the chain rule."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, OpLayer, State, as_layer
from jaxnn.op import Op


class Composed(Layer):
    """What combinators of several layers share: params and states are tuples, one for each."""

    layers: tuple[Layer, ...]

    @property
    def stateful(self) -> bool:
        """Whether one of the layers is."""
        return any(layer.stateful for layer in self.layers)

    def init(self, key):
        """The parameters of each layer, from a key of its own."""
        keys = jax.random.split(key, max(len(self.layers), 1))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=False))

    def bwd_params(self, residuals, deltas):
        """The gradients of each layer's parameters."""
        return tuple(
            layer.bwd_params(saved, delta)
            for layer, saved, delta in zip(
                self.layers, self.residuals_of_layers(residuals), deltas, strict=True
            )
        )

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

    def states(self, state: State) -> tuple:
        """The state of each layer; `None` for each where there is none."""
        if state is None or not self.stateful:
            return (None,) * len(self.layers)
        self.require_one_for_each("state", state)
        return state

    def require_one_for_each(self, what: str, tree) -> None:
        """Raise unless a tree is a tuple with an entry for each layer."""
        if not isinstance(tree, tuple | list) or len(tree) != len(self.layers):
            raise ValueError(
                f"{type(self).__name__.lower()}: {what} must be a tuple with one entry for each of "
                f"{len(self.layers)} layers, got {jax.tree.structure(tree)}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


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
        if len(params) != len(self.layers):
            self.require_one_for_each("params", params)
        residuals, i, layer = [], 0, self
        try:
            for i, (layer, p) in enumerate(zip(self.layers, params, strict=True)):
                x, saved = layer.fwd(p, x, None if key is None else jax.random.fold_in(key, i))
                residuals.append(saved)
        except (TypeError, ValueError) as error:
            raise located(error, i, layer) from None
        return x, tuple(residuals)

    def bwd(self, residuals, dy):
        """The chain rule: each layer turns the gradient of its output into that of its input."""
        dparams = []
        for layer, saved in zip(reversed(self.layers), reversed(residuals), strict=True):
            dlayer, dy = layer.bwd(saved, dy)
            dparams.append(dlayer)
        return tuple(reversed(dparams)), dy

    def bwd_input(self, residuals, dy):
        """The same walk, which leaves the gradients of the parameters for later."""
        deltas = []
        for layer, saved in zip(reversed(self.layers), reversed(residuals), strict=True):
            delta, dy = layer.bwd_input(saved, dy)
            deltas.append(delta)
        return tuple(reversed(deltas)), dy


def serial(*layers: Layer | Op) -> Serial:
    """Layers in sequence: y = fₙ(… f₂(f₁(x))), again a layer.

    Its params are the tuple of the layers' params. Its backward is the chain rule: it walks back
    through the layers, hands each one the gradient of its output and takes that of its input.

    Args:
        *layers: layers, or ops of one argument.

    Raises:
        TypeError: something is neither.
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
    """What combinators of one layer share: its params and its state are those of the layer."""

    layer: Layer

    @property
    def stateful(self) -> bool:
        """Whether the layer is."""
        return self.layer.stateful

    def init(self, key):
        """The parameters of the layer."""
        return self.layer.init(key)

    def input_of_layer(self, x):
        """What the layer is given."""
        return x

    def bwd_params(self, residuals, deltas):
        """The gradients of the layer's parameters."""
        return self.layer.bwd_params(residuals, deltas)

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

    def _sum(self, x, y):
        if y.shape != x.shape:
            raise ValueError(f"residual: the layer makes {y.shape} of {x.shape}; it must keep it")
        return x + y


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
    """The residuals of each layer, and the width of its output."""

    layers: tuple
    widths: "Widths"


@dataclass(frozen=True, repr=False)
class Parallel(Composed):
    """Layers on the same input; see `parallel`.

    Attributes:
        layers: the layers.
        combine: "sum" or "concatenate".
    """

    layers: tuple[Layer, ...]
    combine: str = field(default="sum", kw_only=True)

    def __post_init__(self):
        if not self.layers:
            raise ValueError("parallel: there is no layer")
        if self.combine not in ("sum", "concatenate"):
            raise ValueError(
                f"parallel: combine must be 'sum' or 'concatenate', got {self.combine!r}"
            )

    def apply(self, params, x, state=None):
        """The outputs, combined."""
        self.require_one_for_each("params", params)
        states = self.states(state)
        return self._combined(
            [layer.apply(p, x, s) for layer, p, s in zip(self.layers, params, states, strict=True)]
        )

    def fwd(self, params, x, key=None):
        """The outputs, combined, and the residuals of each layer."""
        self.require_one_for_each("params", params)
        outputs, saved = [], []
        for i, (layer, p) in enumerate(zip(self.layers, params, strict=True)):
            y, residuals = layer.fwd(p, x, None if key is None else jax.random.fold_in(key, i))
            outputs.append(y)
            saved.append(residuals)
        widths = Widths(tuple(y.shape[-1] if y.ndim else 1 for y in outputs))
        return self._combined(outputs), ParallelResiduals(tuple(saved), widths)

    def bwd_input(self, residuals, dy):
        """Each layer gets dy, or its own part of dy; dx is the sum of their dx."""
        saved, widths = residuals
        parts = [dy] * len(self.layers) if self.combine == "sum" else widths.split(dy)
        deltas, dxs = [], []
        for layer, layer_residuals, part in zip(self.layers, saved, parts, strict=True):
            delta, dx = layer.bwd_input(layer_residuals, part)
            deltas.append(delta)
            dxs.append(dx)
        return tuple(deltas), sum(dxs[1:], dxs[0])

    def residuals_of_layers(self, residuals):
        """The residuals of each layer."""
        return residuals.layers

    def _combined(self, outputs):
        compared = [y.shape if self.combine == "sum" else y.shape[:-1] for y in outputs]
        if len(set(compared)) > 1:
            raise ValueError(
                f"parallel: the outputs have the shapes {[y.shape for y in outputs]}, which do not "
                f"fit together by {self.combine!r}"
            )
        if self.combine == "sum":
            return sum(outputs[1:], outputs[0])
        return jnp.concatenate(outputs, axis=-1)

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        option = "" if self.combine == "sum" else f", combine={self.combine!r}"
        return f"Parallel({layers}{option})"


def parallel(*layers: Layer | Op, combine: str = "sum") -> Parallel:
    """Layers on the same input: y = Σ fᵢ(x), or their outputs concatenated along the last axis.

    Its params are the tuple of the layers' params. Backward:
        "sum"          each layer gets dy
        "concatenate"  each layer gets its own part of dy
        dx = Σᵢ dxᵢ    because x goes into each of them

    Args:
        *layers: at least one layer, or op of one argument.
        combine: "sum" or "concatenate".

    Raises:
        TypeError: something is no layer.
        ValueError: there is no layer, combine is something else, or, later, the outputs do not fit
            together.

    Example:
        >>> net = jaxnn.parallel(jaxnn.Linear(4, 3), jaxnn.identity, combine="concatenate")
        >>> net.apply(net.init(jax.random.key(0)), jnp.ones((5, 4))).shape
        (5, 7)
    """
    return Parallel(tuple(map(as_layer, layers)), combine=combine)


@dataclass(frozen=True, repr=False)
class BatchFirst(Around):
    """A layer of sequences (T, N, …) as one of (N, T, …); see `batch_first`.

    Attributes:
        layer: the layer.
    """

    layer: Layer

    def apply(self, params, x, state=None):
        """The output with its first two axes swapped."""
        return _swapped(self.layer.apply(params, self.input_of_layer(x), state))

    def input_of_layer(self, x):
        """x with its first two axes swapped."""
        return _swapped(x)

    def fwd(self, params, x, key=None):
        """The output with its first two axes swapped, and the residuals of the layer."""
        y, saved = self.layer.fwd(params, self.input_of_layer(x), key)
        return _swapped(y), saved

    def bwd_input(self, residuals, dy):
        """dx and dy have their first two axes swapped as x and y have."""
        deltas, dx = self.layer.bwd_input(residuals, _swapped(dy))
        return deltas, _swapped(dx)


def batch_first(layer: Layer | Op) -> BatchFirst:
    """A layer of sequences (T, N, …), such as `LSTM`, as one of (N, T, …).

    Whatever counts examples by the first axis (`fit`, the minibatches) needs them there. Backward:
    dx and dy have their first two axes swapped as x and y have.

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


def located(error: Exception, i: int, layer: Layer) -> Exception:
    """The error of a layer, with the layer's place and kind before its sentence."""
    if type(error) not in (TypeError, ValueError):
        return error
    kind = layer.op.__name__ if isinstance(layer, OpLayer) else type(layer).__name__
    return type(error)(f"layer {i} ({kind}): {error}")


@jax.tree_util.register_static
@dataclass(frozen=True)
class Widths:
    """Sizes of last axes, known when the backward is traced."""

    sizes: tuple[int, ...]

    def split(self, dy):
        """The part of dy that belongs to each."""
        starts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(dy, starts, axis=-1)


def _swapped(x):
    if x.ndim < 2:
        raise ValueError(f"batch_first: x has shape {x.shape}; it must be (N, T, …)")
    return jnp.swapaxes(x, 0, 1)
