"""The search for the change of one step that corrects a wrong gradient."""

import ast
import linecache
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.gradcheck.repair.changes import SIGN_OF_TERM, changes
from jaxnn.gradcheck.repair.edits import (
    Edit,
    Place,
    Site,
    is_alias,
    name_of_call,
    parsed,
    restore,
    results,
    sites,
    text,
)
from jaxnn.gradcheck.repair.guard import OutOfTime, Watchdog, silence
from jaxnn.gradcheck.repair.insertions import arrays, constants, derivatives, forgotten
from jaxnn.gradcheck.repair.probe import record
from jaxnn.gradcheck.repair.source import units_of
from jaxnn.gradcheck.repair.suspects import suspect

MOST_ALTERNATIVES = 3
LONGEST = 72
MOST_COST = 9
GIVEN = (ast.Name, ast.Attribute, ast.Subscript)


class Trial(NamedTuple):
    """A backward at one set of arguments and with one dy, with its true gradients.

    Attributes:
        run: computes value and gradients afresh, the same at each call: on copies of the arguments
            and of the objects, with the random generators reset, and under `jax.disable_jit()` for
            code that JAX compiles, since a cached program ignores a change of the source. The value
            is None if the code returns none.
        truth: the true gradients by leaf name.
        tolerance: the relative error that a right gradient may have.
        forward: computes the value alone, in the same way; None if no part of the code does so.
    """

    run: Callable[[], tuple[Any, Mapping[str, Any]]]
    truth: Mapping[str, Any]
    tolerance: float = 1e-6
    forward: Callable[[], Any] | None = None


class Repair(NamedTuple):
    """A change of one step that corrects gradients.

    Attributes:
        file: the name of the file.
        line: the number of the line that changes.
        before: the source of that line.
        after: the part that changes, as it should be.
        reason: a short description of the mistake.
        leaves: the gradients that it corrects.
    """

    file: str
    line: int
    before: str
    after: str
    reason: str
    leaves: tuple[str, ...]

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: {self.before}"
        if not self.after:
            return f"{place}: {self.reason}"
        return f"{place}: write {self.after} here ({self.reason})"


class RepairSearch(NamedTuple):
    """The result of a search.

    Attributes:
        repairs: the repairs, one for each mistake.
        alternatives: changes at other lines with the same effect as the first repair.
        suspects: if no change repairs a gradient, the only statement that computes it from correct
            values; `after` is then empty.
        complete: whether all changes of one step were tried.
    """

    repairs: tuple[Repair, ...] = ()
    alternatives: tuple[Repair, ...] = ()
    suspects: tuple[Repair, ...] = ()
    complete: bool = False

    def sentences(self) -> list[str]:
        """The result in sentences: the repairs, and the location of any remaining mistake."""
        none = self.complete and not self.repairs
        return [
            *map(str, self.repairs),
            *(f"or {other}" for other in self.alternatives),
            *(["no single change repairs it"] if none else []),
            *map(str, self.suspects),
        ]

    def __str__(self) -> str:
        return "\n".join(self.sentences())


def find_repairs(
    trial: Trial,
    functions: Iterable[Callable] | None = None,
    *,
    confirm: Trial | None = None,
    seconds: float = 5.0,
) -> RepairSearch:
    """Change one step of a backward at a time until the gradient is right.

    The search tries changes in the functions that run, from the most plausible to the least. It
    replaces the code of these functions during a call and always restores it.

    Args:
        trial: the backward with arguments for which some of its gradients are wrong.
        functions: the functions in which, and in whose callees, code may be changed; None for all
            code that belongs neither to Python nor to an installed package.
        confirm: the same backward with other arguments and another dy. A change counts only if the
            gradients are right there too.
        seconds: the time limit of the search.

    Returns:
        The repairs; none if the code raises an exception or its source cannot be found.
    """
    try:
        return search(trial, functions, confirm, seconds)
    except (Exception, OutOfTime):
        return RepairSearch()


def search(
    trial: Trial,
    functions: Iterable[Callable] | None,
    confirm: Trial | None,
    seconds: float,
) -> RepairSearch:
    """Like `find_repairs`, but exceptions of the unchanged code propagate."""
    deadline = time.perf_counter() + seconds
    with silence(), Watchdog() as watchdog:
        return _Search(trial, confirm, functions, watchdog, deadline).result()


class _Hit(NamedTuple):
    """An edit that corrects gradients."""

    edit: Edit
    site: Site
    leaves: frozenset[str]


