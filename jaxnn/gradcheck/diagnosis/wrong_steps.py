"""Wrong steps of a backward pass: past an activation, and from the loss to the last layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.gradcheck.diagnosis.tape import Stage, Tape
from jaxnn.ops._common.elementwise import ElementwiseOp


def _sigma(v):
    return 1 / (1 + np.exp(-v))


def slope_from_output(stage: Stage, a: np.ndarray) -> np.ndarray:
    """f' by its formula in a = f(z), for any a; NaN if there is no such formula."""
    formula = stage.op.slope_of_output if isinstance(stage.op, ElementwiseOp) else None
    if formula is None:
        return np.full_like(a, np.nan)
    with jax.enable_x64(True):
        return np.asarray(formula(a))


def _complement(slope: np.ndarray) -> np.ndarray:
    return slope.max() + slope.min() - slope


def _square_slope(v):
    return v * (1 - v)


ACTIVATION = (
    ("A1", "f' is missing", lambda f, dy: dy),
    ("A2", "f'(f(z))", lambda f, dy: f.slope_at(f.y) * dy),
    ("A2", "the formula in a, fed z", lambda f, dy: slope_from_output(f, f.x) * dy),
    ("A2", "a(1 − a) formula, fed z", lambda f, dy: _square_slope(f.x) * dy),
    ("A3", "f(z)", lambda f, dy: f.y * dy),
    ("A3", "f'(z)²", lambda f, dy: f.slope**2 * dy),
    ("A3", "1 − f'(z)", lambda f, dy: (1 - f.slope) * dy),
    ("A3", "the two slopes swapped", lambda f, dy: _complement(f.slope) * dy),
    ("A4", "passes where dy > 0", lambda f, dy: np.where(dy > 0, dy, 0)),
    ("A4", "f'(dy)", lambda f, dy: f.slope_at(dy) * dy if f.is_mask else dy + np.nan),
    ("A4", "passes where dy > 0, times f'", lambda f, dy: np.where(dy > 0, f.slope * dy, 0)),
    ("A5", "dy(1 − dy)", lambda f, dy: _square_slope(dy) * dy),
    ("A5", "σ'(dy)", lambda f, dy: _square_slope(_sigma(dy)) * dy),
    ("A5", "the formula in a, fed dy", lambda f, dy: slope_from_output(f, dy) * dy),
    ("A5", "f'(dy)", lambda f, dy: f.slope_at(dy) * dy if not f.is_mask else dy + np.nan),
)
"""Wrong ways back through y = f(z): the mistake, the variant, and `(stage, dy) -> dx`."""


class Output(NamedTuple):
    """The output end of a network, from which a wrong δ at z is computed.

    Attributes:
        z: the output of the last layer with parameters.
        p: the prediction.
        y: the target.
        w: 1/N, or 1 for a sum.
        g: ∂L/∂p, with w.
        two: 2 for the squared error, 1 for half of it.
        through: from a gradient at p to the one at z.
    """

    z: np.ndarray
    p: np.ndarray
    y: np.ndarray
    w: Any
    g: np.ndarray
    two: float
    through: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, tape: Tape) -> "Output":
        """The output end of a recorded network."""
        return cls(
            z=tape.z,
            p=tape.prediction,
            y=tape.target,
            w=tape.weight if np.ndim(tape.weight) == 0 else tape.weight[..., None],
            g=tape.g,
            two=1.0 if tape.halves_error else 2.0,
            through=tape.through_output,
        )

    @property
    def e(self) -> np.ndarray:
        """The error p − y."""
        return self.p - self.y


def _softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _jacobian(p, v, axis=-1):
    """The transposed Jacobian of softmax times v."""
    return p * (v - (p * v).sum(axis=axis, keepdims=True))


def _batch_softmax_delta(o):
    q = _softmax(o.z, axis=0)
    return o.w * _jacobian(q, -o.y / q, axis=0)


def _cross_entropy_delta(o):
    """p − y, which is cross-entropy's only where p = σ(z)."""
    is_sigmoid = np.allclose(o.p, _sigma(o.z), rtol=1e-12, atol=0)
    return o.w * o.e if is_sigmoid else o.e + np.nan


def _squared_loss(o: Output) -> float:
    """The loss of a squared error."""
    return float(o.w * o.two / 2 * (o.e**2).sum())


def _labels(y):
    return y.argmax(axis=-1)[..., None]


