"""Combinators: layers made of layers, whose backward is the chain rule."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnn.layer import Layer, Params, State, as_layer, run
from jaxnn.op import Op


class Serial(Layer):
    """Layers one after the other.

    Attributes:
        layers: the layers, first to last.
    """

    layers: tuple[Layer, ...]


class Parallel(Layer):
    """Layers side by side.

    Attributes:
        layers: the layers.
    """

    layers: tuple[Layer, ...]


def serial(*layers: Layer | Op) -> Serial:
    """Layers one after the other: y = fₙ(… f₂(f₁(x))), again a layer.

    Its params are the tuple of the layers' params. Its backward is the chain rule: it walks back
    through the layers, hands each one the gradient of its output and takes that of its input.

    Args:
        *layers: layers, or ops of one argument.

    Raises:
        TypeError: something is neither.
        ValueError: params has another number of entries than there are layers.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(4, 3), jaxnn.relu, jaxnn.Linear(3, 2))
        >>> params = net.init(jax.random.key(0))
        >>> net.apply(params, jnp.ones((5, 4))).shape
        (5, 2)
    """
    layers = tuple(as_layer(layer) for layer in layers)

    def apply(params, x, state=None):
        for layer, layer_params, layer_state in _each("serial", layers, params, state):
            x = run(layer, layer_params, x, layer_state)
        return x

    def fwd(params, x, key=None):
        residuals = []
        for i, (layer, layer_params, _) in enumerate(_each("serial", layers, params)):
            x, kept = layer.fwd(layer_params, x, _key_of(key, i))
            residuals.append(kept)
        return x, tuple(residuals)

    def bwd(residuals, dy):
        dparams = []
        for layer, kept in zip(reversed(layers), reversed(residuals), strict=True):
            dlayer, dy = layer.bwd(kept, dy)
            dparams.append(dlayer)
        return tuple(reversed(dparams)), dy

    return _composed(Serial, layers, apply, fwd, bwd)


def residual(layer: Layer | Op) -> Layer:
    """A layer and a path around it: y = x + f(x), with the params and the state of the layer.

    Backward, by the sum of the two paths:
        dx = dy + f.bwd(dy)
    so that the gradient reaches x undiminished, whatever the layer does to it.

    Args:
        layer: a layer, or an op of one argument, whose output has the shape of its input.

    Raises:
        TypeError: it is neither.
        ValueError: its output has another shape.

    Source: K. He et al., "Deep Residual Learning for Image Recognition", 2015, equation 1.

    Example:
        >>> block = jaxnn.residual(jaxnn.serial(jaxnn.Linear(4, 4), jaxnn.relu))
        >>> block.apply(block.init(jax.random.key(0)), jnp.ones((5, 4))).shape
        (5, 4)
    """
    layer = as_layer(layer)

    def added(x, y):
        if y.shape != x.shape:
            raise ValueError(f"residual: the layer makes {y.shape} of {x.shape}; it must keep it")
        return x + y

    def apply(params, x, state=None):
        return added(x, run(layer, params, x, state))

    def fwd(params, x, key=None):
        y, kept = layer.fwd(params, x, key)
        return added(x, y), kept

    def bwd(residuals, dy):
        dparams, dx = layer.bwd(residuals, dy)
        return dparams, dy + dx

    return Layer(layer.init, apply, fwd, bwd, layer.init_state, layer.update_state)


def parallel(*layers: Layer | Op, combine: str = "sum") -> Parallel:
    """Layers side by side on the same input: y = Σ fᵢ(x), or their outputs along the last axis.

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
    layers = tuple(as_layer(layer) for layer in layers)
    if not layers:
        raise ValueError("parallel: there is no layer")
    if combine not in ("sum", "concatenate"):
        raise ValueError(f"parallel: combine must be 'sum' or 'concatenate', got {combine!r}")

    def together(outputs):
        compared = [y.shape if combine == "sum" else y.shape[:-1] for y in outputs]
        if len(set(compared)) > 1:
            raise ValueError(
                f"parallel: the outputs have the shapes {[y.shape for y in outputs]}, which do not "
                f"fit together by {combine!r}"
            )
        return sum(outputs[1:], outputs[0]) if combine == "sum" else jnp.concatenate(outputs, -1)

    def apply(params, x, state=None):
        return together(
            [run(layer, p, x, s) for layer, p, s in _each("parallel", layers, params, state)]
        )

    def fwd(params, x, key=None):
        outputs, residuals = [], []
        for i, (layer, layer_params, _) in enumerate(_each("parallel", layers, params)):
            y, kept = layer.fwd(layer_params, x, _key_of(key, i))
            outputs.append(y)
            residuals.append(kept)
        return together(outputs), (tuple(residuals), _Widths(tuple(y.shape[-1] for y in outputs)))

    def bwd(residuals, dy):
        kept, widths = residuals
        dys = [dy] * len(layers) if combine == "sum" else widths.split(dy)
        pairs = [layer.bwd(k, d) for layer, k, d in zip(layers, kept, dys, strict=True)]
        dparams, dxs = zip(*pairs, strict=True)
        return dparams, sum(dxs[1:], dxs[0])

    return _composed(Parallel, layers, apply, fwd, bwd, residuals_of=lambda kept: kept[0])