class _Search:
    """A search and its findings."""

    def __init__(self, trial, confirm, functions, watchdog: Watchdog, deadline: float):
        self.trial, self.confirm, self.deadline = trial, confirm, deadline
        self.watchdog = watchdog
        self.limit = max(deadline - time.perf_counter(), 0.5)
        start = time.perf_counter()
        value, gradients = self._outcome(trial)
        self.value, self.gradients = jax.tree.leaves(value), dict(gradients)
        self.right = _right(trial, gradients)
        self.units = units_of(trial.run, functions)
        recording = record(self.units, trial.run)
        forwards = set() if trial.forward is None else set(record(self.units, trial.forward).order)
        took = time.perf_counter() - start
        self.limit = max(1.0, 5 * took)
        self.order = {mark: place for place, mark in enumerate(recording.order)}
        found = (site for unit in self.units for site in sites(unit, recording))
        self.sites = sorted(found, key=self._place)
        self.repeated = recording.repeated
        self._relevance: dict[int, frozenset[str] | None] = {}
        self.demanded: frozenset[str] = frozenset()
        for site in self.sites:
            site.relevant = partial(self._relevant, site)
        own = {_mark(site.statement) for site in self.sites}
        self.forwards = forwards if own - forwards else set()

    def result(self) -> RepairSearch:
        """All repairs found within the time limit."""
        wrong = frozenset(self.trial.truth) - self.right
        if not wrong:
            return RepairSearch(complete=True)
        hits, complete = self._pass(wrong, wrong)
        best = self._likeliest([hit for hit in hits if hit.leaves == wrong])
        if best:
            best += self._same_elsewhere(best, wrong)
            return RepairSearch((self._repair(best[0]),), tuple(map(self._repair, best[1:])))
        if complete and len(wrong) > 1:
            hits, complete = self._pass(wrong, frozenset())
        return self._several(hits, wrong, complete)

    def _pass(self, wrong: frozenset[str], demanded: frozenset[str]) -> tuple[list[_Hit], bool]:
        """The edits that repair something, up to the lowest cost at which one repairs everything.

        Args:
            wrong: the gradients that are wrong.
            demanded: the gradients that must depend on what an edit changes.

        Returns:
            The edits, and whether all were tried.
        """
        self.demanded = demanded
        hits: list[_Hit] = []
        for tier in self._tiers():
            hits += self._hits(tier, wrong)
            if any(hit.leaves == wrong for hit in hits):
                break
        return hits, time.perf_counter() < self.deadline

    def _same_elsewhere(self, best: list[_Hit], wrong: frozenset[str]) -> list[_Hit]:
        """The other statements where a sign or a factor has the same effect as the best repair."""
        scales = best[0].edit.reason == SIGN_OF_TERM or _changes_scale(best[0].edit)
        if len(best) > 1 or not scales:
            return []
        others = [
            site
            for site in self.sites
            if site is not best[0].site and not self._in_forward(site) and self._may_matter(site)
        ]
        hits = [hit for site in others for hit in self._hits(_scalings(site), wrong)[:1]]
        return [hit for hit in hits if hit.leaves == wrong][: MOST_ALTERNATIVES - 1]

    def _several(self, hits: list[_Hit], wrong: frozenset[str], complete: bool) -> RepairSearch:
        """Several repairs, each for some of the leaves."""
        repairs = []
        left = wrong
        while hits:
            hits = [hit for hit in hits if hit.leaves <= left]
            if not hits:
                break
            most = max(len(hit.leaves) for hit in hits)
            largest = [hit for hit in hits if len(hit.leaves) == most]
            cost = min(hit.edit.cost for hit in largest)
            best = self._likeliest([hit for hit in largest if hit.edit.cost == cost])[0]
            repairs.append(self._repair(best))
            left -= best.leaves
        return RepairSearch(tuple(repairs), (), tuple(self._suspects(left)), complete)

    def _suspects(self, wrong: frozenset[str]) -> Iterator[Repair]:
        """The statements that alone compute wrong gradients."""
        right = {leaf: self.gradients[leaf] for leaf in self.right if leaf in self.gradients}
        found: dict[int, tuple[Site, list[str]]] = {}
        for leaf in self.trial.truth:
            if leaf in wrong and self.gradients.get(leaf) is not None:
                site = suspect(self.sites, self.gradients[leaf], right, self.forwards)
                if site is not None:
                    found.setdefault(id(site), (site, []))[1].append(leaf)
        for site, leaves in found.values():
            file, line = site.unit.file, site.line
            reason = "this statement alone computes the wrong gradient"
            before = _source(file, line)
            yield Repair(PurePath(file).name, line, before, "", reason, tuple(leaves))

    def _tiers(self) -> Iterator[list[tuple[Edit, Site]]]:
        """The edits of each cost in turn, until the time is up."""
        found: dict[int, list[tuple[Edit, Site]]] = {}
        kinds = (
            (forgotten, 0),
            (changes, 2),
            (constants, 3),
            (arrays, 4),
            (derivatives, MOST_COST),
        )
        for edits, last in kinds:
            for site in self.sites:
                if time.perf_counter() < self.deadline and self._may_matter(site):
                    for edit in edits(site):
                        self._file(found, edit, site)
            for cost in range(last + 1):
                yield found.pop(cost, [])

    def _may_matter(self, site: Site) -> bool:
        """Whether the wrong gradients may depend on the result of a statement."""
        computed = list(results(site))
        if not computed or not all(site.floating(place.node) for place in computed):
            return True
        if len(computed) == 1:
            return site.relevant(computed[0])
        effects = [self._effects(site, place) for place in computed]
        changed = frozenset().union(*(effect or () for effect in effects))
        return None in effects or (bool(changed) and changed >= self.demanded)

    def _file(self, found, edit: Edit, site: Site) -> None:
        """File an edit under its cost; a correct forward needs no insertions."""
        in_forward = self._in_forward(site)
        if in_forward and edit.added:
            return
        cost = edit.cost + 2 * in_forward
        found.setdefault(cost, []).append((edit, site))

    def _in_forward(self, site: Site) -> bool:
        return _mark(site.statement) in self.forwards

    def _hits(self, tier, wrong: frozenset[str]) -> list[_Hit]:
        """The edits that make wrong gradients right and leave the right ones right."""
        hits = []
        for edit, site in tier:
            if time.perf_counter() > self.deadline:
                break
            if not _may_help(edit, site):
                continue
            leaves = self._made_right(edit, site, self.trial) & wrong
            if leaves and (
                self.confirm is None or leaves <= self._made_right(edit, site, self.confirm)
            ):
                hits.append(_Hit(edit, site, leaves))
        return hits

    def _made_right(self, edit: Edit, site: Site, trial: Trial) -> frozenset[str]:
        """The gradients that an edit corrects; none if it breaks another one or the value."""
        try:
            value, gradients = self._changed(edit, site, trial)
        except (Exception, OutOfTime):
            return frozenset()
        right = _right(trial, gradients)
        unchanged = trial is not self.trial or _equal(jax.tree.leaves(value), self.value)
        return right if self.right <= right and unchanged else frozenset()

    def _relevant(self, site: Site, place: Place) -> bool:
        """Whether a change at a place changes the wrong gradients, and no right one.

        A place that runs several times may also contribute to right gradients.
        """
        changed = self._effects(site, place)
        if changed is None:
            return True
        harmless = _mark(place.node) in self.repeated or not changed & self.right
        return bool(changed) and harmless and changed >= self.demanded

    def _effects(self, site: Site, place: Place) -> frozenset[str] | None:
        """The gradients that a change at a place changes; None if it cannot be changed."""
        key = _mark(place.node)
        if key not in self._relevance:
            moved = parsed("0.61 + 1.37 * a", a=place.node)
            try:
                value, gradients = self._changed(site.edit(place, moved, 0, ""), site, self.trial)
            except (Exception, OutOfTime):
                self._relevance[key] = None
                return None
            serves_value = not _equal(jax.tree.leaves(value), self.value)
            self._relevance[key] = frozenset(
                leaf
                for leaf in self.trial.truth
                if not serves_value and self._differs(leaf, gradients)
            )
        return self._relevance[key]

    def _differs(self, leaf: str, gradients) -> bool:
        before, after = self.gradients.get(leaf), gradients.get(leaf)
        if before is None or after is None:
            return before is not after
        return _error(after, before) > 1e-9

    def _changed(self, edit: Edit, site: Site, trial: Trial):
        """Value and gradients with an edit."""
        before = edit.apply()
        try:
            with site.unit.swapped():
                return self._outcome(trial)
        finally:
            restore(before)

    def _outcome(self, trial: Trial):
        with self.watchdog.limit(self.limit):
            return trial.run()

    def _likeliest(self, hits: list[_Hit]) -> list[_Hit]:
        """The likeliest hit of each line, the likeliest lines first."""
        cost = min((hit.edit.cost for hit in hits), default=0)
        hits = [hit for hit in hits if hit.edit.cost == cost]
        kept = [hit for hit in hits if hit.edit.added not in ("constant", "array")] or hits
        added = {hit.edit.added for hit in kept}
        if hits and "" not in added:
            kept = _without_bare_names(kept)
            kept.sort(key=lambda hit: self._place(hit.site), reverse="constant" not in added)
            kept.sort(key=lambda hit: not is_alias(hit.site.statement))
            if "order" in added or is_alias(kept[0].site.statement):
                kept = [hit for hit in kept if hit.site is kept[0].site]
        lines: dict[tuple[str, int], _Hit] = {}
        for hit in kept:
            lines.setdefault((hit.site.unit.file, _line(hit.edit)), hit)
        return list(lines.values())[:MOST_ALTERNATIVES]

    def _place(self, site: Site) -> int:
        return self.order.get(_mark(site.statement), 0)

    def _repair(self, hit: _Hit) -> Repair:
        edit, file = hit.edit, hit.site.unit.file
        line = _line(edit)
        return Repair(
            PurePath(file).name,
            line,
            _source(file, line),
            _repaired_form(edit),
            edit.reason,
            tuple(leaf for leaf in self.trial.truth if leaf in hit.leaves),
        )


