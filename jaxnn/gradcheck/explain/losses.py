"""Losses of a prediction and a target, recognised by their values, and their known mistakes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.explain.evidence import Evidence, Hypothesis

RECOGNISED = 1e-3
GUARD = 1e-12

Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Slip(NamedTuple):
    """A wrong derivative of a loss.

    Attributes:
        slope: the derivative, without the weight of an entry.
        words: the rest of a sentence that begins with the gradient's name.
        mistake: the id of the mistake.
    """

    slope: Slope
    words: str
    mistake: str = ""


class Loss(NamedTuple):
    """A loss for each entry, or for each example with several classes.

    Attributes:
        value: the loss from prediction and target.
        slope: its derivative with respect to the prediction.
        slips: wrong derivatives.
    """

    value: Slope
    slope: Slope
    slips: tuple[Slip, ...]


def of_losses(leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients produced by mistakes in a loss, with respect to its prediction.

    Args:
        leaf: the path of the prediction.
        evidence: of its gradient.
    """
    prediction = evidence.arrays.get(leaf)
    if prediction is None or len(evidence.y) != 1 or not (prediction.ndim and prediction.size):
        return
    if np.iscomplexobj(prediction) or evidence.truths[leaf].shape != prediction.shape:
        return
    for name, target in _targets(leaf, evidence):
        for losses, axis in _kinds(prediction, target, evidence.options):
            moved = (
                np.moveaxis(prediction, axis, -1),
                np.moveaxis(_full(target, prediction), axis, -1),
            )
            for loss in losses:
                weight = _weight(loss, moved, axis, leaf, evidence)
                if weight is None:
                    continue
                for slip in loss.slips:
                    gradient = np.moveaxis(weight * slip.slope(*moved), -1, axis)
                    words = slip.words.format(target=name, prediction=leaf)
                    yield Hypothesis(gradient, words, slip.mistake, True, (2.0, 0.5))
                return


def _targets(leaf, evidence) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that may be the target, as numbers of the prediction's shape or as labels."""
    shape = evidence.arrays[leaf].shape
    for name, array in (evidence.others | evidence.arrays).items():
        if name == leaf or array.dtype.kind not in "fiub":
            continue
        if array.shape == shape:
            yield name, array.astype(np.float64)
        elif (
            array.dtype.kind in "iu" and array.size * shape[-1:][0] == np.prod(shape)
            if shape
            else False
        ):
            yield name, array


def _kinds(prediction, target, options):
    """The families of losses that fit the shapes, with the axis of the classes."""
    same = target.shape == prediction.shape
    if prediction.ndim and prediction.shape[-1] > 1:
        yield OF_CLASSES, -1
    if prediction.ndim == 2 and same and prediction.shape[0] > 1:
        yield OF_CLASSES, 0
    if same:
        yield POINTWISE, -1
        yield tuple(huber(value) for value in options.values() if value > 0), -1


def _full(target, prediction) -> np.ndarray:
    """The target in the prediction's shape: labels become one-hot."""
    if target.shape == prediction.shape:
        return target
    classes = np.arange(prediction.shape[-1])
    return (target.reshape(prediction.shape[:-1])[..., None] == classes) * 1.0


def _weight(loss, moved, axis, leaf, evidence) -> np.ndarray | None:
    """The weight of each entry's derivative, if this loss is the function under test."""
    dy, y = evidence.dy[0], evidence.y[0]
    value, slope = loss.value(*moved), loss.slope(*moved)
    if not (np.isfinite(value).all() and np.isfinite(slope).all() and value.any() and slope.any()):
        return None
    reduced = _reduced(value, y)
    if reduced is None:
        return None
    square = np.vdot(reduced, reduced)
    scale = np.vdot(reduced, y.reshape(reduced.shape)) / square if square else 0.0
    if np.linalg.norm(y.reshape(reduced.shape) - scale * reduced) > RECOGNISED * np.linalg.norm(y):
        return None
    cotangent = (
        dy.reshape(dy.shape + (1,) * (moved[0].ndim - dy.ndim)) if dy.size > 1 else dy.ravel()[0]
    )
    weight = scale * np.broadcast_to(cotangent, moved[0].shape)
    truth = np.moveaxis(evidence.truths[leaf], axis, -1)
    off = np.linalg.norm(weight * slope - truth)
    return weight if off <= RECOGNISED * np.linalg.norm(truth) else None


def _reduced(value, y) -> np.ndarray | None:
    """The losses, summed over trailing axes until their number matches the outputs."""
    while value.size > y.size and value.ndim:
        value = np.asarray(value.sum(-1))
    return value if value.size == y.size else None


def _softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))


