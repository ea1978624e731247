"""Wrong beginnings of the backward pass: from the loss to δ at the output."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph, Output, backward, sigmoid, softmax
from jaxnn.gradcheck.diagnosis.keys import Key
from jaxnn.gradcheck.diagnosis.nodes import as_rows
from jaxnn.gradcheck.diagnosis.wrong_steps import slope_of_output

EXAMPLES = 64  # up to which each example is tried as the only or the missing one
COARSE = 1e-3  # the relative error above which nothing can be read
CLASSES = 16  # up to which each shift of the classes is tried


class Beginning(NamedTuple):
    """A wrong δ.

    Attributes:
        key: the mistake.
        position: the position of the step whose output it belongs to.
        delta: the gradient of that output.
    """

    key: Key
    position: int
    delta: np.ndarray


def _jacobian(p, v, axis=-1):
    """The transposed Jacobian of softmax times v."""
    return p * (v - (p * v).sum(axis=axis, keepdims=True))


def _square_slope(v):
    return v * (1 - v)


def _sigmoid_slope(v):
    return _square_slope(sigmoid(v))


def _batch_softmax_delta(o):
    q = softmax(o.z, axis=0)
    return o.w * _jacobian(q, -o.y / q, axis=0)


def _labels(y):
    return y.argmax(axis=-1)[..., None]


def _squared_loss(o: Output) -> float:
    """The loss of a squared error."""
    return float((o.w * o.two / 2 * o.e**2).sum())


def _norms(e):
    return np.linalg.norm(e, axis=-1, keepdims=True)


PROBABILITIES = (
    ("A5", "the error e(1 − e)", lambda o: o.w * o.e * _square_slope(o.e)),
    ("A5", "the error e(1 − e), of y − p", lambda o: o.w * o.e * _square_slope(-o.e)),
    ("L5", "(p − y)²", lambda o: o.w * o.e**2),
    ("L5", "the sign of p − y", lambda o: o.w * np.sign(o.e)),
    ("L5", "|p − y|", lambda o: o.w * np.abs(o.e)),
    ("L5", "p(1 − p) alone", lambda o: o.w * o.p * (1 - o.p)),
    ("L5", "z − y, without probabilities", lambda o: o.w * (o.z - o.y)),
    ("L5", "log p − y", lambda o: o.w * (np.log(o.p) - o.y)),
    ("L5", "1/p", lambda o: o.w / o.p),
    ("L5", "y/p with p − y", lambda o: o.w * (o.p - o.y / o.p)),
)

SOFTMAX = (
    ("L1", "g ⊙ p(1 − p)", lambda o: -o.w * o.y * (1 - o.p)),
    ("L1", "g ⊙ p(1 − p) with g = p − y", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L2", "softmax's Jacobian once more", lambda o: o.w * _jacobian(o.p, o.e)),
    ("L2", "times p(1 − p)", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L5", "times p", lambda o: o.w * o.e * o.p),
    ("L2", "times σ'(z)", lambda o: o.w * o.e * _sigmoid_slope(o.z)),
    ("L2", "times 1 − p²", lambda o: o.w * o.e * (1 - o.p**2)),
    ("L3", "softmax(p) − y", lambda o: o.w * (softmax(o.p) - o.y)),
    ("L3", "with softmax's Jacobian", lambda o: o.w * _jacobian(o.p, softmax(o.p) - o.y)),
    ("L4", "−y/p", lambda o: o.g),
    ("L4", "−y/p and (1 − y)/(1 − p)", lambda o: o.w * o.e / (o.p * (1 - o.p))),
    ("L5", "p − 1", lambda o: o.w * (o.p - 1)),
    ("L5", "p − label", lambda o: o.w * (o.p - _labels(o.y))),
    ("L5", "the target is missing from p − y", lambda o: o.w * o.p),
    ("L5", "p, and 0 at the label", lambda o: o.w * o.p * (o.y == 0)),
    ("L5", "no logarithm", lambda o: o.w * _jacobian(o.p, -o.y)),
    ("L5", "e^z − y", lambda o: o.w * (np.exp(o.z) - o.y)),
    (
        "L5",
        "e^(z − max z) − y",
        lambda o: o.w * (np.exp(o.z - o.z.max(axis=-1, keepdims=True)) - o.y),
    ),
    ("L5", "σ(z) − y", lambda o: o.w * (sigmoid(o.z) - o.y)),
    ("L5", "softmax over the batch − y", lambda o: o.w * (softmax(o.z, axis=0) - o.y)),
    ("L5", "softmax over the batch", _batch_softmax_delta),
    ("L5", "softmax over everything", lambda o: o.w * (softmax(o.z, axis=None) - o.y)),
    ("L5", "−log p at the label", lambda o: -o.w * o.y * np.log(o.p)),
    ("L5", "the squared error of p", lambda o: 2 * o.w * _jacobian(o.p, o.e)),
    ("L5", "the squared error of p with σ'", lambda o: 2 * o.w * o.e * o.p * (1 - o.p)),
    *PROBABILITIES,
)

SIGMOID = (
    ("A6", "∂L/∂p", lambda o: o.g),
    ("L2", "times p(1 − p)", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L2", "times σ'(p)", lambda o: o.w * o.e * _sigmoid_slope(o.p)),
    ("L2", "times p(1 − p), twice", lambda o: o.w * o.e * (o.p * (1 - o.p)) ** 2),
    ("L6", "times p", lambda o: o.w * o.e * o.p),
    ("L2", "times 1 − p²", lambda o: o.w * o.e * (1 - o.p**2)),
    ("L3", "σ(p) − y", lambda o: o.w * (sigmoid(o.p) - o.y)),
    ("L3", "with σ'", lambda o: o.w * (sigmoid(o.p) - o.y) * o.p * (1 - o.p)),
    ("L6", "no logarithm", lambda o: o.w * (1 - 2 * o.y) * o.p * (1 - o.p)),
    ("L6", "softmax instead of σ", lambda o: o.w * (softmax(o.z) - o.y)),
    ("L6", "tanh(z) − y", lambda o: o.w * (np.tanh(o.z) - o.y)),
    ("L6", "only the term of y", lambda o: -o.w * o.y * (1 - o.p)),
    ("L6", "only the term of y, as −y/p", lambda o: -o.w * o.y / o.p),
    ("L6", "only the term of 1 − y", lambda o: o.w * (1 - o.y) * o.p),
    ("L6", "only the term of 1 − y, as 1/(1 − p)", lambda o: o.w * (1 - o.y) / (1 - o.p)),
    ("L6", "a minus between the terms", lambda o: -o.w * (o.y * (1 - o.p) + (1 - o.y) * o.p)),
    (
        "L6",
        "−y/p − (1 − y)/(1 − p)",
        lambda o: -o.w * (o.y / o.p + (1 - o.y) / (1 - o.p)),
    ),
    ("L6", "the target is missing from p − y", lambda o: o.w * o.p),
    ("L6", "y and 1 − y swapped", lambda o: o.w * (o.p - (1 - o.y))),
    ("L6", "half the squared error", lambda o: o.w * o.e * o.p * (1 - o.p)),
    ("L6", "the squared error", lambda o: 2 * o.w * o.e * o.p * (1 - o.p)),
    *((mistake.replace("L5", "L6"), words, delta) for mistake, words, delta in PROBABILITIES),
)

ERRORS = (
    ("L8", "e", lambda o: o.w * o.e),
    ("L8", "the target is missing from ŷ − y", lambda o: o.two * o.w * o.p),
    ("L8", "e²", lambda o: o.w * o.e**2),
    ("L8", "e³", lambda o: o.w * o.e**3),
    ("L8", "sign(e)", lambda o: o.w * np.sign(o.e)),
    ("L8", "|e|", lambda o: o.w * np.abs(o.e)),
    ("L8", "tanh(e)", lambda o: o.w * np.tanh(o.e)),
    ("L8", "e clipped to ±1", lambda o: o.w * np.clip(o.e, -1, 1)),
    ("L8", "e clipped to ±1, kept inside", lambda o: o.w * np.where(abs(o.e) > 1, 0, o.e)),
    ("L8", "the norm of each error", lambda o: o.w * o.e / _norms(o.e)),
)
"""Wrong ∂L/∂ŷ at the prediction, for any loss."""

SQUARED = (
    (
        "L8",
        "the root of the loss",
        lambda o: o.through(o.g) / (2 * np.sqrt(_squared_loss(o))),
    ),
    (
        "L8",
        "the root of the mean of e²",
        lambda o: o.through(o.e) * o.w / np.sqrt(_squared_loss(o) * 2 / o.two),
    ),
    (
        "L8",
        "the root of the mean of e² over the outputs too",
        lambda o: o.through(o.e) * o.w / np.sqrt(_squared_loss(o) * 2 / o.two * o.e.shape[-1]),
    ),
    ("L6", "the cross-entropy's p − y", lambda o: _cross_entropy_delta(o)),
    ("L6", "the cross-entropy's ∂L/∂p", lambda o: o.through(o.w * o.e / (o.p * (1 - o.p)))),
    ("A5", "the error e(1 − e)", lambda o: o.g * _square_slope(o.e)),
    ("A5", "the error e(1 − e), of y − ŷ", lambda o: o.g * _square_slope(-o.e)),
    ("A5", "∂L/∂ŷ", lambda o: o.g * _square_slope(o.g)),
    ("A5", "∂L/∂ŷ before the mean", lambda o: o.g * _square_slope(o.two * o.e)),
    ("A5", "σ' of the error", lambda o: o.g * _sigmoid_slope(o.e)),
    ("A5", "σ' of ∂L/∂ŷ", lambda o: o.g * _sigmoid_slope(o.g)),
)

FAMILIES = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "squared": SQUARED, "": ()}
"""Wrong δ at z of each family: the mistake, the variant, and `(output) -> δ`."""

OTHER_LOSSES = {"softmax": "L5", "sigmoid": "L6", "squared": "L8", "": "L8"}
"""The mistake of using the wrong loss, by family."""


def _cross_entropy_delta(o):
    """p − y, which is cross-entropy's only where p = σ(z)."""
    is_sigmoid = np.allclose(o.p, sigmoid(o.z), rtol=1e-12, atol=0)
    return o.w * o.e if is_sigmoid else o.e + np.nan


