"""Wrong backward steps."""

from collections.abc import Callable, Iterator
from math import erf
from typing import NamedTuple

import jax
import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph, sigmoid, softmax
from jaxnn.gradcheck.diagnosis.keys import Key
from jaxnn.gradcheck.diagnosis.nodes import Node, as_rows
from jaxnn.gradcheck.diagnosis.norms import Normalisation, normalisation

VISIBLE = 1e-8  # the relative difference above which a wrong step counts as different
SLOPES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5)


class Way(NamedTuple):
    """A wrong backward of one step.

    Attributes:
        key: the mistake.
        dx: the gradients of the inputs.
        dparams: the gradients of the parameters; `None` if they are right.
    """

    key: Key
    dx: tuple[np.ndarray | None, ...]
    dparams: list[np.ndarray] | None = None


_gelu_slope = np.vectorize(
    lambda v: (1 + erf(v / 2**0.5)) / 2 + v * np.exp(-(v**2) / 2) / (2 * np.pi) ** 0.5,
    otypes=[float],
)


def _of_mask(node: Node, factor: np.ndarray) -> np.ndarray:
    """A factor for activations with two slopes; NaN for others."""
    return factor if node.is_mask else np.full_like(factor, np.nan)


FORMULAS: tuple[tuple[str, Callable], ...] = (
    ("1 − {0}²", lambda v: 1 - v**2),
    ("{0}·(1 − {0})", lambda v: v * (1 - v)),
    ("1[{0} > 0]", lambda v: 1.0 * (v > 0)),
    ("σ({0})·(1 − σ({0}))", lambda v: sigmoid(v) * (1 - sigmoid(v))),
    ("1 − tanh²({0})", lambda v: 1 - np.tanh(v) ** 2),
    ("σ({0})", sigmoid),
    ("{0}", lambda v: v),
    ("1 − {0}", lambda v: 1 - v),
    ("1 + {0}", lambda v: 1 + v),
    ("1 + {0}²", lambda v: 1 + v**2),
    ("{0}·(1 + {0})", lambda v: v * (1 + v)),
    ("{0}²", lambda v: v**2),
    ("2·{0}", lambda v: 2 * v),
    ("1/{0}", lambda v: 1 / v),
    ("1 − exp(−{0})", lambda v: -np.expm1(-v)),
    ("exp({0})", np.exp),
    ("tanh({0})", np.tanh),
    ("(1 − |{0}|)²", lambda v: (1 - np.abs(v)) ** 2),
    ("1/(1 + |{0}|)²", lambda v: 1 / (1 + np.abs(v)) ** 2),
    ("the derivative of gelu at {0}", _gelu_slope),
    ("{0} for {0} ≤ 0 and 1 above", lambda v: np.where(v > 0, 1, v)),
    ("{0} + 1 for {0} ≤ 0 and 1 above", lambda v: np.where(v > 0, 1, v + 1)),
    ("exp({0}) for {0} ≤ 0 and 1 above", lambda v: np.where(v > 0, 1, np.exp(v))),
    ("σ({0})·(1 + {0}·(1 − σ({0})))", lambda v: sigmoid(v) * (1 + v * (1 - sigmoid(v)))),
)
"""Functions of z or of a = f(z) that are often written instead of f'."""

MIXED: tuple[tuple[str, str, Callable], ...] = (
    ("A3", "f'(z)²", lambda f: f.slope**2),
    ("A3", "f(z)·f'(z)", lambda f: f.y * f.slope),
    ("A3", "z·f'(z)", lambda f: f.x[0] * f.slope),
    ("A3", "1/f'(z)", lambda f: 1 / f.slope),
    ("A3", "√f'(z)", lambda f: np.sqrt(f.slope)),
    ("A3", "1 − f'(z)", lambda f: 1 - f.slope),
    ("A3", "the other of the two slopes",
     lambda f: _of_mask(f, f.slope.max() + f.slope.min() - f.slope)),
    ("A3", "f'(−z)", lambda f: f.slope_at(-f.x[0])),
    ("A3", "f(z)/z", lambda f: f.y / f.x[0]),
    ("A3", "f'(z) − f(z)/z", lambda f: f.slope - f.y / f.x[0]),
    ("A3", "the mask without its scale", lambda f: _of_mask(f, 1.0 * (f.slope != 0))),
    *(
        ("A3", f"the slope {slope:g} for z ≤ 0 and 1 above",
         lambda f, slope=slope: np.where(f.x[0] > 0, 1, slope))
        for slope in SLOPES
    ),
)  # fmt: skip
"""Combinations of z, f and f' that are used instead of f'."""

