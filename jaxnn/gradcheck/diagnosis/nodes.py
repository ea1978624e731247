"""A network as a graph of steps, with every value of its forward pass in float64.

`record` runs a network once and takes combinators apart. Each step keeps its input and its output,
so that the backward pass can run step by step in NumPy, with a mistake in any step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.combinators import BatchFirst, Each, Parallel, Pick, Residual, Serial, Shared
from jaxnn.layer import BuiltLayer, Layer, OpLayer
from jaxnn.op import Op
from jaxnn.ops._common.elementwise import ElementwiseOp
from jaxnn.padded import swap_batch_and_time
from jaxnn.tied import Tied
from jaxnn.transformations import definitions

INPUT = -1  # the position that stands for the network's input, and for integers
CLOSE = 1e-10  # relative difference below which two functions count as equal


class NotAGraph(Exception):
    """A layer has several outputs and cannot be taken apart."""


@dataclass(frozen=True, eq=False)
class Linear:
    """The leaves of a linear step, and the orientation of W.

    Attributes:
        w: the position of W among the leaves of the step.
        b: the position of b; `None` if there is none.
        transposed: whether y = x·Wᵀ + b.
    """

    w: int
    b: int | None
    transposed: bool


@dataclass(frozen=True, eq=False)
class Node:
    """One step of the forward pass, y = apply(params, *x).

    Attributes:
        apply: the function.
        layer: the layer; `None` for a step that a combinator makes.
        params: its parameters, in float64.
        places: a tree like `params`: for each entry, its index in the vector of all parameters.
        inputs: the positions of the steps whose outputs are its inputs.
        x: its inputs.
        y: its output.
    """

    apply: Callable
    layer: Layer | None
    params: Any
    places: Any
    inputs: tuple[int, ...]
    x: tuple[np.ndarray, ...]
    y: np.ndarray

    @cached_property
    def leaves(self) -> list[np.ndarray]:
        """The arrays of the parameters."""
        return jax.tree.leaves(self.params)

    @cached_property
    def places_of_leaves(self) -> list[np.ndarray]:
        """The places of each array of the parameters."""
        return [np.asarray(place) for place in jax.tree.leaves(self.places)]

    @cached_property
    def slope(self) -> np.ndarray | None:
        """f'(x) if y = f(x) works element by element, otherwise `None`."""
        if len(self.x) != 1 or self.leaves or self.x[0].shape != self.y.shape:
            return None
        if not np.issubdtype(self.x[0].dtype, np.floating):
            return None
        slope = self.slope_at(self.x[0])
        probe = np.cos(np.arange(slope.size, dtype=float)).reshape(slope.shape)
        _, (product,) = self.pull(probe)
        close = np.abs(product - slope * probe) <= 1e-12 * max(1.0, np.abs(slope).max(initial=0))
        return slope if close.all() else None

    def slope_at(self, v: np.ndarray) -> np.ndarray:
        """f'(v) of an element-wise step."""
        _, (slope,) = self.pull(np.ones_like(v), x=(v,))
        return slope

    def apply_to(self, v: np.ndarray) -> np.ndarray:
        """f(v) of an element-wise step."""
        return self.value((v,))

    def value(self, x: tuple[np.ndarray, ...]) -> np.ndarray:
        """The output for other inputs."""
        with jax.enable_x64(True), definitions():
            return np.asarray(self.apply(self.params, *x))

    def with_values(self, x: tuple[np.ndarray, ...], y: np.ndarray) -> "Node":
        """The same step with other values in the forward pass."""
        return replace(self, x=x, y=y)

    @cached_property
    def is_identity(self) -> bool:
        """Whether y = x."""
        return self.slope is not None and bool(np.all(self.slope == 1))

    @cached_property
    def op(self) -> ElementwiseOp | None:
        """The element-wise op of this library that equals this step, if any."""
        own = getattr(self.layer, "op", None)
        return own if isinstance(own, ElementwiseOp) else None

    @cached_property
    def kinks(self) -> tuple[float, ...]:
        """The inputs at which f' is known to jump; 0 for an unknown function."""
        return (0.0,) if self.op is None else self.op.kinks

    @cached_property
    def is_mask(self) -> bool:
        """Whether f' is piecewise constant, like that of relu."""
        if self.slope is None or not self.kinks:
            return False
        return len(np.unique(self.slope.round(12))) <= len(self.kinks) + 1

    @cached_property
    def linear(self) -> Linear | None:
        """The `Linear` of y = x·W + b or y = x·Wᵀ + b, recognised by its values, or `None`."""
        ranks = [leaf.ndim for leaf in self.leaves]
        if len(self.x) != 1 or sorted(ranks) not in ([2], [1, 2]) or self.x[0].ndim < 2:
            return None
        w, b = ranks.index(2), ranks.index(1) if 1 in ranks else None
        offset = 0 if b is None else self.leaves[b]
        for transposed in (False, True):
            weight = self.leaves[w].T if transposed else self.leaves[w]
            (x,) = self.x
            fits = (x.shape[-1], self.y.shape[-1]) == weight.shape
            fits = fits and np.shape(offset) in ((), self.y.shape[-1:])
            if fits and _alike(x @ weight + offset, self.y):
                return Linear(w, b, transposed)
        return None

    @cached_property
    def weight(self) -> np.ndarray:
        """W of a linear step, (inputs, outputs)."""
        assert self.linear is not None
        w = self.leaves[self.linear.w]
        return w.T if self.linear.transposed else w

    def dx(self, dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """The gradients of the inputs; `None` for integers."""
        if self.linear is not None:
            return (dy @ self.weight.T,)
        if self.slope is not None:
            return (self.slope * dy,)
        return self.pull(dy)[1]

    def dparams(self, dy: np.ndarray) -> list[np.ndarray]:
        """The gradients of the arrays of the parameters."""
        if not self.leaves:
            return []
        if self.linear is not None:
            return self.linear_gradient(self.x[0], dy)
        return self.pull(dy)[0]

    def linear_gradient(self, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
        """dW = xᵀ·dy and db = Σₙ dy of a linear step, for any input."""
        assert self.linear is not None
        grads = [as_rows(dy).sum(axis=0)] * len(self.leaves)
        dw = as_rows(x).T @ as_rows(dy)
        grads[self.linear.w] = dw.T if self.linear.transposed else dw
        return grads

    def pull(self, dy: np.ndarray, params=None, x=None, apply=None):
        """The gradients of the parameters (a list) and of the inputs, by JAX.

        Args:
            dy: the gradient of the output.
            params: other parameters than in the forward pass.
            x: other inputs.
            apply: another function.
        """
        params = self.params if params is None else params
        pullback = self._compiled if apply is None else _compiled(apply)
        with jax.enable_x64(True), definitions():
            dparams, dxs = pullback(
                params, self.x if x is None else x, jnp.asarray(dy, self.y.dtype)
            )
        return [np.asarray(d) for d in jax.tree.leaves(dparams)], tuple(map(_floating, dxs))

    @cached_property
    def _compiled(self):
        if isinstance(self.layer, OpLayer) and len(self.x) == 1:
            return for_op(self.layer.op, _compiled_op)
        return _compiled(self.apply)


class Reference:
    """A value on its way through the network, and the step that made it."""

    def __init__(self, position: int, value):
        self.position, self.value = position, value


class Recorder:
    """Runs layers and keeps each step."""

    def __init__(self):
        self.nodes: list[Node] = []

    def run(self, layer: Layer, params, places, x, key=None):
        """The output of a layer, a tree of references."""
        while isinstance(layer, BuiltLayer):
            layer = layer.net
        for kind, method in COMBINATORS.items():
            if isinstance(layer, kind):
                return method(self, layer, params, places, x, key)
        return self.step(layer, _forward(layer, key), params, places, x)

    def step(self, layer, apply, params, places, x):
        """One step: a function `(params, x) -> y` of a tree x."""
        references, tree = jax.tree.flatten(x)
        values = tuple(reference.value for reference in references)

        def of_leaves(params, *values):
            y = apply(params, jax.tree.unflatten(tree, values))
            return _only_floating(y)

        with jax.enable_x64(True), definitions():
            output = apply(params, jax.tree.unflatten(tree, values))
        y = np.asarray(_only_floating(output))
        inputs = tuple(reference.position for reference in references)
        self.nodes.append(Node(of_leaves, layer, params, places, inputs, values, y))
        made = Reference(len(self.nodes) - 1, y)
        return jax.tree.map(
            lambda leaf: made if _is_floating(leaf) else Reference(INPUT, np.asarray(leaf)), output
        )

    def serial(self, layer, params, places, x, key):
        """Layers in sequence."""
        for i, part in enumerate(layer.layers):
            x = self.run(part, params[i], places[i], x, layer.key_of_layer(key, i))
        return x

    def residual(self, layer, params, places, x, key):
        """A layer and a path around it."""
        return self.sum_of([x, self.run(layer.layer, params, places, x, key)])

    def sum_of(self, parts):
        """Values added up."""
        return self.step(None, lambda _, xs: jax.tree.map(lambda *v: sum(v[1:], v[0]), *xs),
                         (), (), parts)  # fmt: skip

    def parallel(self, layer, params, places, x, key):
        """Layers on the same input."""
        outputs = self.each(layer, params, places, (x,) * len(layer.layers), key)
        if layer.combine is None:
            return outputs
        if layer.combine == "sum":
            return self.sum_of(list(outputs))
        return self.step(
            None, lambda _, xs: jnp.concatenate(jax.tree.leaves(xs), -1), (), (), outputs
        )

    def each(self, layer, params, places, x, key):
        """Layers on one input each."""
        runs = enumerate(zip(layer.layers, params, places, x, strict=True))
        return tuple(self.run(*arguments, _key_of(key, i)) for i, arguments in runs)

    def shared(self, layer, params, places, x, key):
        """One layer on several inputs."""
        runs = enumerate(x)
        return tuple(self.run(layer.layer, params, places, e, _key_of(key, i)) for i, e in runs)

    def pick(self, layer, params, places, x, key):
        """Some entries of a tuple."""
        return layer.apply(params, x)

    def tied(self, layer, params, places, x, key):
        """A network in which two parameters share one array."""
        with jax.enable_x64(True):
            trees = map(layer.params_of_layer, (params, places))
            inside, places = (jax.tree.map(np.asarray, tree) for tree in trees)
        return self.run(layer.layer, inside, places, x, key)

    def batch_first(self, layer, params, places, x, key):
        """A layer over time, on (N, T, …)."""
        swap = partial(self.step, None, lambda _, x: swap_batch_and_time(x), (), ())
        return swap(self.run(layer.layer, params, places, swap(x), key))


COMBINATORS: dict[type, Callable] = {
    Serial: Recorder.serial,
    Residual: Recorder.residual,
    Parallel: Recorder.parallel,
    Each: Recorder.each,
    Shared: Recorder.shared,
    Pick: Recorder.pick,
    Tied: Recorder.tied,
    BatchFirst: Recorder.batch_first,
}


def record(net: Layer, params, x, key=None) -> list[Node]:
    """Run a network in float64 and keep each step; no steps if one has several outputs.

    Args:
        net: the network.
        params: its parameters, in float64.
        x: the batch, in float64.
        key: the random key, for a network with random layers.
    """
    leaves, tree = jax.tree.flatten(params)
    places = jax.tree.unflatten(tree, places_of(leaves))
    recorder = Recorder()
    try:
        y = recorder.run(net, params, places, jax.tree.map(partial(Reference, INPUT), x), key)
        last = {reference.position for reference in jax.tree.leaves(y)} - {INPUT}
    except NotAGraph:
        return []
    return recorder.nodes if last == {len(recorder.nodes) - 1} else []


def places_of(leaves: list[np.ndarray]) -> list[np.ndarray]:
    """For each entry of each array, its index in the concatenation of all arrays."""
    starts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    return [
        start + np.arange(leaf.size).reshape(leaf.shape)
        for start, leaf in zip(starts, leaves, strict=False)
    ]


def run(net: Layer, params, x, key):
    """The output, in the training form if it differs from inference."""
    return _forward(net, key)(params, x)


def as_rows(array: np.ndarray) -> np.ndarray:
    """An array as a matrix with one row for each example."""
    return array.reshape(-1, array.shape[-1])


def _forward(layer: Layer, key):
    if key is None and not layer.stateful:
        return layer.apply
    return lambda params, x: layer.fwd(params, x, key)[0]


def _key_of(key, i):
    return None if key is None else jax.random.fold_in(key, i)


def _compiled(apply):
    """The compiled pullback of a function: `(params, x, dy) -> (dparams, dxs)`."""

    def pullback(params, x, dy):
        dparams, *dxs = jax.vjp(apply, params, *x)[1](dy)
        return dparams, dxs

    return jax.jit(pullback)


def _compiled_op(op: Op):
    return _compiled(lambda params, x: op(x))


def for_op(op: Op, make: Callable):
    """`make(op)`, cached unless the options of the op are unhashable."""
    try:
        return _kept(op, make)
    except (TypeError, ValueError):
        return make(op)


@lru_cache(maxsize=64)
def _kept(op: Op, make: Callable):
    return make(op)


def _floating(dx):
    return None if dx.dtype == jax.dtypes.float0 else np.asarray(dx)


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _only_floating(tree):
    """The only floating-point array of a tree."""
    floating = list(filter(_is_floating, jax.tree.leaves(tree)))
    if len(floating) != 1:
        raise NotAGraph
    return floating[0]


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal up to rounding."""
    return a.shape == b.shape and float(np.linalg.norm(a - b)) <= CLOSE * float(np.linalg.norm(b))
