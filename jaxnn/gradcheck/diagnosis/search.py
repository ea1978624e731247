"""The search for the mistakes that give a wrong gradient, along the backward pass.

It walks from the loss to the input, as the backward pass does, and carries the δ that results from
the mistakes assumed so far. At each step it tries the mistakes that are possible there, and at each
leaf of the parameters the gradient under test decides which of them survive. So two mistakes in
different places cost no more than each of them alone.
"""

import heapq
import time
from collections.abc import Iterator
from itertools import count, product
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.graph import Graph
from jaxnn.gradcheck.diagnosis.keys import Constants, Key, Tolerance
from jaxnn.gradcheck.diagnosis.whole import Prediction, coefficients, predictions
from jaxnn.gradcheck.diagnosis.wrong_leaves import NOTHING, Keys, Leaf, WrongLeaves
from jaxnn.gradcheck.diagnosis.wrong_outputs import Beginning, beginnings, readings
from jaxnn.gradcheck.diagnosis.wrong_steps import Way, WrongSteps

MOST = 4.0  # the cost of an explanation with mistakes in δ
DECAYS = (0.9, 1.0, 0.5, 0.99)  # of a velocity
MOST_OF_LEAVES = 8.0  # the cost of one with mistakes in leaves only
SECONDS = 6.0  # of this thread's CPU time


class Explanation(NamedTuple):
    """Mistakes that together produce the gradients, each with the positions of its leaves."""

    leaves: dict[Key, list[int]]
    cost: float


class Arrived(NamedTuple):
    """A part of δ at the output of a step.

    Attributes:
        delta: the part.
        trail: the mistakes on its path.
        source: the position of the step that it came from; `None` for the loss.
        dy: δ at the output of that step.
        before: the mistakes on the path to that step.
    """

    delta: np.ndarray
    trail: Keys
    source: int | None = None
    dy: np.ndarray | None = None
    before: Keys = NOTHING


class State(NamedTuple):
    """The state of a walk.

    Attributes:
        position: the position of the next step, from the last to the first.
        arrived: for each remaining step, the parts of its δ.
        contributions: for each leaf, its gradient from each use so far.
        keys: the mistakes made.
        open: the mistakes in δ that no leaf has shown yet.
        leaves: the leaves of each mistake.
    """

    position: int
    arrived: dict[int, tuple[Arrived, ...]]
    contributions: dict[int, tuple[tuple[np.ndarray, Keys], ...]]
    keys: Keys
    open: Keys
    leaves: tuple[tuple[Key, int], ...]

    def cost(self) -> float:
        """The cost of all mistakes made."""
        return sum((key.cost for key in self.keys), 0.0)

    def made(self, *keys: Key) -> "State":
        """The same state with more mistakes in δ."""
        new = frozenset(keys) - self.keys
        return self._replace(keys=self.keys | new, open=self.open | new)


