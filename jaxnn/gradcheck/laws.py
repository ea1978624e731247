"""The laws that a backward obeys, each a function from a trial to what breaks it.

A trial is one function at one set of arguments; it remembers what has been computed, so that
the laws together compile little more than one of them. A law returns an empty list where it
holds.
"""

from collections.abc import Callable
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck import numerical, oracle
from jaxnn.gradcheck.oracle import is_differentiable
from jaxnn.gradcheck.relation import SAME, relation
from jaxnn.gradcheck.report import Finding
from jaxnn.gradcheck.subject import Subject

FLOAT64_TOLERANCE = 1e-10


class Trial:
    """One function at one set of arguments, with what the laws ask about it.

    Attributes:
        subject: the function.
        args: its arguments.
        seed: of the cotangents.
        notes: what a law has to say besides its findings.
    """

    def __init__(self, subject: Subject, args: tuple, seed: int = 0):
        self.subject, self.args, self.seed = subject, args, seed
        self.notes: list[str] = []
        self._truths: dict = {}

    @cached_property
    def leaves(self) -> list[tuple[str, jax.Array]]:
        """`(path, array)` for each array of the arguments."""
        return [
            (name + jax.tree_util.keystr(path), leaf)
            for name, arg in zip(self.subject.arguments, self.args, strict=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
        ]

    @property
    def variables(self) -> list[tuple[str, jax.Array]]:
        """Those of the leaves that have a gradient."""
        return [(path, leaf) for path, leaf in self.leaves if is_differentiable(leaf)]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The sizes of the arguments' axes, in words; those of plain arrays first."""
        plain_first = sorted(self.leaves, key=lambda named: "[" in named[0])
        return {
            f"the size of axis {axis} of {path}": size
            for path, leaf in plain_first
            for axis, size in enumerate(leaf.shape)
        }

    @cached_property
    def dtype(self) -> np.dtype:
        """The dtype of the variables."""
        return self.variables[0][1].dtype

    @cached_property
    def traceable(self) -> bool:
        """Whether JAX can trace the definition."""
        try:
            jax.eval_shape(self.subject.definition, *self.args)
        except jax.errors.JAXTypeError:
            return False
        return True

    @cached_property
    def eager(self):
        """Value and gradients of plain calls, without `jit`."""
        y, residuals = self.subject.fwd(*self.args)
        return y, self.subject.bwd(residuals, self.cotangent(y, self.seed))

    @cached_property
    def dy(self):
        """A random cotangent."""
        return self.cotangent(self.eager[0], self.seed)

    def cotangent(self, y, seed):
        """A random cotangent of `y`, an array of the kind that the function works with."""
        dy = short_decimals(y, seed)
        return jax.tree.map(jnp.asarray, dy) if self.traceable else dy

    def gradients(self, dy) -> list:
        """The gradient of each variable, as `bwd` has it."""
        if not self.traceable:
            _, residuals = self.subject.fwd(*self.args)
            return self.of_variables(self.subject.bwd(residuals, dy))
        return self.of_variables(_compiled(self.subject, self.args, dy)[1])

    def of_variables(self, grads) -> list:
        """The entries of what `bwd` returned that belong to variables."""
        entries = []
        for arg, grad in zip(self.args, grads, strict=True):
            leaves = jax.tree.leaves(arg)
            given = jax.tree.leaves(grad) if grad is not None else [None] * len(leaves)
            entries += [g for a, g in zip(leaves, given, strict=True) if is_differentiable(a)]
        return entries

    def truth(self, dy, dtype=jnp.float64):
        """Value and gradients of the variables by autodiff of the definition in a dtype."""
        key = (np.asarray(jax.tree.leaves(dy)[0]).tobytes(), np.dtype(dtype))
        if key not in self._truths:
            if self.traceable:
                y, grads = oracle.value_and_gradient(self.subject.definition, self.args, dy, dtype)
            else:
                args = [np.asarray(a) for a in oracle.cast(self.args, jnp.float64)]
                y = np.asarray(self.subject.definition(*args))
                grads, _ = numerical.gradient(self.subject.definition, args, np.asarray(dy))
            self._truths[key] = y, [g for g in grads if g is not None]
        return self._truths[key]


def runs(trial) -> list[Finding]:
    """`fwd` returns a pair and `bwd` a tuple, without raising."""
    subject = trial.subject
    try:
        result = subject.fwd(*trial.args)
    except Exception as error:
        return [_finding("runs", f"fwd raised {_said(error)}")]
    if not isinstance(result, tuple) or len(result) != 2:
        return [_finding("runs", f"fwd must return (y, residuals) and returned {_kind(result)}")]
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(result[0])):
        return [_finding("runs", f"the y of fwd must be an array, not {_kind(result[0])}")]
    try:
        definition = subject.definition(*trial.args)
    except Exception as error:
        return [_finding("runs", f"the definition raised {_said(error)}")]
    shapes = [jax.tree.map(np.shape, y) for y in (result[0], definition)]
    if shapes[0] != shapes[1]:
        message = f"fwd gives y of shape {shapes[0]} but the definition gives {shapes[1]}"
        return [_finding("runs", message)]
    try:
        grads = trial.eager[1]
    except Exception as error:
        return [_finding("runs", f"bwd raised {_said(error)}")]
    expected = len(trial.args)
    if not isinstance(grads, tuple) or len(grads) != expected:
        got = f"{len(grads)} entries" if isinstance(grads, tuple) else _kind(grads)
        message = f"bwd must return a tuple of {expected}, one for each argument, and gave {got}"
        return [_finding("runs", message)]
    return []