def batch_first(layer: Layer) -> Layer:
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
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((5, 7, 4))).shape
        (5, 7, 3)
    """
    layer = as_layer(layer)

    def swapped(x):
        if x.ndim < 2:
            raise ValueError(f"batch_first: x has shape {x.shape}; it must be (N, T, …)")
        return jnp.swapaxes(x, 0, 1)

    def apply(params, x, state=None):
        return swapped(run(layer, params, swapped(x), state))

    def fwd(params, x, key=None):
        y, kept = layer.fwd(params, swapped(x), key)
        return swapped(y), kept

    def bwd(residuals, dy):
        dparams, dx = layer.bwd(residuals, swapped(dy))
        return dparams, swapped(dx)

    return Layer(layer.init, apply, fwd, bwd, layer.init_state, layer.update_state)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Widths:
    """Sizes of last axes, known when the backward is traced."""

    sizes: tuple[int, ...]

    def split(self, dy):
        starts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(dy, starts, axis=-1)


def _composed(kind, layers, apply, fwd, bwd, residuals_of=lambda kept: kept):
    """A layer of this kind made of layers, with the tuple of their params and of their states.

    Args:
        kind: the class.
        layers: the layers.
        apply: as in `Layer`, with the state of all the layers.
        fwd: as in `Layer`.
        bwd: as in `Layer`.
        residuals_of: from the residuals of `fwd` to those of each layer.
    """

    def init(key):
        keys = jax.random.split(key, max(len(layers), 1))
        return tuple(layer.init(k) for layer, k in zip(layers, keys, strict=False))

    def init_state():
        return tuple(layer.init_state() if layer.init_state else () for layer in layers)

    def update_state(state, residuals):
        return tuple(
            layer.update_state(s, kept) if layer.update_state else s
            for layer, s, kept in zip(layers, state, residuals_of(residuals), strict=True)
        )

    stateful = any(layer.init_state for layer in layers)
    made = kind(init, apply, fwd, bwd, *((init_state, update_state) if stateful else ()))
    made.layers = layers
    return made


def _each(name, layers, params: Params, state: State = None) -> Iterator:
    """Each layer with its params and its state, `None` where there is none."""
    for what, tree in (("params", params), ("state", state)):
        if tree is None and what == "state":
            continue
        if not isinstance(tree, tuple | list) or len(tree) != len(layers):
            raise ValueError(
                f"{name}: {what} must be a tuple with one entry for each of {len(layers)} layers, "
                f"got {jax.tree.structure(tree)}"
            )
    return zip(layers, params, [None] * len(layers) if state is None else state, strict=True)


def _key_of(key, i):
    """The key of a layer, by its place."""
    return None if key is None else jax.random.fold_in(key, i)
