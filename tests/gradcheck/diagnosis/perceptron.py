"""A multilayer perceptron in NumPy whose backward pass makes the mistakes it is told to make."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import jaxnn


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def softmax(v):
    e = np.exp(v - v.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ACTIVATIONS: dict[str, tuple] = {
    "identity": (jaxnn.identity, lambda z: z, np.ones_like),
    "relu": (jaxnn.relu, lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "tanh": (jaxnn.tanh, np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (jaxnn.sigmoid, sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "softplus": (jaxnn.softplus, lambda z: np.log1p(np.exp(z)), sigmoid),
}
"""The op, the function and its derivative."""

LOSSES: dict[str, tuple] = {
    "softmax": (jaxnn.softmax_cross_entropy, softmax, lambda p, y: p - y),
    "sigmoid": (jaxnn.sigmoid_cross_entropy, sigmoid, lambda p, y: p - y),
    "squared": (jaxnn.squared_error, lambda z: z, lambda p, y: 2 * (p - y)),
}
"""The op, the probabilities, and the gradient at the logits."""


def jacobian(p, v):
    return p * (v - (p * v).sum(axis=-1, keepdims=True))


OUTPUTS: dict[str, dict[str, tuple[str, Callable]]] = {
    "softmax": {
        "diagonal": ("L1", lambda z, p, y: -y * (1 - p)),
        "Jacobian twice": ("L2", lambda z, p, y: jacobian(p, p - y)),
        "softmax twice": ("L3", lambda z, p, y: softmax(p) - y),
        "at the probabilities": ("L4", lambda z, p, y: -y / p),
        "no one-hot": ("L5", lambda z, p, y: p - 1),
        "σ": ("L5", lambda z, p, y: sigmoid(z) - y),
        "smoothed": ("L10", lambda z, p, y: p - (0.9 * y + 0.1 / y.shape[1])),
    },
    "sigmoid": {
        "σ' twice": ("L2", lambda z, p, y: (p - y) * p * (1 - p)),
        "one term": ("L6", lambda z, p, y: -y * (1 - p)),
        "∂L/∂p": ("A6", lambda z, p, y: (p - y) / (p * (1 - p))),
        "no target": ("L6", lambda z, p, y: p),
    },
    "squared": {
        "square": ("L8", lambda z, p, y: (p - y) ** 2),
        "sign": ("L8", lambda z, p, y: np.sign(p - y)),
        "root": ("L8", lambda z, p, y: (p - y) / np.sqrt(np.mean(np.sum((p - y) ** 2, axis=1)))),
        "broadcast": ("L7", lambda z, p, y: 2 * (p - y.mean(axis=0))),
    },
}
"""Wrong gradients at the logits: the id, and the function of logits, predictions and targets."""

DELTAS: dict[str, tuple[str, Callable]] = {
    "sign": ("C1", lambda d: -d),
    "sum": ("C2", lambda d: len(d) * d),
    "fitted": ("C8", lambda d: 0.37 * d),
    "ones": ("B1", np.ones_like),
    "rolled": ("D3", None),
    "last example": ("D5", lambda d: d * (np.arange(len(d)) == len(d) - 1)[:, None]),
    "two missing": ("D5", lambda d: d * (np.arange(len(d)) > 1)[:, None]),
    "weights": ("D9", lambda d: d * np.linspace(0.5, 2, len(d))[:, None]),
}
"""Wrong δ at the output, from the right one."""

SLOPES: dict[str, tuple[str, Callable]] = {
    "missing": ("A1", lambda f, z, up: np.ones_like(z)),
    "at f(z)": ("A2", lambda f, z, up: f[2](f[1](z))),
    "value": ("A3", lambda f, z, up: f[1](z)),
    "squared": ("A3", lambda f, z, up: f[2](z) ** 2),
    "2·z": ("A3", lambda f, z, up: 2 * z),
    "upstream": ("A4", lambda f, z, up: 1.0 * (up > 0)),
    "of upstream": ("A5", lambda f, z, up: sigmoid(up) * (1 - sigmoid(up))),
}
"""Wrong factors in place of f'(z), at each hidden activation."""

BIASES: dict[str, tuple[str, Callable]] = {
    "not summed": ("S2", lambda d: d),
    "over units": ("S3", lambda d: d.sum(axis=1)),
    "kept": ("S4", lambda d: d.sum(axis=0, keepdims=True)),
    "mean": ("C3", lambda d: d.mean(axis=0)),
    "missing": ("Z1", lambda d: None),
}
"""Wrong gradients of the first bias."""