class Search:
    """The search for one gradient."""

    def __init__(self, graph: Graph, mine, tolerance: Tolerance, bounds, wrong: list[int],
                 deadline: float | None = None):  # fmt: skip
        self.graph, self.mine, self.wrong = graph, mine, set(wrong)
        finite = [m for m in mine if m is not None and np.isfinite(m).all()]
        norm = (
            np.sqrt(sum(float(np.sum(m**2)) for m in finite)) if len(finite) == len(mine) else 0.0
        )
        self.constants = Constants(graph, tolerance.match, float(norm))
        self.tolerance, self.bounds = tolerance, bounds
        self.steps = WrongSteps(graph)
        self.beginnings = list(beginnings(graph)) if graph.nodes else []
        self.wrong_leaves = WrongLeaves(graph, self.steps)
        self.leaves = [
            Leaf(graph, i, m, self.constants, tolerance, bound)
            for i, (m, bound) in enumerate(zip(mine, bounds, strict=True))
        ]
        for leaf in self.leaves:
            own = _common_bound([leaf.mine]) if leaf.finite else None
            leaf.clip = own or _common_bound(finite)
        self.last_use = self._last_uses()
        self.deadline = time.thread_time() + SECONDS if deadline is None else deadline

    def explanations(self) -> list[Explanation]:
        """The explanations with the fewest mistakes; none if no known mistake fits."""
        found = self._found()
        if not found and self.graph.previous_gradient is not None:
            found = self._beside_previous(self.graph.previous_gradient)
        return found

    def _beside_previous(self, previous) -> list[Explanation]:
        """Explanations of the remainder after subtracting a multiple of the previous gradient."""
        everything = list(range(len(self.mine)))
        deadline = time.thread_time() + SECONDS
        for decay in self._decays(previous):
            rest = [
                m - decay * p if m is not None and m.shape == p.shape else m
                for m, p in zip(self.mine, previous, strict=True)
            ]
            alone = self.graph._replace(previous_gradient=None)
            wrong = [
                leaf.i
                for leaf, r in zip(self.leaves, rest, strict=True)
                if r is None or not self.graph.error(leaf.i, r) <= leaf.bound
            ]
            search = Search(alone, rest, self.tolerance, self.bounds, wrong, deadline)
            found = search.explanations()
            if found:
                key = Key("D4", f"it includes {decay:g} times the previous gradient")
                return [Explanation({key: everything} | e.leaves, e.cost + 1) for e in found]
        return []

    def _decays(self, previous) -> list[float]:
        """The multiples of the previous gradient that a leaf contains in addition to the truth."""
        triples = zip(self.graph.truth, previous, self.mine, strict=True)
        read = {round(coefficients(*triple, self.constants.near)[1], 6) for triple in triples}
        return sorted(read - {0.0}) or list(DECAYS)

    def _found(self) -> list[Explanation]:
        found = list(self._of_wholes())
        if self.graph.nodes:
            best = min((e.cost for e in found), default=np.inf)
            found += self._walk(self._starts(), best)
            if not found:
                found += self._walk(self._double_starts(), best)
        best = min((e.cost for e in found), default=np.inf)
        return _distinct([e for e in found if e.cost <= best + 1e-9])

    def _last_uses(self) -> dict[int, int]:
        """For each leaf, the first step that uses it, which is the last on the way back."""
        last: dict[int, int] = {}
        for i, node in enumerate(self.graph.nodes):
            for place in node.places_of_leaves:
                if place.size:
                    last.setdefault(self.graph.leaf_of(place), i)
        return last

    def _of_wholes(self) -> Iterator[Explanation]:
        """Explanations of the leaves one by one, from a prediction of all leaves."""
        for prediction in [
            Prediction(None, self.graph.truth),
            *predictions(self.graph, self.mine, self.constants),
        ]:
            options: list[list[Keys]] = []
            for leaf, gradient in zip(self.leaves, prediction.leaves, strict=True):
                options.append(self._simple_options(leaf, gradient - leaf.decay))
                if not options[-1]:
                    break
            else:
                yield from self._chosen(prediction, options)

    def _simple_options(self, leaf: Leaf, gradient) -> list[Keys]:
        """The mistakes possible in a leaf, besides a constant, if no step is known."""
        plain = leaf.multiples(gradient)
        if plain:
            return plain
        if (key := leaf.without()) is not None:
            return [frozenset([key])]
        changed = list(leaf.changed(gradient))
        if gradient.ndim == 2:
            changed += [keys | {Key("S1")} for keys in leaf.multiples(gradient.T)]
        if gradient.ndim == 1:
            for kept in (gradient[None], gradient[:, None]):
                changed += [keys | {Key("S4")} for keys in leaf.multiples(kept)]
        return changed

    def _chosen(self, prediction: Prediction, options) -> Iterator[Explanation]:
        whole = [] if prediction.key is None else [prediction.key]
        for chosen in _few(options):
            leaves: dict[Key, list[int]] = {key: sorted(self.wrong) for key in whole}
            for i, keys in enumerate(chosen):
                for key in keys:
                    leaves.setdefault(key, []).append(i)
            if leaves and self._are_supported(leaves):
                yield Explanation(leaves, sum(key.cost for key in leaves))

    def _are_supported(self, leaves: dict[Key, list[int]]) -> bool:
        """Whether each fitted number shows in a leaf of more than two entries."""
        return all(
            any(self.graph.params[i].size > 2 for i in positions)
            for key, positions in leaves.items()
            if key.id in ("R1", "C8") and not self._is_decay(key)
        )

    def _is_decay(self, key: Key) -> bool:
        decay = self.graph.weight_decay
        return bool(key.id == "R1" and decay and abs(abs(key.constant or 0) / decay - 1) < 1e-2)

    def _walk(self, starts: Iterator[State], best: float) -> list[Explanation]:
        """Walk back from the loss, the likeliest state first."""
        order = count()
        queue: list[tuple[float, int, int, State]] = []

        def push(state: State):
            cost = state.cost()
            if cost <= min(best, MOST_OF_LEAVES) + 1e-9:
                heapq.heappush(queue, (cost, state.position, next(order), state))

        for state in starts:
            push(state)
        found: list[Explanation] = []
        while queue and time.thread_time() < self.deadline:
            cost, _, _, state = heapq.heappop(queue)
            if cost > best + 1e-9:
                break
            if state.position < 0:
                explanation = self._explanation(state)
                if explanation is not None:
                    found.append(explanation)
                    best = min(best, explanation.cost)
                continue
            for after in self._after(state):
                push(after)
        return found

    def _starts(self) -> Iterator[State]:
        graph = self.graph
        right = Arrived(graph.deltas[graph.end], NOTHING)
        yield State(graph.end, {graph.end: (right,)}, {}, NOTHING, NOTHING, ())
        for key, position, delta in self.beginnings:
            yield self._start(position, delta, key)
        for key, position, delta in readings(graph, self.mine, self.tolerance.match):
            yield self._start(position, delta, key)

    def _double_starts(self) -> Iterator[State]:
        """Two mistakes at the output: a wrong δ whose rows or columns are also weighted."""
        graph = self.graph
        for key, position, delta in [*self.beginnings, *self._wrong_outputs()]:
            if position == graph.end and graph.z < graph.end and graph.output is not None:
                delta = graph.output.through(delta)
            for other, _, weighted in readings(graph, self.mine, self.tolerance.match, delta):
                if other.id != key.id:
                    yield self._start(graph.z, weighted, key, other)

    def _wrong_outputs(self) -> Iterator[Beginning]:
        """δ at z after a wrong backward step through the activation of the output."""
        if self.graph.z == self.graph.end - 1:
            for way in self.steps.ways(self.graph.end, self.graph.deltas[self.graph.end]):
                if way.dx[0] is not None:
                    yield Beginning(way.key, self.graph.z, way.dx[0])

    def _start(self, position: int, delta: np.ndarray, *keys: Key) -> State:
        arrived = (Arrived(delta, frozenset(keys)),)
        return State(position, {position: arrived}, {}, frozenset(keys), frozenset(keys), ())

    def _explanation(self, state: State) -> Explanation | None:
        leaves: dict[Key, list[int]] = {}
        for key, leaf in state.leaves:
            if leaf not in leaves.setdefault(key, []):
                leaves[key].append(leaf)
        visible = all(key in leaves for key in state.keys)
        covered = self.wrong <= {leaf for positions in leaves.values() for leaf in positions}
        if state.open or not visible or not covered or not self._are_supported(leaves):
            return None
        return Explanation({key: sorted(leaves[key]) for key in leaves}, state.cost())

    def _after(self, state: State) -> Iterator[State]:
        """The states after the next step of a walk."""
        i = state.position
        arrived = {j: parts for j, parts in state.arrived.items() if j != i}
        parts = state.arrived.get(i)
        if parts is None:
            yield state._replace(position=i - 1)
            return
        state = state._replace(arrived=arrived)
        whole = Arrived(
            sum(part.delta for part in parts[1:]) + parts[0].delta if len(parts) > 1
            else parts[0].delta,
            frozenset().union(*(part.trail for part in parts)),
            *(parts[0][2:] if len(parts) == 1 else ()),
        )  # fmt: skip
        yield from self._through(state, i, whole)
        for part in parts if len(parts) > 1 else ():
            key = Key("D7", "only the gradient of one use")
            yield from self._through(
                state.made(key), i, part._replace(trail=part.trail | {key}, source=None)
            )

    def _through(self, state: State, i: int, part: Arrived) -> Iterator[State]:
        """The states past a step, with each mistake possible there."""
        node = self.graph.nodes[i]
        dparams = node.dparams(part.delta)
        passes_on = any(j >= 0 for j in node.inputs)
        after_leaves = list(self._at_leaves(state, i, part, dparams))
        if not after_leaves and not self.steps.may_change_parameters(i):
            return
        dxs = node.dx(part.delta) if passes_on else ()
        for after in after_leaves:
            yield self._passed(after, i, part, dxs, part.trail)
        for key, dx, wrong_dparams in self._ways(state, i, part):
            trail = part.trail | {key}
            if wrong_dparams is None:
                for after in after_leaves:
                    yield self._passed(after.made(key), i, part, dx, trail)
            else:
                tainted = part._replace(trail=trail)
                for after in self._at_leaves(state.made(key), i, tainted, wrong_dparams):
                    yield self._passed(after, i, tainted, dx, trail)
        if node.leaves and passes_on:
            for key, delta in self._alternatives(i, part, ("A1", "A6")):
                trail = part.trail | {key}
                for after in after_leaves:
                    yield self._passed(after.made(key), i, part, node.dx(delta), trail)

    def _ways(self, state: State, i: int, part: Arrived) -> Iterator[Way]:
        if len(state.open) > 1 or state.cost() >= MOST:
            return
        scales = [key.constant for key in state.keys if key.constant and key.id.startswith("C")]
        yield from self.steps.ways(i, part.delta, scales)
        yield from self._updated(i, part.delta, scales)

    def _updated(self, i: int, dy: np.ndarray, scales) -> Iterator[Way]:
        """δ passed back through W − η·dW, with η read from the next leaf below."""
        node = self.graph.nodes[i]
        if node.linear is None or self.graph.learning_rate:
            return
        for step in self.steps.updates(node, dy, scales):
            rate = self._fitted_rate(node.inputs[0], node.dx(dy)[0], dy @ step.T)
            if rate is not None:
                key = Key("D2", f"W − {rate:.4g}·dW instead of W")
                yield Way(key, (dy @ (node.weight - rate * step).T,))

    def _fitted_rate(self, position: int, dx, change) -> float | None:
        """η if the next leaf below is a multiple of that for dx − η·change."""
        while position >= 0 and not self.graph.nodes[position].leaves:
            node = self.graph.nodes[position]
            if len(node.inputs) != 1:
                return None
            (position,), (dx,), (change,) = node.inputs, node.dx(dx), node.dx(change)
        if position < 0:
            return None
        node = self.graph.nodes[position]
        for place, one, other in zip(
            node.places_of_leaves, node.dparams(dx), node.dparams(change), strict=True
        ):
            mine, leaf = self.mine[self.graph.leaf_of(place)], self.graph.leaf_of(place)
            if mine is None or mine.shape != one.shape or mine.size < 5:
                continue
            wanted = (mine - self.graph.decay(leaf)).ravel()
            matrix = np.stack([one.ravel(), other.ravel()], axis=1)
            found, _, rank, _ = np.linalg.lstsq(matrix, wanted, rcond=None)
            off = np.linalg.norm(matrix @ found - wanted)
            if rank == 2 and off <= self.tolerance.match * np.linalg.norm(wanted):
                rate = -float(found[1] / found[0]) if found[0] else 0.0
                return rate if 1e-7 < abs(rate) < 10 else None
        return None

    def _passed(self, state: State, i: int, part: Arrived, dxs, trail: Keys) -> State:
        """The state with δ passed to the inputs of a step."""
        arrived = dict(state.arrived)
        for j, dx in zip(self.graph.nodes[i].inputs, dxs, strict=False):
            if j >= 0 and dx is not None:
                new = Arrived(dx, trail, i, part.delta, part.trail)
                arrived[j] = (*arrived.get(j, ()), new)
        return state._replace(position=i - 1, arrived=arrived)

    def _at_leaves(self, state: State, i: int, part: Arrived, dparams) -> Iterator[State]:
        """The states in which every leaf of a step is explained."""
        node = self.graph.nodes[i]
        if not node.leaves:
            yield state
            return
        contributions = dict(state.contributions)
        complete = []
        for j, (place, grad) in enumerate(zip(node.places_of_leaves, dparams, strict=True)):
            if not place.size:
                continue
            leaf = self.graph.leaf_of(place)
            placed = self.graph.placed(leaf, place, grad)
            contributions[leaf] = (*contributions.get(leaf, ()), (placed, part.trail))
            if self.last_use[leaf] == i:
                complete.append((j, leaf))
        state = state._replace(contributions=contributions)
        penalties = frozenset(key for key in state.keys if key.id == "R1")
        options = [self._plain(leaf, contributions[leaf], penalties) for _, leaf in complete]
        if complete and state.open and not self._any_shows(complete, options):
            if len(state.open) > 1:
                return
            options = [self._penalised(leaf, contributions[leaf]) for _, leaf in complete]
            if not self._any_shows(complete, options):
                return
        for n, (j, leaf) in enumerate(complete):
            if not options[n]:
                options[n] = list(self._unusual(state, i, j, leaf, part, contributions[leaf]))
            if not options[n]:
                return
        for chosen in product(*options):
            yield self._with_leaves(state, [leaf for _, leaf in complete], chosen)

    def _any_shows(self, complete, options) -> bool:
        """Whether a leaf of several numbers is explained."""
        leaves = zip(complete, options, strict=True)
        return any(found and self.graph.params[leaf].size > 1 for (_, leaf), found in leaves)

    def _plain(self, leaf: int, uses, penalties: Keys) -> list[tuple[Keys, Keys]]:
        """`(mistakes of the leaf, trail)` for each constant that explains a leaf."""
        total = sum(grad for grad, _ in uses)
        trail = frozenset().union(*(trail for _, trail in uses))
        return [(keys, trail) for keys in self.leaves[leaf].multiples(total, penalties)]

    def _penalised(self, leaf: int, uses) -> list[tuple[Keys, Keys]]:
        """Like `_plain`, for each term of a penalty."""
        total = sum(grad for grad, _ in uses)
        trail = frozenset().union(*(trail for _, trail in uses))
        return [(keys, trail) for keys in self.leaves[leaf].penalised(total)]

    def _unusual(self, state, i, j, leaf, part: Arrived, uses) -> Iterator[tuple[Keys, Keys]]:
        """Like `_plain`, for the mistakes that affect only this leaf."""
        own = self.leaves[leaf]
        trail = frozenset().union(*(trail for _, trail in uses))
        if (key := own.without()) is not None:
            yield frozenset([key]), trail
            return
        if len(uses) > 1:
            for grad, trail_of_use in uses:
                for keys in own.multiples(grad):
                    yield keys | {Key("D7", "only one use of the parameter")}, trail_of_use
        total = sum(grad for grad, _ in uses)
        for keys in own.changed(total):
            yield keys, trail
        if len(uses) > 1 or not self._is_whole(i, j, leaf):
            return
        penalties = frozenset(key for key in state.keys if key.id == "R1")
        for key, gradient in self.wrong_leaves.of(i, j, part.delta):
            for keys in own.multiples(gradient, penalties) or own.both_vanish(gradient, part.delta):
                yield keys | {key}, trail
        for key, delta in self._alternatives(i, part):
            for keys in own.multiples(self.graph.nodes[i].dparams(delta)[j], penalties):
                yield keys | {key}, part.before

    def _is_whole(self, i, j, leaf) -> bool:
        """Whether the leaf of a step is a whole leaf of the parameters."""
        return self.graph.nodes[i].leaves[j].shape == self.graph.params[leaf].shape

    def _alternatives(self, i: int, part: Arrived, ids=()) -> Iterator[tuple[Key, np.ndarray]]:
        """Wrong δ at a step from a mistake in the next step, or at the output."""
        if part.source is not None and part.dy is not None:
            after = self.graph.nodes[part.source]
            for way in self.steps.ways(part.source, part.dy, ids=ids):
                for j, dx in zip(after.inputs, way.dx, strict=True):
                    if j == i and dx is not None:
                        yield way.key, dx
        if i == self.graph.z and not part.trail:
            for key, position, delta in self.beginnings:
                if position == i and (not ids or key.id in ids):
                    yield key, delta

    def _with_leaves(self, state: State, leaves: list[int], chosen) -> State:
        marks, keys, seen = list(state.leaves), set(state.keys), set()
        for leaf, (own, trail) in zip(leaves, chosen, strict=True):
            keys |= own
            marks += [(key, leaf) for key in own]
            if leaf in self.wrong:
                marks += [(key, leaf) for key in trail]
            seen |= trail
        return state._replace(
            keys=frozenset(keys), open=state.open - seen, leaves=tuple(dict.fromkeys(marks))
        )