def beginnings(graph: Graph) -> Iterator[Beginning]:
    """The wrong beginnings that do not depend on the gradient under test."""
    truths = {i: graph.deltas[i] for i in (graph.end, graph.z)}
    with np.errstate(all="ignore"):
        for beginning in _all(graph):
            delta, right = beginning.delta, truths[beginning.position]
            if delta.shape != right.shape or not np.isfinite(delta).all():
                continue
            c = np.vdot(right, delta) / np.vdot(right, right)
            if np.linalg.norm(delta - c * right) > 1e-8 * np.linalg.norm(delta):
                yield beginning


def _all(graph: Graph) -> Iterator[Beginning]:
    end, z = graph.end, graph.z
    if graph.output is not None:
        for mistake, words, delta in FAMILIES[graph.output.family]:
            yield Beginning(Key(mistake, words), z, delta(graph.output))
        if graph.output.family in ("", "squared"):
            for mistake, words, g in ERRORS:
                yield Beginning(Key(mistake, words), end, g(graph.output))
        if graph.output.family == "squared":
            yield from _derivatives_of_error(graph, graph.output)
    for key, target in _targets(graph):
        yield Beginning(key, end, graph.dloss(target))
    yield Beginning(Key("B1", "1"), end, np.ones_like(graph.deltas[end]))
    for key, rows in _of_examples(graph):
        yield Beginning(key, z, graph.deltas[z] * rows)


