"""Mistakes outside the steps of the backward pass: another batch, another forward pass."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph, backward
from jaxnn.gradcheck.diagnosis.keys import Constants, Key


class Prediction(NamedTuple):
    """The gradients under a mistake; `None` as the key for the truth."""

    key: Key | None
    leaves: list[np.ndarray]


def predictions(graph: Graph, mine, constants: Constants) -> Iterator[Prediction]:
    """The gradients under each of these mistakes.

    Args:
        graph: of the network.
        mine: the gradients in question, from which the coefficients of a velocity are read.
        constants: those with a meaning.
    """
    fitting = [m is not None and m.shape == t.shape for m, t in zip(mine, graph.truth, strict=True)]
    if all(fitting) and graph.previous_gradient is not None:
        yield from _with_previous(graph, mine, graph.previous_gradient, constants)
    if graph.previous_gradient is not None:
        pairs = list(zip(graph.truth, graph.previous_gradient, strict=True))
        yield Prediction(Key("D4"), [now + before for now, before in pairs])
        yield Prediction(Key("D3", "the previous batch"), [before for _, before in pairs])
    yield from _of_broadcast_bias(graph)


def _with_previous(graph: Graph, mine, previous, constants) -> Iterator[Prediction]:
    """A multiple of the truth and one of the previous gradient."""
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (graph.truth, previous, mine)]
    now, before, given = flat
    if not np.isfinite(given).all():
        return
    (a, b), *_ = np.linalg.lstsq(np.stack([now, before], axis=1), given, rcond=None)
    if abs(b) < 1e-4 * abs(a) or abs(a - b) < 1e-4 * abs(a) or abs(a) < 1e-4 * abs(b):
        return
    told = f"{a:.4g} times the gradient and {b:.4g} times the previous one"
    factor = 1.0 if constants.is_named(a) else a  # the factor is then a mistake of its own
    leaves = [factor * (t + b / a * p) for t, p in zip(graph.truth, previous, strict=True)]
    yield Prediction(Key("D4", told), leaves)


def _of_broadcast_bias(graph: Graph) -> Iterator[Prediction]:
    """A bias added along the batch, where the batch has as many examples as the layer units."""
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
    """The graph with another output of step i, and all that follows from it."""
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