def _changes_scale(edit: Edit) -> bool:
    """Whether an edit swaps a sum and a mean, or changes a number."""
    old, new = edit.changes[0][0].node, edit.changes[0][1]
    if isinstance(old, ast.Constant):
        return isinstance(new, ast.Constant)
    means = ("sum", "mean")
    calls = isinstance(old, ast.Call) and isinstance(new, ast.Call)
    return calls and name_of_call(old) in means and name_of_call(new) in means


def _scalings(site: Site) -> list[tuple[Edit, Site]]:
    """The signs and factors that may be missing in the result of a statement."""
    return [
        (edit, site)
        for edit in constants(site)
        if edit.cost == 3 and not _only_hands_on(edit.changes[0][0])
    ]


def _only_hands_on(place: Place) -> bool:
    """Whether a name stands alone, not in a formula."""
    return isinstance(place.node, GIVEN) and not isinstance(place.parent, ast.BinOp)


def _mark(node: ast.AST) -> int:
    """The number by which the recording identifies a node."""
    return getattr(node, "mark", -1)


def _may_help(edit: Edit, site: Site) -> bool:
    """Whether wrong gradients, and no right ones, depend on the value that an edit changes."""
    place = edit.changes[0][0]
    if len(edit.changes) > 1 or not isinstance(place.node, ast.expr):
        return True
    around = _result_around(site, place)
    return all(site.floating(part.node) is None or site.relevant(part) for part in (*around, place))