def structure(trial) -> list[Finding]:
    """Each gradient has its argument's tree, shapes and dtypes; what has no gradient is `None`."""
    findings = []
    for name, arg, grad in zip(trial.subject.arguments, trial.args, trial.eager[1], strict=True):
        floating = [is_differentiable(leaf) for leaf in jax.tree.leaves(arg)]
        off = partial(_off, "structure")
        if not any(floating):
            if any(is_differentiable(g) for g in jax.tree.leaves(grad)):
                findings.append(off(name, "must be None: the argument has no gradient"))
        elif grad is None:
            findings.append(off(name, "is None but the argument has a gradient"))
        elif jax.tree.structure(grad) != jax.tree.structure(arg):
            trees = f"{jax.tree.structure(grad)} but the argument has {jax.tree.structure(arg)}"
            findings.append(off(name, f"has the tree {trees}"))
        else:
            for (path, a), g in zip(
                jax.tree_util.tree_leaves_with_path(arg), jax.tree.leaves(grad), strict=True
            ):
                leaf = name + jax.tree_util.keystr(path)
                if np.shape(g) != a.shape:
                    hint = _shape_hint(trial, leaf, np.asarray(g))
                    findings.append(
                        off(leaf, f"has shape {np.shape(g)} but {leaf} has {a.shape}{hint}")
                    )
                elif g.dtype != a.dtype:
                    findings.append(off(leaf, f"has dtype {g.dtype} but {leaf} has {a.dtype}"))
    return findings


def finite(trial) -> list[Finding]:
    """Value and gradients are finite wherever the true ones are."""
    y, mine = trial.eager[0], trial.gradients(trial.dy)
    true_y, true = trial.truth(trial.dy)
    findings = []
    for part, truth in zip(jax.tree.leaves(y), jax.tree.leaves(true_y), strict=True):
        lost = _representable(truth, part.dtype) & ~np.isfinite(_wide(part))
        if lost.any():
            findings.append(_finding("finite", f"the value is not finite at index {_first(lost)}"))
    for (path, _), g, t in zip(trial.variables, mine, true, strict=True):
        lost = _representable(t, trial.dtype) & ~np.isfinite(_wide(g))
        if lost.any():
            findings.append(_off("finite", path, f"is not finite at index {_first(lost)}"))
    return findings


def value(trial) -> list[Finding]:
    """`fwd` gives the value of the definition."""
    return [
        finding
        for source, y in (("fwd", trial.eager[0]), *_exported_value(trial))
        for finding in _compare_values(trial, source, y)
    ]


def gradient(trial) -> list[Finding]:
    """Each gradient is that of the definition, for a random cotangent."""
    return _judge("gradient", trial, trial.dy, trial.gradients(trial.dy))


def eager(trial) -> list[Finding]:
    """Plain calls give the gradient that compiled ones give."""
    if not trial.traceable:
        return []
    return _judge("eager", trial, trial.dy, trial.of_variables(trial.eager[1]))


def export(trial) -> list[Finding]:
    """`jax.vjp` of the function that is differentiated gives the gradient of the definition."""
    if trial.subject.exported is None:
        return []
    _, grads = _pulled_back(trial.subject, trial.args, trial.dy)
    return _judge("export", trial, trial.dy, trial.of_variables(grads))