def _of_softmax(p, g):
    """The product of softmax's Jacobian and a vector."""
    return p * (g - (p * g).sum(-1, keepdims=True))


def _sigmoid_slope(z):
    return _sigmoid(z) * _sigmoid(-z)


def huber(delta: float) -> Loss:
    """The Huber loss with a threshold δ, at which it passes from a square to a line."""

    def small(p, t):
        return abs(p - t) < delta

    return Loss(
        lambda p, t: np.where(small(p, t), 0.5 * (p - t) ** 2, delta * (abs(p - t) - 0.5 * delta)),
        lambda p, t: np.clip(p - t, -delta, delta),
        (
            Slip(lambda p, t: p - t, "is the error, without clipping of large errors", "L8"),
            Slip(lambda p, t: np.sign(p - t), "contains only the sign of the error", "L8"),
            Slip(
                lambda p, t: np.where(small(p, t), p - t, np.sign(p - t)),
                f"lacks the factor δ = {delta:g} where the error is large",
                "L8",
            ),
            Slip(
                lambda p, t: np.where(small(p, t), p - t, delta),
                "lacks the sign of the error where it is large",
                "L8",
            ),
            Slip(lambda p, t: np.where(small(p, t), p - t, 0.0), "is zero at large errors", "L8"),
            Slip(
                lambda p, t: np.where(small(p, t), delta * np.sign(p - t), p - t),
                "has the two branches swapped",
                "L8",
            ),
        ),
    )


_NO_TARGET = "is the derivative without the target: {target} is never subtracted"
_SUM = "adds {target} to the prediction instead of subtracting it: the sign is wrong"

