"""Mistakes that show in a single leaf: its shape, factors, rows, constants, penalties."""

from collections.abc import Iterator

import numpy as np

from jaxnn.gradcheck.arrays import relative_error
from jaxnn.gradcheck.diagnosis.graph import Graph
from jaxnn.gradcheck.diagnosis.keys import Constants, Key, Tolerance, explains, ratio
from jaxnn.gradcheck.diagnosis.nodes import Node, as_rows
from jaxnn.gradcheck.diagnosis.wrong_outputs import EXAMPLES
from jaxnn.gradcheck.diagnosis.wrong_steps import WrongSteps

Keys = frozenset[Key]
NOTHING: Keys = frozenset()
CLOSER = 0.3  # the largest ratio of an explanation's error to the truth's
ENTRIES = 30  # from which the signs alone distinguish gradients


class Leaf:
    """One leaf of the gradients under test, compared with predictions of it."""

    def __init__(self, graph: Graph, i: int, mine, constants: Constants, tolerance: Tolerance,
                 bound: float):  # fmt: skip
        self.graph, self.i, self.mine = graph, i, mine
        self.truth, self.theta = graph.truth[i], graph.params[i]
        self.decay = graph.decay(i)
        self.constants, self.bound = constants, bound
        self.match = max(tolerance.match, bound)
        self.clip: float | None = None
        self.finite = mine is not None and bool(np.isfinite(mine).all())
        self.error = np.inf if mine is None else graph.error(i, mine)
        self.is_right = self.error <= bound
        self.is_noise = self.finite and not self.is_right and mine.any() and graph.vanishes(mine)

    def multiples(self, gradient: np.ndarray, penalties: Keys = NOTHING) -> list[Keys]:
        """The constants that turn this gradient, with weight decay, into the leaf.

        Args:
            gradient: the gradient of the leaf, without weight decay.
            penalties: penalty terms found in other leaves, to be tried as well.
        """
        if not self.finite:
            return []
        value = self._decayed(gradient)
        if self.mine.shape != value.shape or self.is_noise:
            return []
        found = self._multiples(gradient, value)
        if not found and penalties and value.shape == self.theta.shape:
            terms = [(key.constant or 0.0) * self._term(key.words) for key in penalties]
            without = Leaf(self.graph, self.i, self.mine - sum(terms), self.constants,
                           Tolerance(self.bound, self.match), self.bound)  # fmt: skip
            found = [keys | penalties for keys in without._multiples(gradient, value)]
        return found

    def _decayed(self, gradient: np.ndarray) -> np.ndarray:
        """A gradient with the weight decay term, transposed if the gradient is."""
        if gradient.shape == self.truth.shape:
            return gradient + self.decay
        transposed = gradient.ndim == 2 and gradient.shape == self.truth.shape[::-1]
        return gradient + np.transpose(self.decay) if transposed else gradient

    def _term(self, words: str) -> np.ndarray:
        return np.sign(self.theta) if words == "its sign" else self.theta

    def _multiples(self, gradient, value) -> list[Keys]:
        if self.is_right and self.graph.error(self.i, value) <= 1e-8:
            return [NOTHING]
        error = relative_error(self.mine, value)
        if error <= self.match and (self.is_right or error <= CLOSER * self.error):
            return [NOTHING]
        c = ratio(self.mine, value, self.truth, self.match)
        if c is None and np.any(self.decay) and value.shape == self.truth.shape:
            c = ratio(self.mine - self.decay, gradient, self.truth - self.decay, self.match)
        if c is not None:
            return self.constants.keys(c, self.mine.size)
        return [] if self.clip is None else self._clipped(value, self.clip)

    def _clipped(self, value, bound: float) -> list[Keys]:
        """The constants that turn this gradient, clipped entry by entry, into the leaf."""
        inside = np.abs(self.mine) < bound * (1 - 1e-9)
        clipped = frozenset([Key("C9", f"clipped to ±{bound:.4g}")])
        if not inside.any():
            return [clipped | keys for keys in self._signs(value)]
        square = np.vdot(value[inside], value[inside])
        c = float(np.vdot(value[inside], self.mine[inside]) / square) if square else 0.0
        if relative_error(self.mine, np.clip(c * value, -bound, bound)) > self.match:
            return []
        return [clipped | keys for keys in self.constants.keys(c, int(inside.sum()))]

    def _signs(self, value) -> list[Keys]:
        """The mistake of a leaf reduced to signs, if they are those of a gradient."""
        if value.size < ENTRIES and self.graph.error(self.i, value) > 1e-8:
            return []  # few signs fit many gradients
        same = np.sign(self.mine) == np.sign(value)
        return [NOTHING] if same.all() else [frozenset([Key("C1", "−1", -1.0)])] * (not same.any())

    def both_vanish(self, gradient: np.ndarray, delta: np.ndarray) -> list[Keys]:
        """Whether this leaf and a gradient are rounding errors of δ and have the same shape."""
        tiny = 1e-12 * np.linalg.norm(delta)
        same = self.finite and self.mine.shape == gradient.shape != self.truth.shape
        vanish = same and max(np.linalg.norm(self.mine), np.linalg.norm(gradient)) <= tiny
        return [NOTHING] if vanish else []

    def without(self) -> Key | None:
        """The mistake in a leaf that is missing, NaN or zero."""
        if self.mine is None:
            return Key("Z1", "missing")
        if not self.finite:
            first = tuple(map(int, np.argwhere(~np.isfinite(self.mine))[0]))
            return Key("Z2", f"{self.mine[first]} at index {first}")
        if not self.mine.any() and self.truth.any():
            return Key("Z1") if self.mine.shape == self.truth.shape else None
        return None

    def changed(self, gradient: np.ndarray) -> Iterator[Keys]:
        """The changes, other than a constant, that turn this gradient into the one under test."""
        if not self.finite or self.mine.shape != gradient.shape or not self.mine.any():
            return
        value = gradient + self.decay
        yield from self._partly_zero(value)
        yield from self.penalised(gradient)
        if value.ndim == 2 and value.size > 3:
            yield from self._columns(value)

    def _partly_zero(self, value) -> Iterator[Keys]:
        for axis in range(value.ndim):
            others = tuple(a for a in range(value.ndim) if a != axis)
            empty = ~self.mine.any(axis=others) & value.any(axis=others)
            if empty.any() and not empty.all():
                kept = np.where(np.expand_dims(empty, others), 0, value)
                for keys in self.multiples(kept - self.decay):
                    where = ", ".join(map(str, np.flatnonzero(empty)[:4]))
                    yield keys | {Key("Z3", f"zero at {where} along axis {axis}")}

    def penalised(self, gradient: np.ndarray) -> Iterator[Keys]:
        """A term c·θ, c·sign(θ) or both, and a constant."""
        if not self.finite or not self.theta.any() or self.mine.shape != gradient.shape:
            return
        value = gradient + self.decay
        choices = [("the parameter",), ("its sign",), ("the parameter", "its sign")]
        for base in (value, gradient) if np.any(self.decay) else (value,):
            for chosen in choices:
                columns = [self._term(name).ravel() for name in chosen]
                yield from self._fitted(base, chosen, columns)

    def _fitted(self, base, chosen, columns) -> Iterator[Keys]:
        """The keys if mine = s·base + Σ c·term with a known s."""
        if self.mine.size < 2 * (len(columns) + 1):
            scales = [1.0]
        else:
            scales = self._scale_beside(base, columns)
        for s in scales:
            rest = (self.mine - s * base).ravel()
            matrix = np.stack(columns, axis=1)
            if self.mine.size < len(columns) or np.linalg.matrix_rank(matrix) < len(columns):
                continue
            found = np.linalg.lstsq(matrix, rest, rcond=None)[0]
            off = float(np.linalg.norm(matrix @ found - rest))
            size = np.linalg.norm(self.mine)
            if off > self.match * size or off > np.sqrt(self.match) * np.linalg.norm(rest):
                continue
            if not explains(off, self.mine, self.truth) or not np.all(
                np.abs(found) * np.linalg.norm(matrix, axis=0) > 10 * self.match * size
            ):
                continue
            terms = zip(chosen, map(float, found), strict=True)
            penalties = frozenset(self.constants.penalty(*term) for term in terms)
            for keys in self.constants.keys(s, self.mine.size):
                yield penalties | keys

    def _scale_beside(self, base, columns) -> list[float]:
        """The coefficient of the gradient next to penalty terms, by least squares."""
        matrix = np.stack([base.ravel(), *columns], axis=1)
        found, _, rank, _ = np.linalg.lstsq(matrix, self.mine.ravel(), rcond=None)
        if rank < matrix.shape[1]:
            return []
        s = self.constants.nearest(float(found[0]), max(1e3 * self.match, 1e-6))
        return [] if s is None else [s]

    def _columns(self, value) -> Iterator[Keys]:
        """Rows or columns in another order."""
        for axis in (0, 1):
            for shift in range(1, value.shape[axis]):
                words = f"shifted by {shift} along axis {axis}"
                yield from self._ordered(words, np.roll(value, shift, axis))
            yield from self._ordered(f"in reverse order along axis {axis}", np.flip(value, axis))

    def _ordered(self, words: str, value) -> Iterator[Keys]:
        for keys in self.multiples(value - self.decay):
            yield keys | {Key("S7", words)}