def one_entry(trial) -> list[Finding]:
    """A cotangent on one entry alone gives the gradient of that entry."""
    leaves, tree = jax.tree.flatten(trial.dy)
    if leaves[0].size < 2:
        return []
    entry = np.random.default_rng(trial.seed).integers(leaves[0].size)
    alone = [np.zeros_like(leaf) for leaf in leaves]
    alone[0].reshape(-1)[entry] = np.asarray(leaves[0]).reshape(-1)[entry]
    dy = jax.tree.unflatten(tree, alone)
    return _judge("one_entry", trial, dy, trial.gradients(dy))


def linearity(trial) -> list[Finding]:
    """`bwd` is linear in dy: bwd(0) = 0 and bwd(½g − 2h) = ½·bwd(g) − 2·bwd(h)."""
    g, h = trial.dy, trial.cotangent(trial.eager[0], trial.seed + 1)
    mixed = jax.tree.map(lambda g, h: (0.5 * g - 2 * h).astype(g.dtype), g, h)
    of_zero, of_mixed, of_g, of_h = (
        trial.gradients(dy) for dy in (jax.tree.map(np.zeros_like, g), mixed, g, h)
    )
    findings = []
    for (path, a), d0, dm, dg, dh in zip(
        trial.variables, of_zero, of_mixed, of_g, of_h, strict=True
    ):
        if np.isfinite(_wide(dg)).all() and np.any(_wide(d0) != 0):
            findings.append(_off("linearity", path, "is not zero for a cotangent of zero"))
            continue
        compared = np.all([np.isfinite(_wide(d)) for d in (dm, dg, dh)], axis=0)
        dm, dg, dh = (np.where(compared, _wide(d), 0) for d in (dm, dg, dh))
        off, *parts = dm - 0.5 * dg + 2 * dh, 0.5 * dg, 2 * dh
        error = np.linalg.norm(off) / max(sum(map(np.linalg.norm, parts)), np.finfo(float).tiny)
        if error > 16 * _eps(a.dtype) * np.sqrt(_terms(trial, a)):
            message = f"is not linear in dy: for ½g − 2h it is off by {error:.1e} of its norm"
            findings.append(_off("linearity", path, message, error))
    return findings


def determinism(trial) -> list[Finding]:
    """The same arguments give the same bits."""
    once, again = (trial.gradients(trial.dy) for _ in range(2))
    plain = trial.of_variables(trial.eager[1])
    _, residuals = trial.subject.fwd(*trial.args)
    plain_again = trial.of_variables(trial.subject.bwd(residuals, trial.dy))
    return [
        _off("determinism", path, "differs between two calls with the same arguments")
        for (path, _), a, b, c, d in zip(
            trial.variables, once, again, plain, plain_again, strict=True
        )
        if not (_same(a, b) and _same(c, d))
    ]


def vmap(trial) -> list[Finding]:
    """`vmap` of the backward gives what calling it on one example after the other gives."""
    if not trial.traceable:
        return []
    batch = [jax.tree.map(partial(_scaled, factor=f), trial.args) for f in (1, 0.5, 0.25)]
    dys = [jax.tree.map(partial(_scaled, factor=f), trial.dy) for f in (1, -1, 0.5)]
    stacked = [jax.tree.map(lambda *parts: jnp.stack(parts), *parts) for parts in (batch, dys)]
    mapped = trial.of_variables(_mapped(trial.subject, *stacked))
    looped = [
        trial.of_variables(_compiled(trial.subject, args, dy)[1])
        for args, dy in zip(batch, dys, strict=True)
    ]
    findings = []
    for i, (path, leaf) in enumerate(trial.variables):
        expected = np.stack([_wide(grads[i]) for grads in looped])
        compared = np.isfinite(expected)
        error = relative_error(
            np.where(compared, _wide(mapped[i]), 0), np.where(compared, expected, 0)
        )
        if not error <= 64 * _eps(leaf.dtype) * np.sqrt(_terms(trial, leaf)):
            message = f"under vmap is off by {error:.1e} from one call after the other"
            findings.append(_off("vmap", path, message, error))
    return findings


