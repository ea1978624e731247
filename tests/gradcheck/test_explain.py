"""`explain_gradient` names planted mistakes, and no mistake where there is only noise."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from jaxnn.gradcheck.explain import Evidence, explain, explain_all, explain_gradient

RANDOM = np.random.default_rng(4)
NO_NAME = ("", "is wrong at", "points in another direction", "is off by")


def draw(*shape):
    return RANDOM.normal(size=shape)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def relu(z):
    return np.maximum(z, 0)


def evidence_of(function, arrays, others=None, options=None) -> Evidence:
    """All evidence on a function of arrays, its gradients by differences of fourth order."""

    def forward(arrays):
        y = function(**arrays)
        return tuple(np.asarray(part) for part in (y if isinstance(y, tuple) else (y,)))

    def true_gradient(dy):
        return {path: gradient_of(path, dy) for path in arrays}

    def gradient_of(path, dy):
        gradient = np.zeros(arrays[path].shape)
        for index in np.ndindex(gradient.shape):
            for step, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                moved = arrays[path].copy()
                moved[index] += step * 1e-3
                outputs = forward(arrays | {path: moved})
                rise = sum(np.vdot(d, part) for d, part in zip(dy, outputs, strict=True))
                gradient[index] += weight * rise / 12e-3
        return gradient

    y = forward(arrays)
    dy = tuple(np.ones(()) if part.size == 1 else draw(*part.shape) for part in y)
    sizes = {
        f"the size of axis {axis} of {path}": size
        for path, array in arrays.items()
        for axis, size in enumerate(array.shape)
    }
    return Evidence(
        sizes=sizes,
        options=options or {},
        arrays=arrays,
        others=others or {},
        truths=true_gradient(dy),
        dy=dy,
        y=y,
        forward=forward,
        true_gradient=true_gradient,
    )


def said_of(evidence, leaf, wrong, resolution=None):
    evidence = replace(evidence, given=evidence.truths | {leaf: np.asarray(wrong)})
    if resolution:
        evidence = replace(evidence, resolution=resolution)
    return explain_gradient(leaf, evidence)


X, W, B = draw(6, 3), draw(3, 4), draw(4)
TARGET, LABELS = draw(6, 4), np.array([0, 3, 1, 2, 1, 0])
ONE_HOT = np.eye(4)[LABELS]
MASK = np.arange(18).reshape(6, 3) % 4 > 0
OTHER_MASK = np.arange(18).reshape(6, 3) % 5 > 0
BITS = (draw(6, 3) > 0) * 1.0
DEEP = {"W1": draw(3, 5), "b1": draw(5), "W2": draw(5, 4), "b2": draw(4)}
LSTM = {"x": draw(4, 3), "h": draw(4, 2), "c": draw(4, 2), "W": 0.5 * draw(5, 8)}


def lstm(x, h, c, W):
    i, f, o, g = np.split(np.concatenate([x, h], 1) @ W, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def layer_norm(x, gain, shift):
    centred = x - x.mean(1, keepdims=True)
    return gain * centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) + shift


def deep(x, W1, b1, W2, b2):
    loss = ((relu(x @ W1 + b1) @ W2 + b2 - TARGET) ** 2).mean()
    return loss + 0.05 * ((W1**2).sum() + (W2**2).sum())


FUNCTIONS = {
    "tanh": (lambda x: np.tanh(x), {"x": X}, {}, {}),
    "swish": (lambda x: x * sigmoid(x), {"x": X}, {}, {}),
    "relu": (lambda x: relu(x), {"x": X}, {}, {}),
    "dropout": (lambda x: x * MASK / 0.7, {"x": X}, {}, {"p": 0.3}),
    "softmax": (lambda x: softmax(x), {"x": X}, {}, {}),
    "affine": (lambda x, W, b: x @ W + b, {"x": X, "W": W, "b": B}, {}, {}),
    "dense": (lambda x, W: np.tanh(x @ W), {"x": X, "W": W}, {}, {}),
    "total": (lambda x: np.cumsum(x, 0), {"x": X}, {}, {}),
    "product": (lambda u, v: u * v, {"u": X, "v": draw(6, 3)}, {}, {}),
    "moments": (lambda x: (x.sum(0), (x**2).sum(0)), {"x": X}, {}, {}),
    "squares": (lambda p: ((p - TARGET) ** 2).mean(), {"p": draw(6, 4)}, {"t": TARGET}, {}),
    "entropy": (
        lambda z: -np.log(softmax(z)[np.arange(6), LABELS]).mean(),
        {"z": draw(6, 4)},
        {"labels": LABELS},
        {},
    ),
    "binary": (
        lambda p: -(BITS * np.log(p) + (1 - BITS) * np.log(1 - p)).mean(),
        {"p": sigmoid(X)},
        {"t": BITS},
        {},
    ),
    "norm": (layer_norm, {"x": X, "gain": draw(3), "shift": draw(3)}, {}, {}),
    "pool": (lambda x: x.reshape(2, 2, 3, 2).max((1, 3)), {"x": draw(4, 6)}, {}, {}),
    "deep": (deep, {"x": X, **DEEP}, {"y": TARGET}, {"reg": 0.1}),
    "lstm": (lstm, LSTM, {}, {}),
}
EVIDENCE = {name: evidence_of(*parts) for name, parts in FUNCTIONS.items()}


def of_deep(slope, decay=0.1):
    """d_W1 of the deep network with another derivative of ReLU."""
    z = X @ DEEP["W1"] + DEEP["b1"]
    delta = 2 * (relu(z) @ DEEP["W2"] + DEEP["b2"] - TARGET) / TARGET.size
    return X.T @ (delta @ DEEP["W2"].T * slope(z)) + decay * DEEP["W1"]


def of_lstm(derivative):
    """d_c of the LSTM with another derivative of the tanh behind the cell state."""
    z = np.concatenate([LSTM["x"], LSTM["h"]], 1) @ LSTM["W"]
    _, c = lstm(**LSTM)
    dh, dc = EVIDENCE["lstm"].dy
    return (dc + dh * sigmoid(z[:, 4:6]) * derivative(np.tanh(c))) * sigmoid(z[:, 2:4])


def of_norm(e):
    """d_x of layer norm with the mean and the variance as constants."""
    return e.dy[0] * e.arrays["gain"] / np.sqrt(X.var(1, keepdims=True) + 1e-5)


def spread(dy):
    return dy.repeat(2, 0).repeat(2, 1)


P, Q = EVIDENCE["squares"].arrays["p"], softmax(EVIDENCE["entropy"].arrays["z"])
S, SIG = softmax(X), sigmoid(X)
MISTAKES = {
    "sign": ("dense", "x", lambda e, t, dy: -t, "opposite sign", "C1"),
    "factor N": ("affine", "W", lambda e, t, dy: 6 * t, "6 × the true gradient everywhere", "C2"),
    "bias mean": (
        "affine",
        "b",
        lambda e, t, dy: dy.mean(0),
        "a mean is used instead of a sum",
        "C3",
    ),
    "mean over rows": ("squares", "p", lambda e, t, dy: 4 * t, "the size of axis 1 of p", "C2"),
    "half": ("squares", "p", lambda e, t, dy: t / 2, "a 2 is missing", "C5"),
    "zero": ("affine", "b", lambda e, t, dy: 0 * t, "is zero everywhere", "Z1"),
    "not summed": ("affine", "b", lambda e, t, dy: dy, "is not summed over axis 0", "S2"),
    "axis kept": ("affine", "b", lambda e, t, dy: t[None], "keeps axis 0", "S4"),
    "over all": ("affine", "b", lambda e, t, dy: 0 * t + dy.sum(), "summed over everything", "S3"),
    "first example": ("affine", "b", lambda e, t, dy: dy[0], "only the first example", "D5"),
    "one example": ("affine", "W", lambda e, t, dy: np.outer(X[0], dy[0]), "one example", "D5"),
    "dy not used": ("affine", "b", lambda e, t, dy: 0 * t + 6.0, "as if dy were not used", ""),
    "transposed": ("affine", "W", lambda e, t, dy: t.T, "is the transpose", "S1"),
    "y for dy": ("affine", "W", lambda e, t, dy: X.T @ e.y[0], "is xᵀ @ y, but", ""),
    "row missing": ("affine", "x", lambda e, t, dy: t * (X[2] != X), "zero at index 2", "Z3"),
    "no derivative": ("tanh", "x", lambda e, t, dy: dy, "derivative of tanh is missing", "A1"),
    "of the output": ("tanh", "x", lambda e, t, dy: dy * (1 - X**2), "wrong argument", "A2"),
    "no square": ("tanh", "x", lambda e, t, dy: dy * (1 - e.y[0]), "is dy × (1 − y), but", "A3"),
    "another": ("tanh", "x", lambda e, t, dy: dy * SIG * (1 - SIG), "derivative of sigmoid", "A3"),
    "half of swish": ("swish", "x", lambda e, t, dy: dy * (SIG + X * SIG), "σ(x)", "A3"),
    "mask of dy": ("relu", "x", lambda e, t, dy: dy * (dy > 0), "sign of the incoming", "A4"),
    "inverted": ("relu", "x", lambda e, t, dy: dy * (X < 0), "mask is inverted", "A3"),
    "loose mask": ("relu", "x", lambda e, t, dy: dy * (X > -0.4), "lets the gradient through", ""),
    "no scale": ("dropout", "x", lambda e, t, dy: dy * MASK, "0.7 × the true gradient", "C8"),
    "new mask": ("dropout", "x", lambda e, t, dy: dy * OTHER_MASK / 0.7, "drawn anew", ""),
    "diagonal": ("softmax", "x", lambda e, t, dy: dy * S * (1 - S), "only the diagonal", "L1"),
    "last tanh": ("dense", "W", lambda e, t, dy: X.T @ dy, "derivative of the output's tanh", "A6"),
    "forwards": ("total", "x", lambda e, t, dy: np.cumsum(dy, 0), "along axis 0", ""),
    "factor missing": ("product", "u", lambda e, t, dy: dy, "but the true gradient is dy × v", ""),
    "output dropped": ("moments", "x", lambda e, t, dy: t * 0 + dy, "output 1 is not used", ""),
    "squared error": ("squares", "p", lambda e, t, dy: (P - TARGET) ** 2, "squared error", "L8"),
    "no target": ("entropy", "z", lambda e, t, dy: Q / 6, "lacks the one-hot target", "L5"),
    "of probabilities": ("entropy", "z", lambda e, t, dy: -ONE_HOT / Q / 6, "Jacobian", "L4"),
    "of logits": ("binary", "p", lambda e, t, dy: (SIG - BITS) / 18, "for the logits", "A6"),
    "constants": ("norm", "x", lambda e, t, dy: of_norm(e), "mean and variance as constants", ""),
    "no x̂": ("norm", "gain", lambda e, t, dy: dy.sum(0), "lacks the normalised x̂", ""),
    "spread": ("pool", "x", lambda e, t, dy: spread(dy) / 4, "is spread evenly", ""),
    "hidden ReLU": ("deep", "W1", lambda e, t, dy: of_deep(np.ones_like), "that of ReLU,", "A1"),
    "decay": (
        "deep",
        "W1",
        lambda e, t, dy: t - 0.1 * DEEP["W1"],
        "(weight decay) is missing",
        "R1",
    ),
    "half decay": ("deep", "W2", lambda e, t, dy: t - 0.05 * DEEP["W2"], "half of the L2", "R1"),
    "cell state": (
        "lstm",
        "c",
        lambda e, t, dy: of_lstm(lambda t: 1),
        "derivative of the tanh",
        "A1",
    ),
    "clipped": ("dense", "x", lambda e, t, dy: np.clip(t, -0.3, 0.3), "clipped at -0.3", ""),
    "rolled": ("tanh", "x", lambda e, t, dy: np.roll(t, 1, 0), "rolled by 1 along axis 0", ""),
    "rounded": (
        "tanh",
        "x",
        lambda e, t, dy: t.astype(ml_dtypes.bfloat16).astype(float),
        "rounded to bfloat16",
        "",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake):
    function, leaf, wrong, words, id_of_mistake = MISTAKES[mistake]
    evidence = EVIDENCE[function]
    said = said_of(evidence, leaf, wrong(evidence, evidence.truths[leaf], evidence.dy[0]))
    assert words in said
    assert not id_of_mistake or said.endswith(f"({id_of_mistake})")


@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize(
    "function", ["tanh", "relu", "softmax", "affine", "entropy", "norm", "deep"]
)
def test_a_gradient_that_is_wrong_at_random_gets_no_name(function, size):
    evidence = EVIDENCE[function]
    for leaf, truth in evidence.truths.items():
        said = said_of(evidence, leaf, truth + size * draw(*truth.shape) * np.abs(truth).max())
        assert said.startswith(NO_NAME[1:]) or said == ""


@pytest.mark.parametrize(
    ("function", "leaf", "wrong", "words"),
    [
        ("affine", "b", lambda e, dy: dy.mean(0), "a mean is used instead of a sum"),
        ("affine", "W", lambda e, dy: -X.T @ dy, "opposite sign"),
        ("norm", "x", lambda e, dy: of_norm(e), "mean and variance as constants"),
        ("affine", "b", lambda e, dy: dy.sum(0) + draw(4), ""),
    ],
)
def test_a_mistake_is_named_in_low_precision(function, leaf, wrong, words):
    evidence = EVIDENCE[function]
    rounded = np.asarray(wrong(evidence, evidence.dy[0])).astype(ml_dtypes.bfloat16).astype(float)
    said = said_of(evidence, leaf, rounded, resolution=1e-2)
    assert words in said if words else said.startswith(NO_NAME[1:])


def test_two_gradients_in_each_others_place():
    evidence = EVIDENCE["product"]
    swapped = {"u": evidence.truths["v"], "v": evidence.truths["u"]}
    said = explain_all(["u", "v"], replace(evidence, given=swapped))
    assert said["u"].startswith("holds the gradient of v, swapped")
    assert said["v"].startswith("holds the gradient of u, swapped")


def test_a_guard_in_the_forward_pass_does_not_hide_the_sign():
    p = softmax(draw(5, 4))
    target = np.eye(4)[[0, 2, 1, 3, 3]]
    evidence = evidence_of(
        lambda p: -(target * np.log(p + 1e-6)).sum() / 5, {"p": p}, others={"t": target}
    )
    assert "opposite sign" in said_of(evidence, "p", target / p / 5)


def test_the_cases_of_a_function_are_no_other_factors():
    slope = np.full(4, 0.25)
    evidence = evidence_of(lambda x, s: np.where(x > 0, x, s * x), {"x": draw(6, 4), "s": slope})
    (dy,), x = evidence.dy, evidence.arrays["x"]
    inverted = np.where(x > 0, 0.25 * dy, dy)
    assert "²" not in said_of(evidence, "x", inverted)
    unweighted = (dy * (x <= 0)).sum(0)
    assert "reciprocal" not in said_of(evidence, "s", unweighted)


def test_a_mask_that_is_missing_is_not_told_as_another_array():
    def triplet(a, p, n):
        rise = ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 1
        return np.maximum(rise, 0).mean()

    evidence = evidence_of(triplet, {name: draw(8, 3) for name in "apn"})
    assert not evidence.truths["n"].all()
    a, n = evidence.arrays["a"], evidence.arrays["n"]
    assert "mask" in said_of(evidence, "n", 2 * (a - n) / 8)


def test_functions_that_raise_are_no_obstacle():
    def fails(*_):
        raise FloatingPointError

    evidence = replace(EVIDENCE["tanh"], forward=fails, true_gradient=fails)
    assert "derivative of tanh" in said_of(evidence, "x", evidence.dy[0])


def test_without_evidence_a_factor_is_everywhere_only_if_it_removes_the_error():
    truth = draw(5, 4)
    sizes = {"the batch size": 7}
    assert "7 × the true gradient everywhere" in explain(7 * truth, truth, sizes)
    assert "everywhere" not in explain(7 * truth + 0.1 * draw(5, 4), truth, sizes)
    assert explain(np.full((5, 4), np.nan), truth, sizes) == ""