POINTWISE = (
    Loss(
        lambda p, t: (p - t) ** 2,
        lambda p, t: 2 * (p - t),
        (
            Slip(
                lambda p, t: (p - t) ** 2, "contains the squared error instead of the error", "L8"
            ),
            Slip(lambda p, t: np.sign(p - t), "contains only the sign of the error", "L8"),
            Slip(lambda p, t: np.abs(p - t), "contains the absolute value of the error", "L8"),
            Slip(lambda p, t: p, _NO_TARGET, "L8"),
            Slip(lambda p, t: t, "contains {target} instead of the error", "L8"),
            Slip(lambda p, t: p + t, _SUM, "L8"),
            Slip(
                lambda p, t: (p - t) * p * (1 - p),
                "also contains the derivative of a sigmoid, {prediction}·(1 − {prediction})",
                "L8",
            ),
            Slip(
                lambda p, t: (p - t) * (1 - p**2),
                "also contains the derivative of a tanh, 1 − {prediction}²",
                "L8",
            ),
            Slip(
                lambda p, t: (p - t) / (p * (1 - p)),
                "is the derivative of the binary cross-entropy, not of the squared error",
                "L6",
            ),
            Slip(
                lambda p, t: p - t.mean(0),
                "uses the mean of {target} for every target: {target} is broadcast",
                "L7",
            ),
            Slip(
                lambda p, t: np.ones_like(p), "lacks the error: it is the same at each entry", "L8"
            ),
            Slip(lambda p, t: (p - t) ** 3, "contains the third power of the error", "L8"),
        ),
    ),
    Loss(
        lambda p, t: np.abs(p - t),
        lambda p, t: np.sign(p - t),
        (
            Slip(lambda p, t: p - t, "contains the error instead of its sign", "L8"),
            Slip(
                lambda p, t: np.abs(p - t), "contains the absolute error instead of its sign", "L8"
            ),
            Slip(
                lambda p, t: np.sign(p), "contains the sign of {prediction}, not of the error", "L8"
            ),
            Slip(lambda p, t: np.ones_like(p), "lacks the sign of the error", "L8"),
        ),
    ),
    Loss(
        lambda p, t: -(t * np.log(p + GUARD) + (1 - t) * np.log(1 - p + GUARD)),
        lambda p, t: (p - t) / (p * (1 - p)),
        (
            Slip(
                lambda p, t: p - t,
                "is the formula for the logits, {prediction} − {target}, used for probabilities: "
                "it includes the derivative of a sigmoid",
                "A6",
            ),
            Slip(
                lambda p, t: -t / p, "has only one of the two terms, −{target}/{prediction}", "L6"
            ),
            Slip(
                lambda p, t: (1 - t) / (1 - p),
                "has only one of the two terms, (1 − {target})/(1 − {prediction})",
                "L6",
            ),
            Slip(
                lambda p, t: -t / p - (1 - t) / (1 - p),
                "has the wrong sign in the term (1 − {target})/(1 − {prediction})",
                "L6",
            ),
            Slip(
                lambda p, t: (p - t) * p * (1 - p),
                "is multiplied by the derivative of a sigmoid, {prediction}·(1 − {prediction}), "
                "not divided by it",
                "L2",
            ),
            Slip(lambda p, t: (p - t) / p, "lacks the factor 1/(1 − {prediction})", "L6"),
            Slip(lambda p, t: (p - t) / (1 - p), "lacks the factor 1/{prediction}", "L6"),
            Slip(lambda p, t: -t * np.log(p), "contains the logarithm, not its derivative", "L6"),
            Slip(
                lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)),
                "is the loss of each entry, not its derivative",
                "L6",
            ),
        ),
    ),
    Loss(
        lambda z, t: np.logaddexp(0, z) - t * z,
        lambda z, t: _sigmoid(z) - t,
        (
            Slip(
                lambda z, t: (_sigmoid(z) - t) * _sigmoid_slope(z),
                "contains the derivative of the sigmoid twice: σ − {target} already includes it",
                "L2",
            ),
            Slip(lambda z, t: _sigmoid(z), _NO_TARGET, "L6"),
            Slip(
                lambda z, t: z - t,
                "lacks the sigmoid: it is {prediction} − {target}, with the logits instead of "
                "the probabilities",
                "L6",
            ),
            Slip(
                lambda z, t: (_sigmoid(z) - t) / _sigmoid_slope(z),
                "is the gradient at the probabilities: the derivative of the sigmoid is missing",
                "A6",
            ),
            Slip(lambda z, t: -t * _sigmoid(-z), "has only one of the two terms", "L6"),
            Slip(lambda z, t: (1 - t) * _sigmoid(z), "has only one of the two terms", "L6"),
            Slip(
                lambda z, t: -t * _sigmoid(-z) - (1 - t) * _sigmoid(z),
                "has the wrong sign in the term with 1 − {target}",
                "L6",
            ),
            Slip(lambda z, t: _sigmoid(z) + t, _SUM, "L6"),
        ),
    ),
    Loss(
        lambda z, t: np.maximum(0, 1 - t * z),
        lambda z, t: -t * (t * z < 1),
        (
            Slip(
                lambda z, t: -t,
                "lets the gradient through outside the margin: the mask is missing",
                "A1",
            ),
            Slip(lambda z, t: -1.0 * (t * z < 1), "lacks the factor {target}"),
            Slip(lambda z, t: -t * (t * z > 1), "has the mask at the margin inverted", "A3"),
            Slip(lambda z, t: -t * (t * z < 0), "has the margin at 0, not at 1", "A3"),
            Slip(lambda z, t: -z * (t * z < 1), "contains {prediction} instead of {target}"),
        ),
    ),
    Loss(
        lambda z, t: np.maximum(0, 1 - t * z) ** 2,
        lambda z, t: -2 * t * np.maximum(0, 1 - t * z),
        (
            Slip(
                lambda z, t: -t * (t * z < 1),
                "lacks the factor from the derivative of the square",
                "L8",
            ),
            Slip(
                lambda z, t: -t * (1 - t * z), "lets the gradient through outside the margin", "A1"
            ),
            Slip(lambda z, t: -np.maximum(0, 1 - t * z), "lacks the factor {target}"),
        ),
    ),
    huber(1.0),
    Loss(
        lambda p, t: np.log(np.cosh(p - t)),
        lambda p, t: np.tanh(p - t),
        (
            Slip(lambda p, t: p - t, "is the error, without tanh", "L8"),
            Slip(lambda p, t: 1 - np.tanh(p - t) ** 2, "is the second derivative", "L8"),
            Slip(lambda p, t: np.sign(p - t), "contains only the sign of the error", "L8"),
        ),
    ),
    Loss(
        lambda p, t: t * (np.log(t + GUARD) - np.log(p)),
        lambda p, t: -t / p,
        (
            Slip(lambda p, t: -t, "lacks the factor 1/{prediction}", "L5"),
            Slip(lambda p, t: p - t, "is the formula for the logits, used for probabilities", "L2"),
            Slip(lambda p, t: np.log(p / t), "is the logarithm of {prediction}/{target}", "L5"),
            Slip(lambda p, t: np.log(p / t) + 1, "is the divergence in the other direction", "L5"),
        ),
    ),
    Loss(
        lambda p, t: p - t * np.log(p),
        lambda p, t: 1 - t / p,
        (
            Slip(lambda p, t: p - t, "lacks the factor 1/{prediction}"),
            Slip(lambda p, t: -t / p, "lacks the term 1"),
        ),
    ),
)
"""Losses of each entry of the prediction and of the target."""