def second_order(trial) -> list[Finding]:
    """The gradient of the gradient (reverse over reverse) is that of the definition's."""
    if trial.subject.exported is None or not trial.traceable:
        return []
    probes = [short_decimals(leaf, trial.seed + i) for i, (_, leaf) in enumerate(trial.variables)]
    (ours, ours_dy), (theirs, theirs_dy) = (
        _second(function, trial, probes)
        for function in (trial.subject.exported, trial.subject.definition)
    )
    named = [*(path for path, _ in trial.variables), *["dy"] * len(jax.tree.leaves(ours_dy))]
    ours, theirs = [*ours, *jax.tree.leaves(ours_dy)], [*theirs, *jax.tree.leaves(theirs_dy)]
    scale = max([np.abs(_wide(t)).max(initial=0) for t in theirs] + [1])
    findings = []
    for path, mine, true in zip(named, ours, theirs, strict=True):
        error = np.abs(_wide(mine) - _wide(true)).max(initial=0) / scale
        if not error <= 1e7 * _eps(trial.dtype):
            message = f"the second derivative with respect to {path} is off by {error:.1e}"
            findings.append(Finding("second_order", path, error, message))
    return findings


LAWS: dict[str, Callable[[Trial], list[Finding]]] = {
    law.__name__: law
    for law in (
        runs,
        structure,
        finite,
        value,
        gradient,
        linearity,
        determinism,
        one_entry,
        eager,
        export,
        vmap,
        second_order,
    )
}


def short_decimals(like, seed):
    """Random numbers like an array (or a tree of them): multiples of 1/8, none of them zero.

    They are exact in every floating-point dtype and short to print.
    """
    leaves, tree = jax.tree.flatten(like)
    random = np.random.default_rng(seed)
    numbers = []
    for leaf in leaves:
        sizes = random.integers(1, 17, np.shape(leaf)) / 8
        signs = np.where(random.random(np.shape(leaf)) < 0.5, 1, -1)
        numbers.append(np.asarray(sizes * signs).astype(leaf.dtype))
    return jax.tree.unflatten(tree, numbers)


def relative_error(mine, truth) -> float:
    """‖mine − truth‖/‖truth‖, or ‖mine‖ where the truth is zero."""
    mine, truth = _wide(mine), _wide(truth)
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    if scale == 0:
        return 0.0
    norm = np.linalg.norm(truth / scale)
    difference = np.linalg.norm(mine / scale - truth / scale)
    return float(difference / norm) if norm else float(difference * scale)


_UNDER = {
    "gradient": "",
    "one_entry": "for a cotangent on one entry alone ",
    "eager": "without jit ",
    "export": "under jax.vjp of the function itself ",
}


def _judge(law, trial, dy, mine) -> list[Finding]:
    """Each gradient against float64, allowed what autodiff in its own dtype needs."""
    _, true = trial.truth(dy)
    _, rivals = trial.truth(dy, trial.dtype)
    findings = []
    for i, ((path, a), g, t, r) in enumerate(zip(trial.variables, mine, true, rivals, strict=True)):
        compared = _representable(t, trial.dtype)
        g, t, r = (np.where(compared, _wide(array), 0) for array in (g, t, r))
        bound = _bound(trial, a, relative_error(r, t))
        error = relative_error(g, t)
        if error <= bound or _explained_by_a_kink(trial, dy, i, g, t, bound):
            continue
        known = relation(g, t, trial.sizes) if law == "gradient" and error > SAME else ""
        off = f"is off by {error:.1e} of its norm; rounding explains {bound:.1e}"
        message = f"{_UNDER[law]}{known or off}"
        findings.append(_off(law, path, message, error))
    return findings


def _compare_values(trial, source, y) -> list[Finding]:
    true, _ = trial.truth(trial.dy)
    rival, _ = trial.truth(trial.dy, trial.dtype)
    findings = []
    for mine, t, r in zip(*map(jax.tree.leaves, (y, true, rival)), strict=True):
        compared = _representable(t, mine.dtype)
        mine, t, r = (np.where(compared, _wide(array), 0) for array in (mine, t, r))
        error, bound = relative_error(mine, t), _bound(trial, mine, relative_error(r, t))
        if not error <= bound:
            message = f"the value of {source} is off by {error:.1e} from the definition's"
            findings.append(Finding("value", "", error, message))
    return findings


def _exported_value(trial):
    if trial.subject.exported is None:
        return []
    return [("the function itself", _called(trial.subject, trial.args))]