def _derivatives_of_error(graph: Graph, o: Output) -> Iterator[Beginning]:
    """f' of the error at the output's activation."""
    for node in graph.nodes[graph.z + 1 :]:
        if node.slope is None or node.is_mask or node.is_identity:
            continue
        for e in (o.e, -o.e, o.two * o.e, -o.g):
            for slope in (slope_of_output(node, e), node.slope_at(e)):
                yield Beginning(Key("A5", "the error"), graph.z, o.g * slope)


def _targets(graph: Graph) -> Iterator[tuple[Key, np.ndarray]]:
    """Wrong targets."""
    target = graph.target
    if not isinstance(target, np.ndarray) or target.ndim == 0:
        return
    shifts = range(1, len(target)) if len(target) <= EXAMPLES else (1, -1)
    for shift in shifts:
        by = min(shift, shift - len(target), key=abs)
        yield Key("D3", f"the targets are shifted by {by}"), np.roll(target, shift, axis=0)
    yield Key("D3", "the targets are in reverse order"), target[::-1].copy()
    floating = np.issubdtype(target.dtype, np.floating)
    if floating and target.ndim > 1:
        for axis, words in ((0, "over the batch"), (None, "over everything")):
            mean = target.mean(axis, keepdims=True)
            yield Key("L7", f"the mean {words}"), np.broadcast_to(mean, target.shape).copy()
        if graph.k > 1:
            mean = target.mean(-1, keepdims=True)
            yield Key("L7", "the mean over outputs"), np.broadcast_to(mean, target.shape).copy()
            mistake = OTHER_LOSSES[graph.output.family if graph.output else ""]
            for shift in range(1, min(graph.k, CLASSES)):
                words = f"the columns of the target are shifted by {shift}"
                yield Key(mistake, words), np.roll(target, shift, axis=-1)
            words = "the columns of the target are in reverse order"
            yield Key(mistake, words), target[..., ::-1].copy()
    if not floating:
        for shift in range(1, min(graph.k, CLASSES)):
            yield Key("L5", "the classes are shifted"), (target + shift) % graph.k
        yield Key("L5", "the classes are in reverse order"), graph.k - 1 - target