OF_UPSTREAM: tuple[tuple[str, str, Callable], ...] = (
    ("A4", "1[dy > 0]", lambda f, dy: 1.0 * (dy > 0)),
    ("A4", "1[dy < 0]", lambda f, dy: 1.0 * (dy < 0)),
    ("A4", "f'(dy)", lambda f, dy: _of_mask(f, f.slope_at(dy))),
    ("A4", "1[dy > 0]·f'(z)", lambda f, dy: (dy > 0) * f.slope),
    ("A5", "dy·(1 − dy)", lambda f, dy: dy * (1 - dy)),
    ("A5", "1 − dy²", lambda f, dy: 1 - dy**2),
    ("A5", "σ'(dy)", lambda f, dy: sigmoid(dy) * (1 - sigmoid(dy))),
    ("A5", "1 − tanh²(dy)", lambda f, dy: 1 - np.tanh(dy) ** 2),
    ("A5", "its formula in a, applied to dy", lambda f, dy: slope_of_output(f, dy)),
    ("A5", "f'(dy)", lambda f, dy: dy + np.nan if f.is_mask else f.slope_at(dy)),
    ("A3", "dy, the upstream gradient twice", lambda f, dy: dy),
)
"""Functions of the upstream gradient that are used instead of f'."""


def slope_of_output(node: Node, v: np.ndarray) -> np.ndarray:
    """f' by its formula in a = f(z), for any a; NaN if none is known."""
    formula = None if node.op is None else node.op.slope_of_output
    if formula is None:
        return np.full_like(v, np.nan)
    with jax.enable_x64(True):
        return np.asarray(formula(v))


class WrongSteps:
    """The wrong backward steps of a network; values that do not depend on dy are cached."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._factors: dict[int, list[tuple[Key, np.ndarray]]] = {}
        self._norms: dict[int, Normalisation | None] = {}

    def norm(self, i: int) -> Normalisation | None:
        """The normalisation that step i computes, if any."""
        if i not in self._norms:
            self._norms[i] = normalisation(self.graph.nodes[i])
        return self._norms[i]

    def may_change_parameters(self, i: int) -> bool:
        """Whether a mistake in step i may change the gradient of its parameters as well."""
        return bool(self.graph.nodes[i].leaves) and self.graph.nodes[i].linear is None

    def ways(self, i: int, dy: np.ndarray, scales=(), ids=()) -> Iterator[Way]:
        """The wrong backwards of step i.

        Args:
            i: the position of the step.
            dy: the gradient of its output.
            scales: constants that dy may have been multiplied by.
            ids: the ids of the mistakes to make; all by default.
        """
        node = self.graph.nodes[i]
        right = node.dx(dy)
        for way in self._all(i, node, dy, scales):
            if (not ids or way.key.id in ids) and _differs(way.dx, right):
                yield way

    def _all(self, i, node, dy, scales) -> Iterator[Way]:
        if node.slope is not None:
            if not node.is_identity:
                yield from self._past_activation(i, node, dy, scales)
        elif node.linear is not None:
            yield from self._past_linear(i, node, dy, scales)
        elif node.leaves:
            yield from self._past_parameters(i, node, dy)
        elif _is_softmax(node):
            yield from _past_softmax(node, dy)

    def _past_activation(self, i, node, dy, scales) -> Iterator[Way]:
        for key, factor in self.factors(i):
            yield Way(key, (factor * dy,))
        for c in (1.0, *scales):
            for mistake, words, function in OF_UPSTREAM:
                with np.errstate(all="ignore"):
                    yield Way(Key(mistake, words), (function(node, c * dy) * dy,))

    def factors(self, i: int) -> list[tuple[Key, np.ndarray]]:
        """The wrong factors instead of f' at step i that do not depend on dy."""
        if i not in self._factors:
            with np.errstate(all="ignore"):
                first, *others = self._factors_of(i, self.graph.nodes[i])
                others = [(key, factor) for key, factor in others if not np.all(factor == 1)]
                self._factors[i] = [first, *others]  # a factor of 1 is a missing one
        return self._factors[i]

    def _factors_of(self, i, node) -> Iterator[tuple[Key, np.ndarray]]:
        z, a = node.x[0], node.y
        at_output = i > self.graph.z
        yield Key("A6" if at_output else "A1", "its derivative is missing"), np.ones_like(a)
        yield from _at_kinks(node)
        at_a = node.slope_at(a)
        for mistake in ("A2", "D6"):
            yield Key(mistake, "f'(f(z)) instead of f'(z)"), at_a
        yield Key("A2", "its formula in a = f(z) was applied to z"), slope_of_output(node, z)
        for other in self._other_activations(i):
            yield Key("A2", "f' was evaluated at another layer's z"), node.slope_at(other.x[0])
        for name, formula in FORMULAS:
            at_z, at_a = formula(z), formula(a)
            own = any(np.allclose(v, node.slope, rtol=1e-9, atol=1e-12) for v in (at_z, at_a))
            for value, argument in ((at_z, "z"), (at_a, "f(z)")):
                words = f"{name.format(argument)} instead of f'(z)"
                yield Key("A2" if own else "A3", words), value
        for mistake, words, function in MIXED:
            if not (words == "f'(z)²" and at_output and self._output_family() == "sigmoid"):
                yield Key(mistake, f"{words} instead of f'(z)"), function(node)

    def _output_family(self) -> str:
        return self.graph.output.family if self.graph.output else ""

    def _other_activations(self, i) -> Iterator[Node]:
        for j, other in enumerate(self.graph.nodes):
            alike = j != i and other.y.shape == self.graph.nodes[i].y.shape
            if alike and other.slope is not None and not other.is_identity:
                yield other

    def _past_linear(self, i, node, dy, scales) -> Iterator[Way]:
        for key, weight in self._matrices(i, node, dy, scales):
            if weight.shape == node.weight.shape:
                yield Way(key, (dy @ weight.T,))
        yield Way(Key("C4"), (dy @ node.weight.T / self.graph.n,))

    def _matrices(self, i, node, dy, scales) -> Iterator[tuple[Key, np.ndarray]]:
        """Matrices used instead of W."""
        yield Key("D2", "dW instead of W"), as_rows(node.x[0]).T @ as_rows(dy)
        yield Key("S6", "W instead of Wᵀ"), node.weight.T
        if self.graph.learning_rate:
            for step in self.updates(node, dy, scales):
                weight = node.weight - self.graph.learning_rate * step
                yield Key("D2", "W − η·dW instead of W"), weight
        for j, other in enumerate(self.graph.nodes):
            if j != i and other.linear is not None:
                yield Key("S6", "the weights of another layer instead of W"), other.weight

    def updates(self, node: Node, dy: np.ndarray, scales=()) -> Iterator[np.ndarray]:
        """Gradients of W that an update may have used already."""
        dw = as_rows(node.x[0]).T @ as_rows(dy)
        decay = (self.graph.weight_decay or 0.0) * node.weight
        yield from (c * dw + decay for c in (1.0, *scales))
        yield self._true_step(node)

    def _true_step(self, node) -> np.ndarray:
        place = node.places_of_leaves[node.linear.w]
        flat = np.concatenate([leaf.ravel() for leaf in self.graph.truth])
        step = flat[place]
        return step.T if node.linear.transposed else step

    def _past_parameters(self, i, node, dy) -> Iterator[Way]:
        norm = self.norm(i)
        if norm is not None:
            for mistake, words, dx in norm.wrong_dx(dy):
                yield Way(Key(mistake, words), (dx,))
            return
        for key, apply in _without_time(node):
            dparams, dxs = node.pull(dy, apply=apply)
            yield Way(key, dxs, dparams)
            yield Way(key, node.dx(dy), dparams)
        if any(leaf.ndim > 2 for leaf in node.leaves) and _has_floating_input(node):
            yield Way(Key("V1", "its kernel is flipped"), node.pull(dy, _flipped(node))[1])
        if _has_floating_input(node):
            yield Way(Key("C4"), tuple(None if d is None else d / self.graph.n
                                       for d in node.dx(dy)))  # fmt: skip