class WrongLeaves:
    """Wrong gradients of the leaves of a step from the right δ."""

    def __init__(self, graph: Graph, steps: WrongSteps):
        self.graph, self.steps = graph, steps

    def of(self, i: int, j: int, dy: np.ndarray) -> Iterator[tuple[Key, np.ndarray]]:
        """The wrong gradients of leaf j of step i."""
        node = self.graph.nodes[i]
        leaf = node.leaves[j]
        right = node.dparams(dy)[j]
        if leaf.ndim == 2:
            yield Key("S1"), right.T
        if node.linear is not None and j == node.linear.w:
            for key, x in self._inputs(i, node):
                yield key, node.linear_gradient(x, dy)[j]
            yield from self._rows_of_weight(node, j, dy)
        if leaf.ndim == 1 and _is_sum(right, dy):
            yield from _of_bias(as_rows(dy), right)
            yield from _rows_of_bias(as_rows(dy))
        if leaf.ndim > 2:
            spatial = tuple(range(leaf.ndim - 2))
            yield Key("V1", "its gradient is rotated by 180°"), np.flip(right, spatial)
            for axis in spatial:
                yield Key("V1", f"its gradient is flipped along axis {axis}"), np.flip(right, axis)
            if leaf.shape[0] == leaf.shape[1]:
                yield Key("V1", "its first two axes are swapped"), np.swapaxes(right, 0, 1)
            yield Key("S1"), np.swapaxes(right, -1, -2)
        norm = self.steps.norm(i) if leaf.ndim == 1 else None
        if norm is not None:
            for mistake, words, gradient in norm.wrong_dgamma(dy):
                yield Key(mistake, words), gradient
        yield from _of_table(node, j, dy)

    def _inputs(self, i, node) -> Iterator[tuple[Key, np.ndarray]]:
        """Wrong inputs of a linear step."""
        (x,), (before,) = node.x, node.inputs
        if before >= 0 and self.graph.nodes[before].slope is not None:
            activation = self.graph.nodes[before]
            if not activation.is_identity:
                yield Key("D1"), activation.x[0]
                yield Key("D8", "the derivative f'(z) instead of a"), activation.slope
                with np.errstate(all="ignore"):
                    yield Key("D6", "f(a) instead of a"), activation.apply_to(x)
        yield from self._other_values(i, x, before)
        shifts = range(1, len(x)) if len(x) <= EXAMPLES else (1, len(x) - 1)
        for shift in shifts:
            by = min(shift, shift - len(x), key=abs)
            yield Key("D3", f"the inputs are shifted by {by}"), np.roll(x, shift, axis=0)
        yield Key("D3", "the inputs are in reverse order"), x[::-1]
        if self.graph.previous is not None and self.graph.previous.nodes:
            yield Key("D3", "the input of the previous batch"), self.graph.previous.nodes[i].x[0]

    def _other_values(self, i, x, before) -> Iterator[tuple[Key, np.ndarray]]:
        """Values of the forward pass of the same shape, and the input through an activation."""
        for j, other in enumerate(self.graph.nodes):
            if other.y.shape == x.shape and j != before:
                of_z = before >= 0 and j in self.graph.nodes[before].inputs
                if not of_z:
                    yield Key("D8", "the output of another layer"), other.y
            if other.slope is not None and not other.is_identity and before < 0:
                with np.errstate(all="ignore"):
                    yield Key("D6", "f(x) instead of x"), other.apply_to(x)
        if before >= 0 and np.shape(first := self.graph.nodes[0].x[0]) == x.shape:
            yield Key("D8", "the input of the network"), first
        if len(x) > 1:
            yield Key("D6", "x − mean(x) instead of x"), x - x.mean(0)

    def _rows_of_weight(self, node, j, dy) -> Iterator[tuple[Key, np.ndarray]]:
        n = len(dy)
        if not 1 < n <= EXAMPLES:
            return
        right = node.dparams(dy)[j]
        for row in range(n):
            x, delta = node.x[0][row : row + 1], dy[row : row + 1]
            of_row = node.linear_gradient(x, delta)[j]
            yield Key("D5", f"only example {row} is included"), of_row
            if n > 2:
                yield Key("D5", f"example {row} is missing"), right - of_row