SOFTMAX = (
    ("L1", "g ⊙ p(1 − p)", lambda o: -o.w * o.y * (1 - o.p)),
    ("L2", "softmax's Jacobian again", lambda o: o.w * _jacobian(o.p, o.e)),
    ("L2", "times p(1 − p)", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L2", "times σ'(z)", lambda o: o.w * o.e * _square_slope(_sigma(o.z))),
    ("L3", "softmax(p) − y", lambda o: o.w * (_softmax(o.p) - o.y)),
    ("L3", "its whole derivative", lambda o: o.w * _jacobian(o.p, _softmax(o.p) - o.y)),
    ("L4", "−y/p", lambda o: o.g),
    ("L5", "p − 1", lambda o: o.w * (o.p - 1)),
    ("L5", "p − label", lambda o: o.w * (o.p - _labels(o.y))),
    ("L5", "p", lambda o: o.w * o.p),
    ("L5", "no log", lambda o: o.w * _jacobian(o.p, -o.y)),
    ("L5", "e^z − y", lambda o: o.w * (np.exp(o.z) - o.y)),
    (
        "L5",
        "e^(z − max z) − y",
        lambda o: o.w * (np.exp(o.z - o.z.max(axis=-1, keepdims=True)) - o.y),
    ),
    ("L5", "σ(z) − y", lambda o: o.w * (_sigma(o.z) - o.y)),
    ("L5", "softmax over the batch − y", lambda o: o.w * (_softmax(o.z, axis=0) - o.y)),
    ("L5", "softmax over the batch", _batch_softmax_delta),
    ("L5", "softmax over everything", lambda o: o.w * (_softmax(o.z, axis=None) - o.y)),
    ("A5", "e(1 − e)", lambda o: o.w * o.e * _square_slope(o.e)),
)

SIGMOID = (
    ("L2", "times p(1 − p)", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L2", "times σ'(p)", lambda o: o.w * o.e * _square_slope(_sigma(o.p))),
    ("L3", "σ(p) − y", lambda o: o.w * (_sigma(o.p) - o.y)),
    ("L3", "its whole derivative", lambda o: o.w * (_sigma(o.p) - o.y) * o.p * (1 - o.p)),
    ("L5", "no log", lambda o: o.w * (1 - 2 * o.y) * o.p * (1 - o.p)),
    ("L5", "softmax for σ", lambda o: o.w * (_softmax(o.z) - o.y)),
    ("L6", "only the term of y", lambda o: -o.w * o.y * (1 - o.p)),
    ("L6", "only the term of y, as −y/p", lambda o: -o.w * o.y / o.p),
    ("L6", "only the term of 1 − y", lambda o: o.w * (1 - o.y) * o.p),
    ("L6", "a minus between the terms", lambda o: -o.w * (o.y * (1 - o.p) + (1 - o.y) * o.p)),
    ("L6", "a plus between the terms", lambda o: o.w * (o.y * (1 - o.p) + (1 - o.y) * o.p)),
    ("L6", "squared error", lambda o: 2 * o.w * o.e * o.p * (1 - o.p)),
    ("L6", "half the squared error", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("A5", "e(1 − e)", lambda o: o.w * o.e * _square_slope(o.e)),
    ("A5", "(−e)(1 + e)", lambda o: o.w * o.e * _square_slope(-o.e)),
)

SQUARED = (
    ("L8", "e²", lambda o: o.through(o.w * o.e**2)),
    ("L8", "the loss, ½e²", lambda o: o.through(o.w * o.e**2 * o.two / 2)),
    ("L8", "sign(e)", lambda o: o.through(o.w * np.sign(o.e))),
    ("L8", "|e|", lambda o: o.through(o.w * np.abs(o.e))),
    ("L8", "√ of the loss", lambda o: o.through(o.g) / (2 * np.sqrt(_squared_loss(o)))),
    (
        "L8",
        "√ of the mean of e²",
        lambda o: o.through(o.e) * o.w / np.sqrt(_squared_loss(o) * 2 / o.two),
    ),
    (
        "L8",
        "√ of the mean of e² over the outputs too",
        lambda o: o.through(o.e) * o.w / np.sqrt(_squared_loss(o) * 2 / o.two * o.e.shape[-1]),
    ),
    (
        "L8",
        "the norm of each error",
        lambda o: o.through(o.w * o.e / np.linalg.norm(o.e, axis=-1, keepdims=True)),
    ),
    ("L6", "cross-entropy's p − y", _cross_entropy_delta),
    ("A5", "e(1 − e)", lambda o: o.g * _square_slope(o.e)),
    ("A5", "(−e)(1 + e)", lambda o: o.g * _square_slope(-o.e)),
    ("A5", "e'(1 − e') with e' = ∂L/∂ŷ", lambda o: o.g * _square_slope(o.g)),
    ("A5", "the same before the mean", lambda o: o.g * _square_slope(o.two * o.e)),
    ("A5", "σ'(e)", lambda o: o.g * _square_slope(_sigma(o.e))),
    ("A5", "σ'(∂L/∂ŷ)", lambda o: o.g * _square_slope(_sigma(o.g))),
)

OUTPUT = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "squared": SQUARED}
"""Wrong beginnings of the backward pass by family: mistake, variant, and `(output) -> δ at z`."""
