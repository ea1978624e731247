"""A network, a loss and a batch, with the true gradient of everything."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import cast, is_differentiable, relative_error
from jaxnn.gradcheck.diagnosis.nodes import INPUT, Node, for_op, record, run
from jaxnn.layer import as_layer
from jaxnn.op import Op
from jaxnn.training.gradient import without_padding
from jaxnn.training.reduction import reduce
from jaxnn.transformations import definitions

VANISHING = 1e-13  # the norm of a zero gradient's rounding errors, relative to the largest leaf's
SAME = 1e-9  # relative difference below which the step-by-step gradient counts as the true one


class Output(NamedTuple):
    """The end of a network, from which wrong δ at z are computed.

    Attributes:
        family: the combination of output and loss: "softmax", "sigmoid" or "squared"; "" for any
            other.
        z: the output of the step at which the end begins.
        p: the prediction; the probabilities where the loss takes logits.
        y: the target; one-hot rows for labels.
        w: the weight of each row's loss, 1/N for a mean.
        g: ∂L/∂p, with w.
        two: the factor of the error in ∂L/∂p: 2 for the squared error, 1 for half of it.
        through: the function from a gradient at p to the one at z.
    """

    family: str
    z: np.ndarray
    p: np.ndarray
    y: np.ndarray
    w: Any
    g: np.ndarray
    two: float
    through: Callable[[np.ndarray], np.ndarray]

    @property
    def e(self) -> np.ndarray:
        """The error p − y."""
        return self.p - self.y


class Graph(NamedTuple):
    """A network, a loss and a batch, in float64.

    Attributes:
        nodes: the steps of the forward pass in order; empty if they are unknown.
        loss_gradient: `(prediction, target) -> ∂L/∂prediction`.
        target: the target of the loss.
        weight: the weight of each example's loss: 1/N with reduction "mean".
        n: the number of losses N.
        k: the number of components of a prediction.
        paths: the path of each leaf of the parameters.
        params: the leaves.
        starts: the index of the first entry of each leaf in the vector of all parameters.
        truth: the true gradient of each leaf.
        deltas: the true gradient of the output of each step.
        z: the position of the step at which the output begins: later steps have no parameters and
            no other input.
        output: the end of the network; `None` if the target does not fit the prediction's shape.
        learning_rate: η, or `None`.
        weight_decay: λ, or `None`.
        weights: the weights of the examples, or `None`.
        previous: the graph of the previous batch, or `None`.
        previous_gradient: the gradient of the previous step, or `None`.
    """

    nodes: list[Node]
    loss_gradient: Callable
    target: Any
    weight: np.ndarray
    n: int
    k: int
    paths: list[str]
    params: list[np.ndarray]
    starts: np.ndarray
    truth: list[np.ndarray]
    deltas: dict[int, np.ndarray]
    z: int = INPUT
    output: Output | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    weights: np.ndarray | None = None
    previous: "Graph | None" = None
    previous_gradient: list[np.ndarray] | None = None

    @property
    def scale(self) -> float:
        """The largest norm of a leaf of the true gradient."""
        return max((float(np.linalg.norm(leaf)) for leaf in self.truth), default=0.0)

    def error(self, leaf: int, gradient: np.ndarray) -> float:
        """The relative error of a leaf; relative to the largest leaf where the truth vanishes."""
        truth = self.truth[leaf]
        if self.vanishes(truth) and gradient.shape == truth.shape and self.scale:
            off = float(np.linalg.norm(gradient - truth)) / self.scale
            return off if np.isfinite(off) else np.inf
        return relative_error(gradient, truth)

    def vanishes(self, gradient: np.ndarray) -> bool:
        """Whether a gradient is zero up to rounding."""
        return float(np.linalg.norm(gradient)) <= VANISHING * self.scale

    @property
    def end(self) -> int:
        """The position of the last step, whose output is the prediction."""
        return len(self.nodes) - 1

    def dloss(self, target) -> np.ndarray:
        """∂L/∂ŷ for a given target."""
        return self.loss_gradient(self.nodes[-1].y, target)

    def leaf_of(self, place: np.ndarray) -> int:
        """The position of the leaf in which a place lies."""
        return int(np.searchsorted(self.starts, place.flat[0], side="right")) - 1

    def placed(self, leaf: int, place: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient of a whole leaf from that of the entries at a place."""
        whole = np.zeros(self.params[leaf].size)
        np.add.at(whole, place.ravel() - self.starts[leaf], gradient.ravel())
        return whole.reshape(self.params[leaf].shape)

    def decay(self, leaf: int) -> np.ndarray | float:
        """The term λ·W of weight decay in the gradient of a leaf."""
        if self.weight_decay and is_weight(self.paths[leaf]):
            return self.weight_decay * self.params[leaf]
        return 0.0