PENALTIES: dict[str, tuple[str, Callable]] = {
    "L2": ("R1", lambda w: 0.05 * w),
    "L1": ("R1", lambda w: 0.05 * np.sign(w)),
    "elastic": ("R1", lambda w: 0.02 * w + 0.05 * np.sign(w)),
}
"""Terms added to the gradients of weights."""

LEAVES: dict[str, tuple[str, Callable]] = {
    "transposed": ("S1", lambda g: g.T),
    "zero": ("Z1", np.zeros_like),
    "last row": ("Z3", lambda g: np.where(np.arange(len(g))[:, None] == len(g) - 1, 0, g)),
    "clipped": ("C9", lambda g: np.clip(g, -0.02, 0.02)),
    "shifted": ("S7", lambda g: np.roll(g, 1, axis=0)),
}
"""Wrong gradients of the second weight, from the right one."""


@dataclass
class Perceptron:
    """Linear layers with an activation between them, a loss, and a batch.

    Attributes:
        activation: a name in `ACTIVATIONS`.
        loss: a name in `LOSSES`.
        sizes: of the layers.
        n: the number of examples.
        seed: of everything.
    """

    activation: str
    loss: str
    sizes: tuple[int, ...] = (5, 6, 4, 3)
    n: int = 7
    seed: int = 0
    weights: list = field(init=False)
    biases: list = field(init=False)

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.weights = [random.normal(size=pair) for pair in pairs]
        self.biases = [0.4 * random.normal(size=n_out) for _, n_out in pairs]
        self.x = random.normal(size=(self.n, self.sizes[0]))
        k = self.sizes[-1]
        if self.loss == "softmax":
            self.target = random.permutation(np.arange(self.n) % k)
            self.y = np.eye(k)[self.target]
        else:
            self.y = self.target = random.random((self.n, k)).round(self.loss != "sigmoid")

    @property
    def arguments(self):
        """The network, the loss, its parameters and the batch, as `diagnose` takes them."""
        net = jaxnn.mlp(self.sizes, ACTIVATIONS[self.activation][0])
        pairs = zip(self.weights, self.biases, strict=True)
        params = tuple(part for w, b in pairs for part in ({"w": w, "b": b}, ()))
        return net, LOSSES[self.loss][0], params, self.x, self.target

    def gradient(self, **mistakes):
        """The gradients; each mistake is the name of one in the table of its kind."""
        f = ACTIVATIONS[self.activation]
        zs, inputs = [], [self.x]
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(inputs[-1] @ w + b)
            inputs.append(f[1](zs[-1]))
        delta = self._delta(zs[-1], mistakes)
        grads = []
        for i in reversed(range(len(zs))):
            wrong_bias = mistakes.get("bias") if i == 0 else None
            bias = BIASES[wrong_bias][1](delta) if wrong_bias else delta.sum(axis=0)
            grads.append({"w": inputs[i].T @ delta, "b": bias})
            if i:
                up = delta @ self.weights[i].T
                slope = SLOPES[mistakes["slope"]][1] if "slope" in mistakes else None
                delta = up * (slope(f, zs[i - 1], up) if slope else f[2](zs[i - 1]))
        return self._changed(grads[::-1], mistakes)

    def _delta(self, z, mistakes):
        _, probabilities, difference = LOSSES[self.loss]
        y, p = self.y, probabilities(z)
        if mistakes.get("delta") == "rolled":
            y = np.roll(y, 2, axis=0)
        if "output" in mistakes:
            delta = OUTPUTS[self.loss][mistakes["output"]][1](z, p, y) / self.n
        else:
            delta = difference(p, y) / self.n
        change = DELTAS[mistakes["delta"]][1] if "delta" in mistakes else None
        return change(delta) if change else delta

    def _changed(self, grads, mistakes):
        if "penalty" in mistakes:
            for grad, w in zip(grads, self.weights, strict=True):
                grad["w"] = grad["w"] + PENALTIES[mistakes["penalty"]][1](w)
        if "leaf" in mistakes:
            grads[1]["w"] = LEAVES[mistakes["leaf"]][1](grads[1]["w"])
        parts = [{k: v for k, v in grad.items() if v is not None} for grad in grads]
        return tuple(part for grad in parts for part in (grad, ()))


TABLES = {
    "delta": DELTAS,
    "slope": SLOPES,
    "bias": BIASES,
    "penalty": PENALTIES,
    "leaf": LEAVES,
}
"""The mistakes of each kind that every network can have."""
