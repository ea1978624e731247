"""Mistakes outside the steps of the backward pass: another batch, another forward pass."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph, backward
from jaxnn.gradcheck.diagnosis.keys import Constants, Key


class Prediction(NamedTuple):
    """The gradients under a mistake; the key `None` stands for the truth."""

    key: Key | None
    leaves: list[np.ndarray]


def predictions(graph: Graph, mine, constants: Constants) -> Iterator[Prediction]:
    """The gradients under each of these mistakes.

    Args:
        graph: the graph of the network.
        mine: the gradients under test, from which the coefficients of a velocity are read.
        constants: the meaningful constants.
    """
    if graph.previous_gradient is not None:
        yield from _with_previous(graph, mine, graph.previous_gradient, constants)
        pairs = list(zip(graph.truth, graph.previous_gradient, strict=True))
        yield Prediction(Key("D4"), [now + before for now, before in pairs])
        yield Prediction(Key("D3", "the previous batch"), [before for _, before in pairs])
    yield from _of_broadcast_bias(graph)


def _with_previous(graph: Graph, mine, previous, constants) -> Iterator[Prediction]:
    """A multiple of the truth plus one of the previous gradient, as found in at least one leaf."""
    seen: list[float] = []
    for now, before, given in zip(graph.truth, previous, mine, strict=True):
        a, b = coefficients(now, before, given, constants.near)
        is_new = not any(np.isclose(b, a * known, rtol=1e-6) for known in seen)
        if a and is_new and 1e-4 < abs(b / a) < 1e4 and abs(a - b) > 1e-4 * abs(a):
            seen.append(b / a)
            told = f"{a:.4g} times the gradient and {b:.4g} times the previous one"
            factor = 1.0 if constants.is_named(a) else a  # the factor is then a separate mistake
            leaves = [factor * (t + b / a * p) for t, p in zip(graph.truth, previous, strict=True)]
            yield Prediction(Key("D4", told), leaves)


def coefficients(now, before, given, near: float) -> tuple[float, float]:
    """a and b with given = a·now + b·before for a leaf; zeros if it has no such form."""
    if given is None or given.shape != now.shape or given.size < 4 or not np.isfinite(given).all():
        return 0.0, 0.0
    matrix = np.stack([now.ravel(), before.ravel()], axis=1)
    (a, b), *_ = np.linalg.lstsq(matrix, given.ravel(), rcond=None)
    off = np.linalg.norm(matrix @ (a, b) - given.ravel())
    return (float(a), float(b)) if off <= near * np.linalg.norm(given) else (0.0, 0.0)


def _of_broadcast_bias(graph: Graph) -> Iterator[Prediction]:
    """A bias added along the batch, if the batch has as many examples as the layer has units."""
    for i, node in enumerate(graph.nodes):
        if node.linear is None or node.linear.b is None or len(node.y) != node.y.shape[-1]:
            continue
        if node.y.ndim != 2:
            continue
        bias = node.leaves[node.linear.b]
        changed = _rerun(graph, i, node.x[0] @ node.weight + bias[:, None])
        leaves, deltas = backward(changed, changed.end, changed.dloss(changed.target))
        leaf = graph.leaf_of(node.places_of_leaves[node.linear.b])
        leaves[leaf] = deltas[i].sum(axis=1)
        decayed = [grad + graph.decay(j) for j, grad in enumerate(leaves)]
        yield Prediction(Key("S5"), decayed)


def _rerun(graph: Graph, i: int, y: np.ndarray) -> Graph:
    """The graph with a different output of step i and its consequences."""
    nodes = list(graph.nodes)
    nodes[i] = nodes[i].with_values(nodes[i].x, y)
    for j in range(i + 1, len(nodes)):
        old = nodes[j]
        x = tuple(
            nodes[source].y if source >= 0 else value
            for source, value in zip(old.inputs, old.x, strict=True)
        )
        nodes[j] = old.with_values(x, old.value(x))
    return graph._replace(nodes=nodes)