def _is_sum(right, dy) -> bool:
    """Whether a leaf's gradient is the sum of δ, like that of a bias."""
    return right.shape == dy.shape[-1:] and np.allclose(right, as_rows(dy).sum(0), rtol=1e-9)


def _of_bias(delta, right) -> Iterator[tuple[Key, np.ndarray]]:
    """The gradient of a bias under each shape mistake."""
    width = right.size
    yield Key("S2"), delta
    for rows in (delta.sum(axis=1), delta.mean(axis=1)):
        yield Key("S3"), rows
        yield Key("S3"), rows[:, None]
    for shape in ((), (1,), (1, 1), (width,)):
        yield Key("S3"), np.full(shape, delta.sum())
    yield Key("S4"), right[None]
    yield Key("S4"), right[:, None]
    for row in (0, -1):
        yield Key("D5", "only one example is included"), delta[row]


def _rows_of_bias(delta) -> Iterator[tuple[Key, np.ndarray]]:
    n = len(delta)
    for row in range(n) if 1 < n <= EXAMPLES else ():
        yield Key("D5", f"only example {row} is included"), delta[row]
        if n > 2:
            yield Key("D5", f"example {row} is missing"), delta.sum(0) - delta[row]
    yield Key("S8", "the largest δ, not their sum"), delta.max(0)
    yield Key("S8", "the sum of |δ|"), np.abs(delta).sum(0)
    yield Key("S8", "the sum of δ²"), (delta**2).sum(0)


def _of_table(node: Node, j: int, dy) -> Iterator[tuple[Key, np.ndarray]]:
    """The gradient of an embedding table that counts only one use of each row."""
    ids = [x for x in node.x if np.issubdtype(x.dtype, np.integer)]
    table = node.leaves[j]
    if len(ids) != 1 or table.ndim != 2 or dy.shape != (*ids[0].shape, table.shape[1]):
        return
    if ids[0].min() < 0 or ids[0].max() >= len(table):
        return
    last, first = np.zeros_like(table), np.zeros_like(table)
    last[ids[0].ravel()] = as_rows(dy)
    first[ids[0].ravel()[::-1]] = as_rows(dy)[::-1]
    counts = np.bincount(ids[0].ravel(), minlength=len(table))[:, None]
    yield Key("E1", "only the last use of each row counts"), last
    yield Key("E1", "only the first use of each row counts"), first
    yield (
        Key("E1", "each row has the mean over its uses"),
        node.dparams(dy)[j] / np.maximum(counts, 1),
    )