def _result_around(site: Site, place: Place) -> list[Place]:
    """The expression, of those that a statement computes, that contains a place."""
    computed = list(results(site))
    if len(computed) == 1:
        return []
    return [part for part in computed if place.node in ast.walk(part.node)]


def _right(trial: Trial, gradients: Mapping[str, Any]) -> frozenset[str]:
    """The leaves whose gradients are right."""
    return frozenset(
        leaf
        for leaf, truth in trial.truth.items()
        if _error(gradients.get(leaf), truth) <= trial.tolerance
    )


def _error(mine, truth) -> float:
    """The relative error of a gradient, the absolute one where the truth is zero."""
    if mine is None:
        return np.inf
    mine, truth = np.asarray(mine), np.asarray(truth)
    if mine.shape != truth.shape or mine.dtype == object:
        return np.inf
    wide = np.complex128 if "c" in (mine.dtype.kind, truth.dtype.kind) else np.float64
    mine, truth = mine.astype(wide), truth.astype(wide)
    off, size = float(np.linalg.norm(mine - truth)), float(np.linalg.norm(truth))
    error = off / size if size else off
    return error if np.isfinite(error) else np.inf


def _equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(_error(x, y) <= 1e-9 for x, y in zip(a, b, strict=True))


def _without_bare_names(hits: list[_Hit]) -> list[_Hit]:
    """The hits without those in values that are only returned or unpacked, unless all are."""

    def bare(hit):
        handing_on = isinstance(hit.site.statement, ast.Return) or (
            isinstance(hit.site.statement, ast.Assign)
            and isinstance(hit.site.statement.targets[0], ast.Tuple)
        )
        return handing_on and any(isinstance(place.node, GIVEN) for place, _ in hit.edit.changes)

    return [hit for hit in hits if not bare(hit)] or hits


def _line(edit: Edit) -> int:
    """The line of the first node that changes."""
    node = edit.changes[0][0].node
    return node.lineno if isinstance(node, ast.expr) else edit.statement.lineno


def _source(file: str, line: int) -> str:
    """A line of a file without its comment, shortened."""
    source = linecache.getline(file, line).strip()
    source = source.split("  #")[0].rstrip()
    return source if len(source) <= LONGEST else source[: LONGEST - 1] + "…"


def _repaired_form(edit: Edit) -> str:
    """The smallest part of the repaired statement that shows the change."""
    before = edit.apply()
    try:
        place, new = edit.changes[0]
        if isinstance(new, ast.stmt):
            return text(new)
        if not isinstance(new, ast.expr):
            return text(edit.statement)
        if isinstance(place.parent, ast.keyword):
            return f"{place.parent.arg}={text(new)}"
        small = isinstance(new, ast.Constant | ast.Name | ast.Attribute | ast.Subscript)
        whole = (small or len(edit.changes) > 1) and isinstance(place.parent, ast.expr)
        return text(place.parent if whole else new)
    finally:
        restore(before)