def _bound(trial, leaf, rival_error) -> float:
    """How far a leaf may be from the truth.

    In float64, which is the truth's own precision, 1e-10 of its norm, or the error of the
    differences where autodiff cannot go. Below, twice the error of autodiff in the same dtype and
    4 units in the last place, times the square root of the number of terms that are summed.
    """
    if not trial.traceable:
        return 1e-6
    if trial.dtype == jnp.float64:
        return FLOAT64_TOLERANCE
    rounding = 4 * _eps(trial.dtype) * np.sqrt(_terms(trial, leaf))
    return 2 * np.nan_to_num(rival_error, nan=np.inf, posinf=np.inf) + rounding


def _terms(trial, leaf) -> float:
    """About how many terms are summed for an entry of a leaf: the largest array over its size."""
    largest = max(a.size for _, a in trial.leaves)
    return max(largest / max(np.size(leaf), 1), 1.0)


def _explained_by_a_kink(trial, dy, i, mine, truth, bound) -> bool:
    """Whether all that is off lies between the one-sided slopes of a point that is not smooth."""
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    wrong = np.argwhere(~(np.abs(mine - truth) <= bound * scale))
    if not trial.traceable or not 0 < len(wrong) <= 8:
        return False
    path, _ = trial.variables[i]
    which = next(k for k, (name, _) in enumerate(trial.leaves) if name == path)
    for index in map(tuple, wrong):
        slopes = sorted(
            oracle.one_sided_slopes(trial.subject.definition, trial.args, dy, which, index)
        )
        slack = 1e-3 * max(map(abs, slopes))
        if slopes[1] - slopes[0] <= slack or not (
            slopes[0] - slack <= mine[index] <= slopes[1] + slack
        ):
            return False
    places = ", ".join(f"{path}{[int(n) for n in index]}" for index in wrong)
    note = (
        f"not smooth here: at {places} the function has a kink, and the gradient given lies "
        "between its one-sided slopes, as autodiff's does"
    )
    if note not in trial.notes:
        trial.notes.append(note)
    return True


def _shape_hint(trial, path, grad) -> str:
    """Words for a gradient of the wrong shape that holds the right numbers."""
    _, true = trial.truth(trial.dy)
    truth = true[[name for name, _ in trial.variables].index(path)]
    known = relation(_wide(grad), truth, trial.sizes)
    return f": it {known}" if known else ""


@partial(jax.jit, static_argnums=0)
def _compiled(subject, args, dy):
    y, residuals = subject.fwd(*args)
    return y, subject.bwd(residuals, dy)


@partial(jax.jit, static_argnums=0)
def _called(subject, args):
    return subject(*args)


@partial(jax.jit, static_argnums=0)
def _pulled_back(subject, args, dy):
    y, pullback = jax.vjp(subject.exported, *args)
    return y, pullback(dy)


@partial(jax.jit, static_argnums=0)
def _mapped(subject, args, dy):
    def one(args, dy):
        _, residuals = subject.fwd(*args)
        return subject.bwd(residuals, dy)

    return jax.vmap(one)(args, dy)


def _second(function, trial, probes):
    """The gradient of ⟨probes, gradient⟩ with respect to the variables and dy."""
    leaves, tree = jax.tree.flatten(trial.args)
    floating = [is_differentiable(leaf) for leaf in leaves]

    def first(variables, dy):
        given = iter(variables)
        filled = [
            next(given) if floats else leaf for leaf, floats in zip(leaves, floating, strict=True)
        ]
        cotangents = jax.vjp(function, *jax.tree.unflatten(tree, filled))[1](dy)
        return [
            d for d, floats in zip(jax.tree.leaves(cotangents), floating, strict=True) if floats
        ]

    variables = [leaf for _, leaf in trial.variables]
    return jax.jit(lambda variables, dy: jax.vjp(first, variables, dy)[1](probes))(
        variables, trial.dy
    )


def _scaled(leaf, factor):
    return leaf * jnp.asarray(factor, leaf.dtype) if is_differentiable(leaf) else leaf


def _wide(array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _eps(dtype) -> float:
    return float(jnp.finfo(dtype).eps)


def _same(a, b) -> bool:
    return np.array_equal(_wide(a), _wide(b), equal_nan=True)


def _representable(truth, dtype) -> np.ndarray:
    """Where the truth is finite and does not overflow in a dtype."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(_wide(truth).astype(dtype)))


def _finding(law, message) -> Finding:
    return Finding(law, "", float("nan"), message)


def _off(law, path, message, error=float("nan")) -> Finding:
    return Finding(law, path, error, f"d_{path} {message}")


def _said(error) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _kind(thing) -> str:
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"{type(thing).__name__}"


def _first(mask) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