def _at_kinks(node: Node) -> Iterator[tuple[Key, np.ndarray]]:
    """A different derivative where z is exactly at a kink."""
    slope, at = node.slope, np.isin(node.x[0], node.kinks)
    if slope is not None and at.any():
        for value in {0.0, 1.0, 0.5, float(slope.min() + slope.max()) / 2}:
            yield Key("K1", f"{value:g} at the kink"), np.where(at, value, slope)


def _past_softmax(node, dy) -> Iterator[Way]:
    p = node.y
    yield Way(Key("A6", "softmax's Jacobian is missing"), (dy,))
    yield Way(Key("L1", "p·(1 − p)"), (p * (1 - p) * dy,))
    yield Way(Key("L1", "p"), (p * dy,))


def _is_softmax(node: Node) -> bool:
    return len(node.x) == 1 and node.x[0].shape == node.y.shape and np.allclose(
        softmax(node.x[0]), node.y, rtol=1e-9
    )  # fmt: skip


def _without_time(node: Node) -> Iterator[tuple[Key, Callable]]:
    """A layer over time whose state at each step is treated as a constant."""
    layer = node.layer
    if layer is None or layer.position_wise or len(node.x) != 1 or node.y.ndim != 3:
        return
    if getattr(layer, "reverse", False) or not hasattr(layer, "n_states"):
        return

    def apply(params, x):
        cache = layer.init_cache(x.shape[1], len(x), x.dtype)
        outputs = []
        for t in range(len(x)):
            y, cache = layer.extend(params, x[t : t + 1], jax.lax.stop_gradient(cache))
            outputs.append(y)
        return jax.numpy.concatenate(outputs)

    yield Key("T1", "the state is treated as a constant"), apply


def _flipped(node: Node):
    """The parameters with each kernel rotated by 180°."""

    def turned(leaf):
        return np.flip(leaf, tuple(range(leaf.ndim - 2))).copy() if leaf.ndim > 2 else leaf

    return jax.tree.map(turned, node.params)


def _has_floating_input(node: Node) -> bool:
    return any(np.issubdtype(x.dtype, np.floating) for x in node.x)


def _differs(dx, right) -> bool:
    """Whether a wrong gradient differs visibly and is finite."""
    off = whole = 0.0
    for d, r in zip(dx, right, strict=True):
        if d is not None and r is not None:
            if d.shape != r.shape:
                return False
            difference, r = (d - r).ravel(), r.ravel()
            off += float(difference @ difference)
            whole += float(r @ r)
    return bool(np.isfinite(off) and off > VISIBLE**2 * whole)
