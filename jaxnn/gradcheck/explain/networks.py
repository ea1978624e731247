"""Chains of linear layers and activations, recognised by their gradients, and their mistakes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.explain.elementwise import ELEMENTWISE, Elementwise
from jaxnn.gradcheck.explain.evidence import Arrays, Comparison, Evidence, Hypothesis
from jaxnn.gradcheck.explain.losses import OF_CLASSES, POINTWISE, Loss

SECONDS = 0.7
MOST_MATRICES = 12
MOST_ENTRIES = 100_000
COMMON = ("sigmoid", "tanh", "ReLU", "leaky ReLU with slope 0.01", "softplus", "elu", "gelu", "sin")

Jacobian = Callable[[np.ndarray, np.ndarray], np.ndarray]


class _Layer(NamedTuple):
    weight: str
    bias: str | None


@dataclass(frozen=True)
class _Steps:
    """The steps of a backward pass, each of which a mistake may change.

    Attributes:
        slopes: the derivative of each hidden activation, from input, output and incoming gradient.
        inputs: the arrays from which each layer's weight gradient is computed.
        delta: the gradient at the output of the last linear layer.
    """

    slopes: tuple[Callable, ...]
    inputs: tuple[np.ndarray, ...]
    delta: np.ndarray


@dataclass(frozen=True)
class _Network:
    """A chain of linear layers in the row convention; other arrays are transposed."""

    layers: tuple[_Layer, ...]
    arrays: Arrays
    outward: Callable[[str, np.ndarray], np.ndarray]
    input: str
    x: np.ndarray
    hidden: Elementwise

    def forward(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The input of each layer, and the output of each before its activation."""
        a, inputs, outputs = self.x, [], []
        for layer in self.layers:
            inputs.append(a)
            z = a @ self.arrays[layer.weight]
            z = z + self.arrays[layer.bias].reshape(1, -1) if layer.bias else z
            outputs.append(z)
            a = self.hidden.value(z)
        return inputs, outputs

    def backward(self, steps: _Steps, outputs) -> Arrays:
        """The gradients of all parameters and of the input, in the layout of the arguments."""
        delta, gradients = steps.delta, {}
        for i in reversed(range(len(self.layers))):
            layer = self.layers[i]
            gradients[layer.weight] = steps.inputs[i].T @ delta
            if layer.bias:
                gradients[layer.bias] = delta.sum(0)
            delta = delta @ self.arrays[layer.weight].T
            if i:
                z = outputs[i - 1]
                delta = delta * steps.slopes[i - 1](z, self.hidden.value(z), delta)
        gradients[self.input] = delta
        return {path: self.outward(path, gradient) for path, gradient in gradients.items()}


class _Output(NamedTuple):
    """The last activation and the loss, as gradients at the last linear layer."""

    name: str
    value: Callable[[np.ndarray], np.ndarray]
    jacobian: Jacobian


