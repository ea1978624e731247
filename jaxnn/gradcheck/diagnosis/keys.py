"""A mistake as the search represents it, and the constants by which a gradient may be off."""

from itertools import product
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph


class Tolerance(NamedTuple):
    """Relative errors below which two gradients of a leaf count as equal."""

    right: float  # a gradient and the truth
    match: float  # a gradient and the prediction of a mistake


TOLERANCES = {8: Tolerance(1e-9, 1e-9), 4: Tolerance(1e-5, 2e-5), 2: Tolerance(2e-2, 2e-2)}
SINGLE_COST, FITTED_COST, DECAY_COST = 1.0, 1.5, 1.25


class Key(NamedTuple):
    """A mistake in one variant, or with one constant.

    Attributes:
        id: the id of the mistake in `MISTAKES`.
        words: the variant, or the meaning of the constant.
        constant: the factor, or the coefficient.
    """

    id: str
    words: str = ""
    constant: float | None = None

    @property
    def cost(self) -> float:
        """The cost that it adds to an explanation: a fitted number costs more than a mistake."""
        if self.id == "R1":
            return DECAY_COST
        return FITTED_COST if self.id == "C8" else SINGLE_COST


FITTED = "not a constant of this loss"


class Constants:
    """The meaningful factors, products of several, and fitted ones.

    Args:
        graph: the graph of the network.
        match: the relative error up to which two gradients are equal.
        norm: the norm of all gradients under test together.
    """

    def __init__(self, graph: Graph, match: float, norm: float = 0.0):
        self.near = max(match, 1e-8)
        self.named = _named(graph)
        self.of_data = [*_roots(graph), *_positions(graph)]
        self.products = _products(graph) if self.near <= 1e-3 else []
        self._known = [1.0, *(key.constant for key in (*self.named, *self.products))]
        self.is_clipped = norm > 0 and abs(float(f"{norm:.1g}") / norm - 1) <= 1e-7
        self.norm = norm
        self.fitted: list[Key] = []
        self.coefficients: list[Key] = []

    def keys(self, c: float, size: int) -> list[frozenset[Key]]:
        """The constants that may explain a ratio: the empty set for 1, none for an unlikely ratio.

        Args:
            c: the ratio.
            size: the number of entries that it fits; one number is a multiple of any other.
        """
        if self._is(c, 1.0):
            return [frozenset()]
        for level in (self.named, self.of_data):
            found = {key.id: key for key in level if self._is(c, key.constant)}
            if found:
                return [frozenset([key]) for key in found.values()]
        pairs = [frozenset(pair) for pair in self._pairs(c)]
        if pairs:
            return pairs
        for key in (*self.products, *self.fitted):
            if self._is(c, key.constant):
                return [frozenset([key])]
        return [frozenset([self._fitted(c)])] if size > 2 and np.isfinite(c) else []

    def is_named(self, c: float) -> bool:
        """Whether a factor is meaningful by itself."""
        return any(self._is(c, key.constant) for key in (*self.named, *self.products))

    def nearest(self, c: float, near: float) -> float | None:
        """The meaningful or previously found constant, or 1, that is close to a number."""
        known = np.array([*self._known, *(key.constant for key in self.fitted)], dtype=float)
        close = known[np.abs(c - known) <= near * np.abs(known)]
        return float(close[0]) if close.size else None

    def _pairs(self, c: float) -> list[tuple[Key, Key]]:
        """Two constants of different kinds with this product; one may be fitted."""
        if self.near > 1e-3:
            return []
        known = self.named
        return [
            (one, other)
            for i, one in enumerate(known)
            for other in (*known[i + 1 :], *self.of_data, *self.fitted)
            if one.id != other.id and self._is(c, (one.constant or 0.0) * (other.constant or 0.0))
        ]

    def _fitted(self, c: float) -> Key:
        clipped = Key("C9", f"scaled to the norm {self.norm:.4g}", c)
        self.fitted.append(clipped if self.is_clipped else Key("C8", FITTED, c))
        return self.fitted[-1]

    def penalty(self, words: str, c: float) -> Key:
        """The key of a term c·θ or c·sign(θ), the same for the same c."""
        for key in self.coefficients:
            near = abs(c - (key.constant or 0.0)) <= max(1e3 * self.near, 1e-5) * abs(c)
            if key.words == words and near:
                return key
        self.coefficients.append(Key("R1", words, c))
        return self.coefficients[-1]

    def _is(self, c, constant) -> bool:
        return bool(abs(c - constant) <= self.near * abs(constant))


