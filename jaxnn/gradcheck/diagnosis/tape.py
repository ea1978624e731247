"""The tape of a network: its forward pass in float64, and a backward whose steps can go wrong.

`tape_of` runs the network once and records every stage. `Tape.backward` walks the stages in NumPy,
and any of its steps can be replaced. That gives the gradient that somebody gets who makes a mistake
in this step.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.combinators import Serial
from jaxnn.gradcheck.arrays import cast, is_differentiable
from jaxnn.layer import BuiltLayer, Layer, as_layer
from jaxnn.op import Op
from jaxnn.ops._common.elementwise import ElementwiseOp
from jaxnn.ops.activations.smooth import identity, sigmoid
from jaxnn.ops.activations.softmax import softmax
from jaxnn.ops.linear import linear
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    sigmoid_cross_entropy,
)
from jaxnn.ops.losses.regression import half_squared_error, squared_error
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy
from jaxnn.tied import Tied
from jaxnn.training.gradient import without_padding
from jaxnn.training.reduction import reduce
from jaxnn.transformations import definitions


class Stage(NamedTuple):
    """One layer of the chain, with its values in the forward pass.

    Attributes:
        apply: `(params, x) -> y`.
        op: the layer's op, or `None` if it is not a single op.
        params: its parameters, in float64.
        leaves: the same tree, with the position of each leaf among those of the network.
        x: its input.
        y: its output.
        slope: f'(x) if y = f(x) works element by element, otherwise `None`.
    """

    apply: Callable
    op: Op | None
    params: Any
    leaves: Any
    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray | None

    @property
    def is_linear(self) -> bool:
        """Whether it is y = x·W + b."""
        return linear.is_same_as(self.op)

    @property
    def is_identity(self) -> bool:
        """Whether it is y = x by its op."""
        return identity.is_same_as(self.op)

    @property
    def kinks(self) -> tuple[float, ...]:
        """The inputs at which f' jumps, as far as the op tells: 0 for an unknown function."""
        return self.op.kinks if isinstance(self.op, ElementwiseOp) else (0.0,)

    @property
    def is_mask(self) -> bool:
        """Whether f' has one value between two kinks, like relu's."""
        if self.slope is None or not self.kinks:
            return False
        return len(np.unique(self.slope)) <= len(self.kinks) + 1

    def slope_at(self, v: np.ndarray) -> np.ndarray:
        """f'(v), of an element-wise stage."""
        return _pull(self.apply, self.params, v, np.ones_like(v))[1]

    def dx(self, dy: np.ndarray) -> np.ndarray:
        """The gradient of the input."""
        if self.is_linear:
            return dy @ self.params["w"].T
        if self.slope is not None:
            return self.slope * dy
        return _pull(self.apply, self.params, self.x, dy)[1]

    def dparams(self, dy: np.ndarray) -> Any:
        """The gradient of the parameters."""
        if self.is_linear:
            return linear_gradient(self, self.x, dy)
        if not jax.tree.leaves(self.params):
            return self.params
        return _pull(self.apply, self.params, self.x, dy)[0]


class Gradients(NamedTuple):
    """A gradient for each leaf of the parameters, and where it came from.

    Attributes:
        leaves: the gradients.
        deltas: for each leaf, the gradient of the output of its layer, one row for each example;
            `None` where it is not known.
    """

    leaves: list[np.ndarray]
    deltas: list[np.ndarray | None]