def graph_of(
    net, loss, params, x, target, reduction="mean", weight_decay=None, key=None, weights=None
) -> Graph:
    """Run a network on a batch in float64 and differentiate it with JAX, step by step."""
    graph = truth_of(net, loss, params, x, target, reduction, weight_decay, key, weights)
    return with_steps(graph, net, loss, params, x, key)


def truth_of(
    net, loss, params, x, target, reduction="mean", weight_decay=None, key=None, weights=None
) -> Graph:
    """The true gradient alone, without the steps.

    It is `jax.grad` of the definitions; no hand-written backward is involved.
    """
    net = as_layer(net)
    params, x, target, weights = map(float64, (params, x, target, weights))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    truth = jax.tree.leaves(autodiff(net, loss, params, x, target, reduction, key, weights))
    with jax.enable_x64(True), definitions():
        prediction, counted = without_padding(run(net, params, x, key), weights)
        losses = loss(prediction, target)
        weight = np.asarray(reduce(losses, prediction, target, counted, loss, reduction).dlosses)
    graph = Graph(
        nodes=[],
        loss_gradient=_loss_gradient(loss, weight),
        target=target,
        weight=weight,
        n=losses.size,
        k=jax.tree.leaves(prediction)[0].shape[-1],
        paths=paths,
        params=jax.tree.leaves(params),
        starts=np.cumsum([0, *(leaf.size for leaf in jax.tree.leaves(params))]),
        truth=truth,
        deltas={},
        weight_decay=weight_decay,
        weights=weights,
    )
    return graph._replace(truth=[t + graph.decay(i) for i, t in enumerate(truth)])


def with_steps(graph: Graph, net, loss: Op, params, x, key=None) -> Graph:
    """The graph with the steps of the forward pass and their δ; without them if they disagree."""
    params, x = map(float64, (params, x))
    graph = graph._replace(nodes=record(as_layer(net), params, x, key))
    if not graph.nodes:
        return graph
    leaves, deltas = backward(graph, graph.end, graph.dloss(graph.target))
    decayed = [grad + graph.decay(i) for i, grad in enumerate(leaves)]
    if not all(graph.error(i, grad) <= SAME for i, grad in enumerate(decayed)):
        return graph._replace(nodes=[])
    graph = graph._replace(deltas=deltas, z=_beginning_of_output(graph))
    return graph._replace(output=_output(graph, loss.options.get("label_smoothing", 0.0)))


def autodiff(net, loss, params, x, target, reduction, key=None, weights=None):
    """The gradient of the definitions by JAX, in the dtype of the arguments."""
    net = as_layer(net)

    def total(params):
        prediction, counted = without_padding(run(net, params, x, key), weights)
        losses = loss(prediction, target)
        return reduce(losses, prediction, target, counted, loss, reduction).value

    with jax.enable_x64(True), definitions():
        grads = jax.grad(total)(params)
    return jax.tree.map(np.asarray, grads)


def backward(graph: Graph, position: int, delta: np.ndarray, down_to: int = 0):
    """The chain rule from the output of a step: the leaves' gradients, and each step's δ."""
    leaves = [np.zeros(leaf.shape) for leaf in graph.params]
    deltas = {position: delta}
    for i in range(position, down_to - 1, -1):
        node, dy = graph.nodes[i], deltas.get(i)
        if dy is None:
            continue
        for place, grad in zip(node.places_of_leaves, node.dparams(dy), strict=True):
            if place.size:
                leaf = graph.leaf_of(place)
                leaves[leaf] = leaves[leaf] + graph.placed(leaf, place, grad)
        if any(j >= 0 for j in node.inputs):
            for j, dx in zip(node.inputs, node.dx(dy), strict=True):
                if dx is not None and j >= 0:
                    deltas[j] = deltas[j] + dx if j in deltas else dx
    return leaves, deltas