def _common_bound(mine: list[np.ndarray]) -> float | None:
    """The largest absolute value of an entry, if several entries attain it."""
    entries = np.abs(np.concatenate([m.ravel() for m in mine])) if mine else np.zeros(0)
    bound = float(entries.max(initial=0.0))
    return bound if np.sum(entries >= bound * (1 - 1e-12)) > 2 and bound else None


def _few(options: list[list[Keys]]) -> Iterator[tuple[Keys, ...]]:
    """A choice for each leaf, with the fewest mistakes in total."""
    best: dict[frozenset, tuple[Keys, ...]] = {NOTHING: ()}
    for choices in options:
        grown: dict[frozenset, tuple[Keys, ...]] = {}
        for keys, chosen in best.items():
            for choice in choices:
                grown.setdefault(keys | choice, (*chosen, choice))
        fewest = sorted(grown.items(), key=lambda item: sum(key.cost for key in item[0]))
        best = dict(fewest[:64])
    return iter(best.values())


def _distinct(explanations: list[Explanation]) -> list[Explanation]:
    """One explanation for each set of mistakes, regardless of the variant."""
    chosen: dict[frozenset, Explanation] = {}
    for explanation in explanations:
        ids = frozenset(key.id for key in explanation.leaves)
        chosen.setdefault(ids, explanation)
    return list(chosen.values())