class Tape(NamedTuple):
    """A network, a loss and a batch with every value of the forward pass, in float64.

    A loss that holds a softmax or a sigmoid is split into that stage and the loss of
    probabilities, so that the output stage is explicit.

    Attributes:
        stages: the layers, first to last, with all nesting removed; none of a network that is no
            chain of arrays, such as a graph, or that is random or has a state.
        last: the position of the last stage with parameters.
        loss: the loss of the last stage's output.
        target: the loss's target; one-hot rows for labels.
        weight: of each loss in the value, one number where it is the same for all: 1/N with
            reduction "mean".
        n: the number of losses N.
        k: the number of components of a prediction.
        delta: the gradient of the output of stage `last`.
        g: the gradient of the output of the last stage, ∂L/∂ŷ.
        paths: the path of each leaf of the parameters.
        params: the leaves.
        truth: the true gradient.
        learning_rate: η, or `None`.
        weight_decay: λ, or `None`.
        previous: the tape of the previous batch, or `None`.
        previous_gradient: the gradient of the previous step, or `None`.
    """

    stages: tuple[Stage, ...]
    last: int
    loss: Op
    target: np.ndarray
    weight: np.ndarray
    n: int
    k: int
    delta: np.ndarray
    g: np.ndarray
    paths: list[str]
    params: list[np.ndarray]
    truth: Gradients
    learning_rate: float | None = None
    weight_decay: float | None = None
    previous: "Tape | None" = None
    previous_gradient: list[np.ndarray] | None = None

    @property
    def z(self) -> np.ndarray:
        """The output of the last stage with parameters."""
        return self.stages[self.last].y

    @property
    def prediction(self) -> np.ndarray:
        """The output of the last stage, on which the loss acts."""
        return self.stages[-1].y

    @property
    def family(self) -> str | None:
        """The kind of output and loss: "softmax", "sigmoid" or "squared"; `None` for another."""
        ends = [stage.op for stage in self.stages[self.last + 1 :] if not stage.is_identity]
        output = ends[0] if len(ends) == 1 else None
        if cross_entropy.is_same_as(self.loss) and softmax.is_same_as(output):
            return "softmax"
        if binary_cross_entropy.is_same_as(self.loss) and sigmoid.is_same_as(output):
            return "sigmoid"
        if squared_error.is_same_as(self.loss) or self.halves_error:
            return "squared"
        return None

    @property
    def halves_error(self) -> bool:
        """Whether the loss is half the squared error."""
        return half_squared_error.is_same_as(self.loss)

    def activations(self, after: int = -1, before: int | None = None) -> Iterator[int]:
        """The positions of element-wise stages other than the identity."""
        for i, stage in enumerate(self.stages[:before]):
            if i > after and stage.slope is not None and not (stage.slope == 1).all():
                yield i

    def linears(self) -> list[int]:
        """The positions of linear stages."""
        return [i for i, stage in enumerate(self.stages) if stage.is_linear]

    def dloss(self, target: np.ndarray) -> np.ndarray:
        """∂L/∂ŷ against some target, with the weight of the reduction."""

        def total(prediction):
            return jnp.sum(self.weight * self.loss(prediction, target))

        with jax.enable_x64(True), definitions():
            return np.asarray(jax.grad(total)(self.prediction))

    def through_output(self, g: np.ndarray) -> np.ndarray:
        """The gradient at z from that at the prediction."""
        for stage in reversed(self.stages[self.last + 1 :]):
            g = stage.dx(g)
        return g

    def backward(
        self,
        delta: np.ndarray,
        dx: dict[int, Callable] | None = None,
        dparams: dict[int, Callable] | None = None,
    ) -> Gradients:
        """The chain rule from stage `last` down, with some of its steps replaced.

        Args:
            delta: the gradient of the output of stage `last`.
            dx: for some stages, another function from dy to dx.
            dparams: for some stages, another function from dy to the parameters' gradients.
        """
        dx, dparams = dx or {}, dparams or {}
        leaves: list[Any] = [None] * len(self.params)
        deltas: list[np.ndarray | None] = [None] * len(self.params)
        for i in range(self.last, -1, -1):
            stage = self.stages[i]
            grads = dparams.get(i, stage.dparams)(delta)
            for leaf, grad in zip(
                jax.tree.leaves(stage.leaves), jax.tree.leaves(grads), strict=True
            ):
                leaves[leaf] = np.asarray(grad)
                deltas[leaf] = as_rows(delta)
            if i:
                delta = dx.get(i, stage.dx)(delta)
        return Gradients(self.decayed(leaves), deltas)

    def decayed(self, leaves: list[np.ndarray]) -> list[np.ndarray]:
        """Gradients with the term λ·W of weight decay."""
        if not self.weight_decay:
            return leaves
        return [
            grad + self.weight_decay * theta if is_weight(path) else grad
            for path, grad, theta in zip(self.paths, leaves, self.params, strict=True)
        ]


def tape_of(
    net, loss, params, x, target, reduction="mean", weight_decay=None, key=None, weights=None
) -> Tape:
    """Run a network on a batch in float64 and differentiate it with JAX.

    The truth is `jax.grad` of the definitions: no hand-written backward takes part in it.
    """
    net = as_layer(net)
    params, x, target, weights = map(float64, (params, x, target, weights))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves, tree = jax.tree.flatten(params)
    grads = jax.tree.leaves(autodiff(net, loss, params, x, target, reduction, key, weights))
    with jax.enable_x64(True), definitions():
        prediction, counted = without_padding(_run(net, params, x, key), weights)
        losses = loss(prediction, target)
        weight = np.asarray(reduce(losses, prediction, target, counted, loss, reduction).dlosses)
    stages = []
    if key is None and not net.stateful and not isinstance(net, Tied):
        stages = _stages(net, params, x, jax.tree.unflatten(tree, range(len(leaves))))
    tape = Tape(
        stages=(),
        last=0,
        loss=loss,
        target=target,
        weight=weight.flat[0] if np.ptp(weight) == 0 else weight,
        n=losses.size,
        k=jax.tree.leaves(prediction)[0].shape[-1],
        delta=np.zeros(0),
        g=np.zeros(0),
        paths=paths,
        params=leaves,
        truth=Gradients(grads, [None] * len(grads)),
        weight_decay=weight_decay,
    )
    if not stages:
        return tape._replace(truth=Gradients(tape.decayed(grads), tape.truth.deltas))
    last = max((i for i, s in enumerate(stages) if jax.tree.leaves(s.params)), default=0)
    with jax.enable_x64(True), definitions():

        def rest(z):
            for stage in stages[last + 1 :]:
                z = stage.apply(stage.params, z)
            return jnp.sum(weight * loss(z, target))

        delta = np.asarray(jax.grad(rest)(stages[last].y))
        value = stages[-1].y
        output, loss, target = _split(loss, target, value.shape[-1])
        if output is not None:
            stages.append(_stage(lambda _, x: output(x), output, (), (), value))
    tape = tape._replace(
        stages=tuple(stages), last=last, loss=loss, target=target, delta=delta, g=delta
    )
    truth = Gradients(tape.decayed(grads), tape.backward(delta).deltas)
    return tape._replace(truth=truth, g=tape.dloss(target))