def _of_examples(graph: Graph) -> Iterator[tuple[Key, np.ndarray]]:
    """A factor for each row of δ: only one example, or one missing."""
    delta = graph.deltas[graph.z]
    n = len(delta)
    shape = (n,) + (1,) * (delta.ndim - 1)
    for i in range(n) if 1 < n <= EXAMPLES else ():
        only = np.arange(n).reshape(shape) == i
        yield Key("D5", f"only example {i} is included"), 1.0 * only
        if n > 2:
            yield Key("D5", f"example {i} is missing"), 1.0 * ~only
            yield Key("D9", f"example {i} counts twice"), 1.0 + only
            if 1 < i < n - 1:
                before = np.arange(n).reshape(shape) < i
                yield Key("D5", f"only the first {i} examples are included"), 1.0 * before
                yield Key("D5", f"the first {i} examples are missing"), 1.0 * ~before
    if graph.weights is not None and graph.weights.shape == (n,):
        with np.errstate(all="ignore"):
            yield (
                Key("D9", "the weights of the examples are missing"),
                (1 / graph.weights).reshape(shape),
            )
            yield (
                Key("D9", "the weights of the examples are applied twice"),
                graph.weights.reshape(shape),
            )


def readings(graph: Graph, mine, match: float, base=None) -> Iterator[Beginning]:
    """Wrong beginnings read from the gradient of the last linear layer.

    Args:
        graph: the graph of the network.
        mine: the gradients under test.
        match: the relative error up to which two gradients are equal.
        base: δ at z, whose rows or columns may be weighted; by default the true δ.
    """
    node = graph.nodes[graph.z]
    if node.linear is None or match > COARSE:
        return
    near = max(1e-6, 100 * match)
    places = node.places_of_leaves
    chosen = [j for j, place in enumerate(places) if _fits(mine[graph.leaf_of(place)], place)]
    if node.linear.w not in chosen:
        return
    leaves = [graph.leaf_of(places[j]) for j in chosen]
    wanted = _in_a_row(mine[i] - graph.decay(i) for i in leaves)
    of_softmax = graph.output is not None and graph.output.family == "softmax"
    n_equations = len(wanted) * (1 - of_softmax / graph.k)  # a row of p − y sums to 0

    def fit(deltas):
        gradients = [node.linear_gradient(node.x[0], delta) for delta in deltas]
        columns = [_in_a_row(grads[j] for j in chosen) for grads in gradients]
        return _fit(columns, wanted, n_equations, match)

    delta = graph.deltas[graph.z] if base is None else base
    rows, columns = as_rows(delta), np.eye(delta.shape[-1])
    alone = [np.where(np.arange(len(rows))[:, None] == n, rows, 0) for n in range(len(rows))]
    weights = fit(alone)
    if weights is None and base is None and len(rows) <= EXAMPLES:
        weights = _fit_everywhere(graph, mine, alone, match)
    if weights is not None and (key := _key_of_rows(weights, near)) is not None:
        yield Beginning(
            key, graph.z, (weights[:, None] / _scale(weights) * rows).reshape(delta.shape)
        )
    weights = fit([rows * column for column in columns]) if rows.any(axis=1).sum() > 1 else None
    if weights is not None and np.ptp(weights) > near * np.abs(weights).max():
        told = ", ".join(f"{w / _scale(weights):.3g}" for w in weights[:8])
        words = f"the outputs have the weights {told}"
        yield Beginning(Key("D9", words), graph.z, delta * weights / _scale(weights))
    if base is None:
        yield from _of_prediction_and_target(graph, fit, near)


def _fits(mine, place) -> bool:
    return mine is not None and mine.shape == place.shape and bool(np.isfinite(mine).all())


def _in_a_row(arrays) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def _fit_everywhere(graph: Graph, mine, deltas, match) -> np.ndarray | None:
    """The coefficients with which these δ at z combine to the gradients of all leaves."""
    if not all(_fits(m, leaf) for m, leaf in zip(mine, graph.params, strict=True)):
        return None
    shape = graph.deltas[graph.z].shape
    columns = [_in_a_row(backward(graph, graph.z, d.reshape(shape))[0]) for d in deltas]
    wanted = _in_a_row(m - graph.decay(i) for i, m in enumerate(mine))
    return _fit(columns, wanted, len(wanted), match)


