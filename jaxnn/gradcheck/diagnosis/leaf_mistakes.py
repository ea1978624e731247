"""Mistakes that show in one leaf alone: its shape, a constant, zeros, a term of weight decay."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.arrays import relative_error
from jaxnn.gradcheck.diagnosis.tape import Gradients, Tape, is_weight


class Tolerance(NamedTuple):
    """Relative errors below which two gradients of one leaf are the same."""

    right: float  # a gradient and the truth
    match: float  # a gradient and the prediction of a mistake


TOLERANCES = {8: Tolerance(1e-9, 1e-9), 4: Tolerance(1e-5, 2e-5), 2: Tolerance(2e-2, 2e-2)}


class Key(NamedTuple):
    """A mistake in one leaf, with the constant that tells it from others of its kind."""

    id: str
    constant: float | None = None
    words: str = ""


def ratio(mine, base, truth, tolerance) -> float | None:
    """c where mine = c·base, closely and far more so than it is the truth."""
    if mine.shape != base.shape or not np.isfinite(base).all() or not np.isfinite(mine).all():
        return None
    square = np.vdot(base, base)
    if not square or not mine.any():
        return None
    c = float(np.vdot(base, mine) / square)
    off = np.linalg.norm(mine - c * base)
    if off > tolerance.match * np.linalg.norm(mine):
        return None
    if mine.shape == truth.shape and off > 1e-2 * np.linalg.norm(mine - truth):
        return None
    return c


def leaf_mistakes(
    tape: Tape, base: Gradients, i: int, mine, constants, tolerance
) -> Iterator[frozenset[Key]]:
    """The sets of mistakes in one leaf alone that turn the base into the gradient in question."""
    value, delta = base.leaves[i], base.deltas[i]
    if relative_error(mine, value) <= tolerance.match:
        yield frozenset()
        return
    if not np.isfinite(mine).all():
        first = tuple(map(int, np.argwhere(~np.isfinite(mine))[0]))
        yield frozenset([Key("Z2", None, f"{mine[first]} at index {first}")])
        return
    if not mine.any() and mine.shape == value.shape:
        yield frozenset([Key("Z1")])
        return
    if delta is not None and np.linalg.norm(mine) <= 1e-12 * np.linalg.norm(delta):
        shapes = {key for key, predicted in _shapes(value, delta) if predicted.shape == mine.shape}
        yield from (frozenset([key]) for key in shapes if key)
        return
    for shape_key, predicted in _shapes(value, delta):
        if predicted.shape != mine.shape:
            continue
        c = ratio(mine, predicted, tape.truth.leaves[i], tolerance)
        if c is None:
            continue
        scales = list(_scales(c, constants, tolerance))
        for scale in scales:
            yield frozenset(k for k in (shape_key, scale) if k is not None)
    if mine.shape != value.shape:
        return
    if tape.weight_decay and is_weight(tape.paths[i]):
        decay = tape.weight_decay * tape.params[i]
        c = ratio(mine - decay, value - decay, tape.truth.leaves[i] - decay, tolerance)
        if c is not None:
            for scale in _scales(c, constants, tolerance):
                yield frozenset([scale] if scale else [])
    if _is_partly_zero(mine, value, tolerance):
        yield frozenset([Key("Z3")])
    for scale in (None, *constants[0]):
        c = _decay_constant(
            mine, scale.constant * value if scale else value, tape.params[i], tolerance
        )
        if c is not None:
            yield frozenset(key for key in (Key("R1", c), scale) if key)


def _shapes(value, delta):
    """A leaf, and the same leaf under each mistake of shape."""
    yield None, value
    if value.ndim == 2:
        yield Key("S1"), value.T
    if value.ndim == 1 and delta is not None:
        width = value.size
        yield Key("S2"), delta
        yield Key("S3"), delta.sum(axis=1)
        yield Key("S3"), delta.sum()
        if width > 1:
            yield Key("S3"), delta.sum(axis=1, keepdims=True)
            yield Key("S3"), delta.mean(axis=1)
            yield Key("S3"), delta.mean(axis=1, keepdims=True)
            for shape in ((1,), (1, 1), (width,)):
                yield Key("S3"), np.full(shape, delta.sum())
            yield Key("S3"), delta.sum() / width
    if value.ndim == 1:
        yield Key("S4"), value[None]
        yield Key("S4"), value[:, None]


def _scales(c, constants, tolerance):
    """The constants that a ratio may be; `None` for 1."""
    near = max(tolerance.match, 1e-8)
    if abs(c - 1) <= near:
        yield None
        return
    for level in constants:
        found = {key.id: key for key in level if abs(c / key.constant - 1) <= near}
        if "C8" in found and near > 1e-3:
            return
        if found:
            yield from found.values()
            return


def known_constants(tape: Tape) -> tuple[list[Key], list[Key]]:
    """The constants with a meaning, and products of several."""
    n, k, eta = tape.n, tape.k, tape.learning_rate
    named = [
        Key("C1", -1.0, "−1"),
        Key("C2", n, "the batch size"),
        Key("C3", 1 / n, "one over the batch size"),
        Key("C5", 2.0, "2"),
        Key("C5", 0.5, "½"),
    ]
    if k > 1:
        named += [
            Key("C6", k, "the number of outputs"),
            Key("C6", 1 / k, "one over the number of outputs"),
            Key("C6", n * k, "the batch size times the number of outputs"),
            Key("C6", 1 / (n * k), "one over the batch size times the number of outputs"),
        ]
    if eta:
        named += [Key("C7", eta, "the learning rate"), Key("C7", -eta, "minus the learning rate")]
    factors = [(2.0, "2", 3), (n, "N", 2), (k, "K", 2), (eta or 1.0, "η", 1)]
    several = []
    for sign, *powers in product((1, -1), *(range(-most, most + 1) for *_, most in factors)):
        if sum(map(abs, powers)) <= 3 + (sign < 0):
            constant, words = float(sign), "−" * (sign < 0)
            for (factor, name, _), power in zip(factors, powers, strict=True):
                constant *= factor**power
                words += f"·{name}" * (power != 0) + (f"^{power}" if power not in (0, 1) else "")
            words = words.lstrip("·").replace("−·", "−")
            if abs(constant) != 1 or words == "−":
                several.append(Key("C8", constant, words))
    several.sort(key=lambda key: len(key.words))
    return [key for key in named if key.constant != 1], several


def _is_partly_zero(mine, value, tolerance) -> bool:
    """Whether some rows or columns are zero and all others right."""
    for axis in range(value.ndim):
        others = tuple(a for a in range(value.ndim) if a != axis)
        empty = ~mine.any(axis=others) & value.any(axis=others)
        if empty.any() and not empty.all():
            nonzero = np.where(np.expand_dims(empty, others), 0, value)
            if relative_error(mine, nonzero) <= tolerance.match:
                return True
    return False


def _decay_constant(mine, value, theta, tolerance) -> float | None:
    """c, to three digits, where mine = value + c·θ."""
    square = np.vdot(theta, theta)
    if not square:
        return None
    difference = mine - value
    c = float(np.vdot(theta, difference) / square)
    off = np.linalg.norm(difference - c * theta)
    if off > tolerance.match * np.linalg.norm(value):
        return None
    if off > np.sqrt(tolerance.match) * np.linalg.norm(difference):
        return None
    return float(f"{c:.3g}")