def ratio(mine, base, truth, match) -> float | None:
    """c if mine ≈ c·base, far more closely than mine equals the truth."""
    if mine.shape != base.shape or not np.isfinite(base).all():
        return None
    square = np.vdot(base, base)
    if not square or not mine.any():
        return None
    c = float(np.vdot(base, mine) / square)
    off = float(np.linalg.norm(mine - c * base))
    if off > match * np.linalg.norm(mine) or not explains(off, mine, truth, match):
        return None
    return c


def explains(off: float, mine, truth, match: float = 0.0) -> bool:
    """Whether a prediction with this error is far closer than the truth."""
    if mine.shape != truth.shape:
        return True
    return off <= max(1e-2, match) * float(np.linalg.norm(mine - truth))


def _named(graph: Graph) -> list[Key]:
    n, k, eta = float(graph.n), float(graph.k), graph.learning_rate
    named = [
        Key("C1", "−1", -1.0),
        Key("C2", "the batch size", n),
        Key("C3", "one over the batch size", 1 / n),
        Key("C5", "2", 2.0),
        Key("C5", "½", 0.5),
    ]
    if k > 1:
        named += [
            Key("C6", "the number of outputs", k),
            Key("C6", "one over the number of outputs", 1 / k),
            Key("C6", "the batch size times the number of outputs", n * k),
            Key("C6", "one over the batch size times the number of outputs", 1 / (n * k)),
        ]
    if eta:
        named += [Key("C7", "the learning rate", eta), Key("C7", "minus the learning rate", -eta)]
    return [key for key in named if key.constant != 1]


def _roots(graph: Graph) -> list[Key]:
    """The factors that the root of the mean squared error introduces."""
    o = graph.output
    if o is None or o.family != "squared" or np.ndim(o.w) != 0:
        return []
    square = float((o.e**2).sum())
    found = []
    for count, words in ((graph.n, "of the mean"), (o.e.size, "of the element mean"), (1, "")):
        root = np.sqrt(square / count) if square else 1.0
        for factor in (1 / (2 * root), 1 / root, 1 / (count * root * o.two * o.w)):
            found.append(
                Key(
                    "L8", f"the factor of the root {words} squared error".replace("  ", " "), factor
                )
            )
    return found


def _positions(graph: Graph) -> list[Key]:
    """The numbers of rows that a bias is summed over, if there are several per example."""
    rows = {delta.size // delta.shape[-1] for delta in graph.deltas.values() if delta.ndim > 2}
    found = []
    for n in sorted(rows - {graph.n, 0, 1}):
        numbers = [(n, "the number of positions")]
        if n % graph.n == 0:
            numbers.append((n // graph.n, "the number of positions per example"))
        for number, words in numbers:
            found += [Key("C2", words, float(number)), Key("C3", f"one over {words}", 1 / number)]
    return found


def _products(graph: Graph) -> list[Key]:
    factors = [
        (2.0, "2", 3),
        (float(graph.n), "N", 2),
        (float(graph.k), "K", 2),
        (graph.learning_rate or 1.0, "η", 1),
    ]
    several = []
    for sign, *powers in product((1, -1), *(range(-most, most + 1) for *_, most in factors)):
        if sum(map(abs, powers)) <= 3 + (sign < 0):
            constant, words = float(sign), "−" * (sign < 0)
            for (factor, name, _), power in zip(factors, powers, strict=True):
                constant *= factor**power
                words += f"·{name}" * (power != 0) + (f"^{power}" if power not in (0, 1) else "")
            words = words.lstrip("·").replace("−·", "−")
            if abs(constant) != 1 or words == "−":
                several.append(Key("C8", words, constant))
    return sorted(several, key=lambda key: len(key.words))