def is_weight(path: str) -> bool:
    """Whether a leaf is a weight, to which decay applies."""
    return path.endswith("['w']")


def float64(tree):
    """The leaves as NumPy arrays, floating-point ones in float64."""
    return jax.tree.map(np.asarray, cast(tree, np.float64))


def _loss_gradient(loss: Op, weight):
    compiled = for_op(loss, _compiled_loss_gradient)

    def gradient(prediction, target):
        with jax.enable_x64(True), definitions():
            return np.asarray(compiled(prediction, target, weight))

    return gradient


def _compiled_loss_gradient(loss: Op):
    return jax.jit(jax.grad(lambda y, target, weight: jnp.sum(weight * loss(y, target))))


def _beginning_of_output(graph: Graph) -> int:
    """The last step before those at the end that have no parameters and one input."""
    uses = [i for node in graph.nodes for i in node.inputs]
    z = graph.end
    while not graph.nodes[z].leaves and len(graph.nodes[z].inputs) == 1:
        (before,) = graph.nodes[z].inputs
        if before == INPUT or uses.count(before) > 1:
            break
        z = before
    return z


def _output(graph: Graph, smoothing: float) -> Output | None:
    """The end of the network, recognised by its values."""
    z, prediction = graph.nodes[graph.z].y, graph.nodes[-1].y
    y, delta, g = _dense(graph, smoothing), graph.deltas[graph.z], graph.deltas[graph.end]
    if y is None or y.shape != prediction.shape or prediction.ndim < 2:
        return None
    through = _through(graph)
    for family, probabilities in (("softmax", softmax), ("sigmoid", sigmoid)):
        p = probabilities(z)
        if p.shape == y.shape and (w := _row_factor(delta, p - y)) is not None:
            at_p = -w * y / p if family == "softmax" else w * (p - y) / (p * (1 - p))
            return Output(family, z, p, y, w, at_p, 1.0, through)
    factor = _row_factor(g, prediction - y)
    w = graph.weight.reshape(graph.weight.shape + (1,) * (y.ndim - graph.weight.ndim))
    if np.ptp(w) == 0:
        w = w.flat[0]
    family, two = "", 1.0
    if factor is not None and np.ndim(w) == 0 and np.ptp(factor) <= 1e-9 * abs(factor.flat[0]):
        family, two = "squared", float(factor.flat[0] / w)
    return Output(family, z, prediction, y, w, g, two, through)


def _through(graph: Graph):
    """The function from a gradient at the prediction to that at z, by the true steps."""

    def through(g):
        return backward(graph, graph.end, g, graph.z + 1)[1][graph.z]

    return through if graph.z < graph.end else lambda g: g


def _dense(graph: Graph, smoothing: float) -> np.ndarray | None:
    """The target in the shape of the prediction: labels as one-hot rows, smoothed like the loss."""
    target = graph.target
    if not isinstance(target, np.ndarray):
        return None
    if not is_differentiable(target) and target.shape == graph.nodes[-1].y.shape[:-1]:
        target = np.eye(graph.k)[target]
    return (1 - smoothing) * target + smoothing / graph.k if smoothing else target


def _row_factor(array: np.ndarray, of: np.ndarray) -> np.ndarray | None:
    """w if array ≈ w·of with one w per row."""
    square = (of**2).sum(axis=-1, keepdims=True)
    w = (array * of).sum(axis=-1, keepdims=True) / np.where(square == 0, 1, square)
    off = np.linalg.norm(array - w * of)
    return w if w.any() and off <= 1e-9 * np.linalg.norm(array) else None


def softmax(z, axis=-1):
    """e^z/Σe^z."""
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def sigmoid(v):
    """σ(v)."""
    return 1 / (1 + np.exp(-v))