def of_networks(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients produced by mistakes in a chain of linear layers and activations.

    Args:
        comparison: the gradient and the truth.
        leaf: the path of the argument.
        evidence: of its gradient.
    """
    if len(evidence.y) != 1 or np.iscomplexobj(evidence.y[0]):
        return
    deadline = time.monotonic() + SECONDS
    for network in _networks(evidence):
        if time.monotonic() > deadline:
            return
        if leaf not in {network.input, *(path for layer in network.layers for path in layer)}:
            continue
        inputs, outputs = network.forward()
        for output, deltas in _deltas(network, outputs[-1], evidence):
            delta = deltas[0][1]
            last = network.layers[-1].weight
            final = {last: network.outward(last, inputs[-1].T @ delta)}
            if _fitted(final, evidence, comparison.tolerance) is None:
                continue
            right = _right(network, inputs, delta)
            fitted = _fitted(network.backward(right, outputs), evidence, comparison.tolerance)
            if fitted is None:
                continue
            scale, decays = fitted
            decay = decays.get(leaf, 0.0) * evidence.arrays.get(leaf, 0.0)
            for steps, words, mistake in _mistakes(network, right, output, deltas, outputs):
                gradient = scale * network.backward(steps, outputs)[leaf] + decay
                yield Hypothesis(gradient, words, mistake, not np.any(decay))
            return


def _right(network, inputs, delta) -> _Steps:
    hidden = len(network.layers) - 1
    slope = network.hidden.slope
    return _Steps((lambda z, a, delta: slope(z),) * hidden, tuple(inputs), delta)


def _mistakes(network, right, output, deltas, outputs):
    """The wrong steps, each with the description and the id of the mistake."""
    places = range(len(right.slopes))
    for slope, words, mistake in _wrong_slopes(network.hidden):
        for i in places:
            changed = (*right.slopes[:i], slope, *right.slopes[i + 1 :])
            yield replace(right, slopes=changed), f"{words} at hidden layer {i + 1}", mistake
        steps = replace(right, slopes=(slope,) * len(places))
        yield steps, f"{words} at every hidden layer", mistake
    for words, delta, mistake in deltas[1:]:
        yield replace(right, delta=delta), words, mistake
    for i in places:
        changed = (*right.inputs[: i + 1], outputs[i], *right.inputs[i + 2 :])
        words = f"is computed from the input of hidden layer {i + 1}'s activation, not its output"
        yield replace(right, inputs=changed), words, "D1"


def _wrong_slopes(f: Elementwise):
    """Wrong derivatives of the hidden activation."""
    activation = f"the activation derivative, that of {f.name},"
    yield lambda z, a, d: np.ones_like(z), f"is computed without {activation}", "A1"
    if f.name != "ReLU":
        yield (
            lambda z, a, d: f.slope(a),
            f"evaluates {activation} at the wrong argument, its output,",
            "A2",
        )
    if f.of_output is not None:
        of_output = f.of_output
        written = f"in terms of the output, {f.output_formula}, is applied to the input"
        yield (
            lambda z, a, d: of_output(z),
            f"evaluates {activation} at the wrong argument: the formula {written}",
            "A2",
        )
    yield lambda z, a, d: a, f"uses the value of {f.name} instead of its derivative", "A3"
    yield lambda z, a, d: f.slope(z) ** 2, f"contains {activation} twice", "A3"
    yield lambda z, a, d: 1 - f.slope(z), f"contains 1 minus {activation} (its complement)", "A3"
    yield (
        lambda z, a, d: (d > 0) * 1.0,
        f"uses a mask from the sign of the incoming gradient instead of {activation}",
        "A4",
    )
    for other in ELEMENTWISE:
        if other.name == f.name or other.name not in (*COMMON, "silu (swish)"):
            continue
        words = f"uses the derivative of another activation, {other.name}, not that of {f.name},"
        yield lambda z, a, d, g=other: g.slope(z), words, "A3"
        if other.of_output is not None:
            yield lambda z, a, d, g=other: g.of_output(a), words, "A3"


def _networks(evidence) -> Iterator[_Network]:
    """The chains that fit the shapes of the arrays."""
    matrices = {path: a for path, a in evidence.arrays.items() if a.ndim in (1, 2)}
    if not 1 <= len(matrices) <= MOST_MATRICES:
        return
    if sum(array.size for array in evidence.arrays.values()) > MOST_ENTRIES:
        return
    hidden = [f for name in COMMON for f in ELEMENTWISE if f.name == name]
    for input_path, x in _inputs(evidence):
        weights = {path: a for path, a in matrices.items() if path != input_path}
        for columns, turned in ((False, False), (True, True), (False, True)):
            rows = x.T if columns and x.ndim == 2 else np.atleast_2d(x)
            arrays = {
                path: (w[:, None] if w.ndim == 1 else w.T if turned else w)
                for path, w in weights.items()
            }
            for order in _chains(rows.shape[1], arrays):
                layers, biases = _with_biases(order, arrays, evidence.arrays, input_path)
                outward = _outward(evidence, turned, columns)
                for activation in hidden if len(layers) > 1 else hidden[:1]:
                    yield _Network(layers, arrays | biases, outward, input_path, rows, activation)


def _inputs(evidence) -> Iterator[tuple[str, np.ndarray]]:
    for path, array in (evidence.arrays | evidence.others).items():
        if array.ndim in (1, 2) and array.dtype.kind in "fiu" and array.size > 1:
            yield path, array.astype(np.float64)


def _chains(width, arrays) -> Iterator[tuple[str, ...]]:
    """The orders in which the shapes of the matrices fit; biases and one target may remain."""

    def extended(order, width):
        rest = [path for path in arrays if path not in order]
        if order and sum(min(arrays[path].shape) > 1 for path in rest) <= 1:
            yield order
        for path in rest:
            if arrays[path].shape[0] == width:
                yield from extended((*order, path), arrays[path].shape[1])

    yield from sorted(extended((), width), key=len, reverse=True)


def _with_biases(order, arrays, all_arrays, input_path):
    """The layers with the first unused array of the right size as the bias of each."""
    layers, biases = [], {}
    for path in order:
        width = arrays[path].shape[1]
        fitting = (
            other
            for other, b in all_arrays.items()
            if other not in biases
            and other != input_path
            and other not in order
            and b.size == width == max(b.shape, default=1)
        )
        bias = next(fitting, None)
        if bias is not None:
            biases[bias] = all_arrays[bias]
        layers.append(_Layer(path, bias))
    return tuple(layers), biases


def _outward(evidence, turned, columns):
    """The function that arranges a gradient in the layout of its argument."""
    shapes = {path: array.shape for path, array in (evidence.arrays | evidence.others).items()}

    def outward(path, gradient):
        shape = shapes[path]
        transposed = turned if gradient.ndim == 2 and len(shape) == 2 else False
        if path in evidence.arrays and gradient.T.shape == shape and transposed:
            return gradient.T
        return gradient.reshape(shape)

    return outward


def _deltas(network, z, evidence):
    """Each interpretation of the output: the right delta first, then the wrong ones."""
    y = evidence.y[0]
    columns = z.shape == y.shape[::-1] and z.shape != y.shape
    for output in _OUTPUTS:
        p = output.value(z)
        if y.size == p.size and y.size > 1:
            seen = y.T if columns else y.reshape(p.shape)
            if np.linalg.norm(seen - p) <= 1e-6 * np.linalg.norm(p):
                dy = evidence.dy[0].T if columns else evidence.dy[0].reshape(p.shape)
                yield output, _at_output(output, p, dy, ())
        elif y.size == 1:
            for target, losses in _targets(p, evidence):
                for loss in losses:
                    slips = [
                        (
                            slip.words.format(target="the target", prediction="the output"),
                            slip.slope(p, target),
                            slip.mistake,
                        )
                        for slip in loss.slips
                    ]
                    yield output, _at_output(output, p, loss.slope(p, target), slips)


def _at_output(output, p, slope, slips):
    """The gradient at the last linear layer, right and wrong."""
    right = output.jacobian(p, slope)
    deltas = [("", right, "")]
    if output.name:
        missing = f"is computed without the derivative of the output's {output.name}"
        deltas.append((missing, slope, "A6"))
        twice = f"contains the derivative of the output's {output.name} twice"
        deltas.append((twice, output.jacobian(p, right), "L2"))
    for words, wrong, mistake in slips:
        deltas.append((words, output.jacobian(p, wrong), mistake))
    return deltas


def _targets(p, evidence) -> Iterator[tuple[np.ndarray, tuple[Loss, ...]]]:
    for array in (evidence.others | evidence.arrays).values():
        if array.dtype.kind not in "fiub":
            continue
        if array.shape == p.shape or (array.size == p.size and array.ndim < 2):
            yield array.reshape(p.shape).astype(np.float64), (*OF_CLASSES, *POINTWISE)
        elif array.ndim == 2 and array.T.shape == p.shape:
            yield array.T.astype(np.float64), (*OF_CLASSES, *POINTWISE)
        elif array.dtype.kind in "iu" and array.size == p.shape[0] and p.shape[1] > 1:
            yield (array.reshape(-1, 1) == np.arange(p.shape[1])) * 1.0, OF_CLASSES


def _fitted(gradients, evidence, tolerance):
    """The constant of the loss and the decay of each leaf, if the gradients are the true ones."""
    scale, decays = None, {}
    for path, gradient in gradients.items():
        truth = evidence.truths.get(path)
        if truth is None:
            continue
        if not np.isfinite(gradient).all() or gradient.shape != truth.shape:
            return None
        if gradient.ndim < 2 or min(gradient.shape) < 2:
            columns = [gradient.ravel()]
        else:
            columns = [gradient.ravel(), evidence.arrays[path].ravel()]
        solution, *_ = np.linalg.lstsq(np.stack(columns, 1), truth.ravel(), rcond=None)
        fit = sum(c * column for c, column in zip(solution, columns, strict=True))
        if np.linalg.norm(fit - truth.ravel()) > max(tolerance, 1e-6) * np.linalg.norm(truth):
            return None
        if gradient.any():
            scale = solution[0] if scale is None else scale
            if abs(solution[0] - scale) > 1e-3 * abs(scale):
                return None
        if len(solution) > 1 and abs(solution[1]) > 1e-6:
            decays[path] = float(solution[1])
    return None if scale is None else (float(scale), decays)


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


_BY_NAME = {function.name: function for function in ELEMENTWISE}

_OUTPUTS = (
    _Output("", lambda z: z, lambda p, g: g),
    _Output("sigmoid", _BY_NAME["sigmoid"].value, lambda p, g: g * p * (1 - p)),
    _Output("softmax", _softmax, lambda p, g: p * (g - (p * g).sum(-1, keepdims=True))),
    _Output("tanh", np.tanh, lambda p, g: g * (1 - p**2)),
    _Output("ReLU", _BY_NAME["ReLU"].value, lambda p, g: g * (p > 0)),
)