def autodiff(net, loss, params, x, target, reduction, key=None, weights=None):
    """The gradient by JAX from the definitions, in the dtype of the arguments."""
    net = as_layer(net)

    def total(params):
        prediction, counted = without_padding(_run(net, params, x, key), weights)
        losses = loss(prediction, target)
        return reduce(losses, prediction, target, counted, loss, reduction).value

    with jax.enable_x64(True), definitions():
        grads = jax.grad(total)(params)
    return jax.tree.map(np.asarray, grads)


def is_weight(path: str) -> bool:
    """Whether a leaf is a weight, which decay applies to."""
    return path.endswith("['w']")


def as_rows(array: np.ndarray) -> np.ndarray:
    """An array as a matrix with one row for each example."""
    return array.reshape(-1, array.shape[-1])


def linear_gradient(stage: Stage, x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """dW = xᵀ·dy and db = Σₙ dy of a linear stage, for any input."""
    grads = {"w": as_rows(x).T @ as_rows(dy), "b": as_rows(dy).sum(axis=0)}
    return {name: grads[name] for name in stage.params}


def float64(tree):
    """The leaves as NumPy arrays, those of floating point in float64."""
    return jax.tree.map(np.asarray, cast(tree, np.float64))


def _run(net: Layer, params, x, key):
    """The output, in the training form where inference differs from it."""
    if key is None and not net.stateful:
        return net.apply(params, x)
    return net.fwd(params, x, key)[0]


def _stages(net, params, x, positions) -> list[Stage]:
    """The layers of a chain, one by one; none if something else than an array passes through it."""
    stages = []
    with jax.enable_x64(True), definitions():
        for layer, p, places in _flatten(net, params, positions):
            y = layer.apply(p, x)
            if not isinstance(x, np.ndarray) or not isinstance(y, jax.Array):
                return []
            stages.append(_stage(layer.apply, getattr(layer, "op", None), p, places, x))
            x = stages[-1].y
    return stages


def _flatten(layer: Layer, params, leaves):
    """Every layer of a chain with its parameters, whatever the nesting."""
    while isinstance(layer, BuiltLayer):
        layer = layer.net
    if not isinstance(layer, Serial):
        yield layer, params, leaves
        return
    for part, part_params, part_leaves in zip(layer.layers, params, leaves, strict=True):
        yield from _flatten(part, part_params, part_leaves)


def _stage(apply, op, params, leaves, x) -> Stage:
    y = np.asarray(apply(params, x))
    slope = None
    if y.shape == x.shape and not jax.tree.leaves(params):
        ones = _pull(apply, params, x, np.ones_like(x))[1]
        probe = np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        if np.allclose(_pull(apply, params, x, probe)[1], ones * probe, rtol=1e-12, atol=0):
            slope = ones
    return Stage(apply, op, params, leaves, x, y, slope)


def _pull(apply, params, x, dy):
    """The gradients of the parameters and of the input, by JAX."""
    with jax.enable_x64(True), definitions():
        pullback = jax.vjp(apply, params, x)[1]
        return jax.tree.map(np.asarray, pullback(jnp.asarray(dy)))


def _split(loss, target, n_classes):
    """The output op inside a loss, the loss of that op's output, and its target."""
    output = None
    if sigmoid_cross_entropy.is_same_as(loss) and not loss.fixed:
        return sigmoid, binary_cross_entropy, target
    if softmax_cross_entropy.is_same_as(loss) and loss.fixed.keys() <= {"label_smoothing"}:
        output, smoothing = softmax, loss.options["label_smoothing"]
        loss = cross_entropy
    else:
        smoothing = 0.0
    if cross_entropy.is_same_as(loss) and not loss.fixed:
        if not is_differentiable(target):
            target = np.eye(n_classes)[target]
        target = (1 - smoothing) * target + smoothing / n_classes
    return output, loss, target