def _fit(columns, wanted, n_equations, match) -> np.ndarray | None:
    """The coefficients with which these columns combine to a gradient, if the fit is close."""
    if len(columns) + 2 > n_equations:
        return None
    matrix = np.stack(columns, axis=1)
    if not np.isfinite(matrix).all():
        return None
    found, _, rank, _ = np.linalg.lstsq(matrix, wanted, rcond=1e-9)
    off = np.linalg.norm(matrix @ found - wanted)
    if rank < len(columns) or off > match * np.linalg.norm(wanted) or not np.any(found):
        return None
    return found


def _scale(weights) -> float:
    """The most common nonzero weight; 1 if all of several differ."""
    seen = weights[np.abs(weights) > 1e-6 * np.abs(weights).max()]
    counts = [np.sum(np.isclose(seen, w, rtol=1e-6)) for w in seen]
    most = int(np.argmax(counts))
    return float(seen[most]) if counts[most] > 1 or len(seen) == 1 else 1.0


def _key_of_rows(weights, near) -> Key | None:
    """The mistake that weights the examples like this."""
    relative = weights / _scale(weights)
    if np.allclose(relative, 1, atol=near):
        return None
    missing = np.flatnonzero(np.abs(relative) < near)
    others = np.flatnonzero(~np.isclose(relative, 1, rtol=near) & (np.abs(relative) >= near))
    if missing.size and not others.size:
        if len(weights) - missing.size == 1:
            return Key("D5", f"only example {int(np.argmax(np.abs(relative)))} is included")
        kept = len(weights) - missing.size
        several = f"{missing.size} examples are missing, such as example {missing[0]}"
        words = f"example {missing[0]} is missing" if missing.size == 1 else several
        return Key("D5", words if kept > 1 else f"only one of {len(weights)} examples is included")
    shown = np.where(np.abs(relative) < near, 0, relative)[:8]
    told = ", ".join(f"{w:.3g}" for w in shown) + ", …" * (len(relative) > 8)
    return Key("D9", f"the examples have the weights {told}")


def _of_prediction_and_target(graph: Graph, fit, near) -> Iterator[Beginning]:
    """δ = α·p + β·y + γ with numbers other than 1, −1 and 0."""
    o = graph.output
    if o is None or o.family == "":
        return
    factor = o.w * o.two
    parts = [o.p, o.y, np.ones_like(o.p)]
    if o.family == "squared":
        parts = [o.through(factor * part) for part in parts]
    else:
        parts = [factor * part for part in parts]
    coefficients = fit([as_rows(part) for part in parts])
    if coefficients is None:
        return
    key = _key_of_parts(coefficients, o, graph.k, near)
    if key is not None:
        of_p, of_y, _ = coefficients
        scale = of_p if abs(of_p) > near * np.abs(coefficients).max() else -of_y
        delta = sum(c / scale * part for c, part in zip(coefficients, parts, strict=True))
        yield Beginning(key, graph.z, delta)


def _key_of_parts(coefficients, o: Output, k: int, near: float) -> Key | None:
    """The mistake behind α·p + β·y + γ."""
    mistake = OTHER_LOSSES[o.family]
    p = "ŷ" if o.family == "squared" else "p"
    alpha, beta, gamma = np.where(
        np.abs(coefficients) < near * np.abs(coefficients).max(), 0, coefficients
    )
    if alpha == 0:
        return Key(mistake, f"{p} is missing from {p} − y") if gamma == 0 else None
    beta, gamma = beta / alpha, gamma / alpha
    if gamma == 0:
        if abs(beta + 1) < near:
            return None
        if beta == 0:
            return Key(mistake, f"the target is missing from {p} − y")
        if abs(beta - 1) < near:
            return Key(mistake, f"{p} + y instead of {p} − y")
        return Key(mistake, f"{p} − {-beta:.4g}·y instead of {p} − y")
    smoothing = 1 + beta
    if abs(gamma + smoothing / k) < near and o.family == "softmax":
        return Key("L10", f"the labels are smoothed by {smoothing:.4g}")
    if abs(gamma + smoothing / 2) < near and o.family == "sigmoid":
        return Key("L10", f"the labels are smoothed by {smoothing:.4g}")
    told = f"{p} {-1 * beta:+.4g}·(−y) {gamma:+.4g}"
    return Key(mistake, f"{told} instead of {p} − y")