OF_CLASSES = (
    Loss(
        lambda z, t: -(t * np.log(_softmax(z))).sum(-1),
        lambda z, t: _softmax(z) * t.sum(-1, keepdims=True) - t,
        (
            Slip(
                lambda z, t: _softmax(z),
                "lacks the one-hot target: it is softmax({prediction})",
                "L5",
            ),
            Slip(
                lambda z, t: _softmax(z) - 1,
                "subtracts 1 at every class, not only at the target's (the one-hot target)",
                "L5",
            ),
            Slip(
                lambda z, t: _softmax(z) + t,
                "adds the one-hot target to softmax({prediction}) instead of subtracting it: the "
                "sign is wrong",
                "L5",
            ),
            Slip(
                lambda z, t: (_softmax(z) - t) * _softmax(z) * (1 - _softmax(z)),
                "also contains the derivative of the output, p·(1 − p): p − {target} is already "
                "the gradient at the logits, so that derivative is applied twice",
                "L2",
            ),
            Slip(
                lambda z, t: _of_softmax(_softmax(z), _softmax(z) - t),
                "contains softmax's Jacobian twice: p − {target} is already the gradient at the "
                "logits",
                "L2",
            ),
            Slip(
                lambda z, t: -t / _softmax(z),
                "is the gradient at the probabilities, −{target}/p: softmax's Jacobian is missing",
                "L4",
            ),
            Slip(
                lambda z, t: -t * (1 - _softmax(z)),
                "is nonzero only at the target: it uses only the diagonal of softmax's Jacobian",
                "L1",
            ),
            Slip(lambda z, t: _softmax(_softmax(z)) - t, "applies softmax twice", "L3"),
            Slip(
                lambda z, t: _of_softmax(_softmax(z), _softmax(_softmax(z)) - t),
                "applies softmax twice",
                "L3",
            ),
            Slip(
                lambda z, t: z - t,
                "lacks softmax: it is {prediction} − {target}, logits instead of probabilities",
                "L5",
            ),
            Slip(
                lambda z, t: np.exp(z) - t,
                "uses exp({prediction}) instead of softmax: it is not normalised",
                "L5",
            ),
            Slip(lambda z, t: _sigmoid(z) - t, "uses a sigmoid instead of softmax", "L5"),
            Slip(
                lambda z, t: _softmax(z, 0) - t,
                "applies softmax along an axis other than that of the classes",
                "L5",
            ),
            Slip(
                lambda z, t: np.log(_softmax(z)) - t,
                "contains the logarithm of softmax instead of softmax",
                "L5",
            ),
            Slip(
                lambda z, t: np.where(t != 0, 0, _softmax(z)),
                "is zero at the target's class, where it should be p − 1 (the one-hot target)",
                "L5",
            ),
            Slip(lambda z, t: -t, "lacks softmax({prediction}): it contains only the target", "L5"),
        ),
    ),
    Loss(
        lambda p, t: -(t * np.log(p + GUARD)).sum(-1),
        lambda p, t: -t / p,
        (
            Slip(
                lambda p, t: -t,
                "lacks the factor 1/{prediction}, the derivative of the logarithm",
                "L5",
            ),
            Slip(
                lambda p, t: p - t,
                "is the formula for the logits, {prediction} − {target}, used for probabilities: "
                "it includes softmax's derivative",
                "L2",
            ),
            Slip(lambda p, t: -t * p, "is multiplied by {prediction}, not divided by it", "L5"),
            Slip(lambda p, t: -1 / p, "lacks the one-hot target: it is −1/{prediction}", "L5"),
            Slip(lambda p, t: -t * np.log(p), "is the loss, not its derivative", "L5"),
            Slip(lambda p, t: -np.log(p), "is −log({prediction}), not its derivative", "L5"),
            Slip(
                lambda p, t: (p - t) / (p * (1 - p)),
                "is the derivative of the binary cross-entropy: the term with 1 − {target} does "
                "not belong here",
                "L6",
            ),
            Slip(lambda p, t: -t / p**2, "is divided by {prediction} twice", "L5"),
        ),
    ),
    Loss(
        lambda p, t: -(t * p).sum(-1),
        lambda p, t: -t,
        (
            Slip(
                lambda p, t: np.exp(p) - t,
                "is the formula for the logits, which includes the derivative of log-softmax, used "
                "for log-probabilities",
                "L2",
            ),
            Slip(
                lambda p, t: -t / p,
                "is divided by {prediction}, which is already a logarithm",
                "L5",
            ),
            Slip(lambda p, t: -np.ones_like(t), "lacks the one-hot target", "L5"),
        ),
    ),
)
"""Losses of a distribution over classes, along the last axis."""
