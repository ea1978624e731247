"""The laws that a backward obeys, each a function from a trial to what breaks it.

A trial is one function at one set of arguments; it remembers what has been computed, so that
the laws together compile little more than one of them. A law returns an empty list where it
holds.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.explain import relation
from jaxnn.gradcheck.laws.comparison import (
    broken,
    broken_at,
    eps,
    first_index,
    judge,
    judge_value,
    relative_error,
    representable,
    terms,
    wide,
)
from jaxnn.gradcheck.laws.evaluation import Trial, compiled, short_decimals
from jaxnn.gradcheck.laws.oracle import is_differentiable
from jaxnn.gradcheck.report import Finding


def runs(trial) -> list[Finding]:
    """`fwd` returns a pair and `bwd` a tuple, without raising."""
    try:
        result = trial.forward()
    except Exception as error:
        return [broken("runs", f"fwd raised {_said(error)}")]
    if not isinstance(result, tuple) or len(result) != 2:
        return [broken("runs", f"fwd must return (y, residuals) and returned {_kind(result)}")]
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(result[0])):
        return [broken("runs", f"the y of fwd must be an array, not {_kind(result[0])}")]
    try:
        definition = trial.shape_of_definition()
    except Exception as error:
        return [broken("runs", f"the definition raised {_said(error)}")]
    shapes = [jax.tree.map(np.shape, result[0]), definition]
    if shapes[0] != shapes[1]:
        message = f"fwd gives y of shape {shapes[0]} but the definition gives {shapes[1]}"
        return [broken("runs", message)]
    try:
        grads = trial.call[1]
    except Exception as error:
        return [broken("runs", f"bwd raised {_said(error)}")]
    expected = len(trial.args)
    if not isinstance(grads, tuple) or len(grads) != expected:
        got = f"{len(grads)} entries" if isinstance(grads, tuple) else _kind(grads)
        message = f"bwd must return a tuple of {expected}, one for each argument, and gave {got}"
        return [broken("runs", message)]
    return []


def structure(trial) -> list[Finding]:
    """Each gradient has its argument's tree, shapes and dtypes; what has no gradient is `None`."""
    findings = []
    for name, arg, grad in zip(trial.subject.arguments, trial.args, trial.call[1], strict=True):
        floating = [is_differentiable(leaf) for leaf in jax.tree.leaves(arg)]
        at = partial(broken_at, "structure")
        if not any(floating):
            if any(is_differentiable(g) for g in jax.tree.leaves(grad)):
                findings.append(at(name, "must be None: the argument has no gradient"))
        elif grad is None:
            findings.append(at(name, "is None but the argument has a gradient"))
        elif jax.tree.structure(grad) != jax.tree.structure(arg):
            trees = f"{jax.tree.structure(grad)} but the argument has {jax.tree.structure(arg)}"
            findings.append(at(name, f"has the tree {trees}"))
        else:
            for (path, a), g in zip(
                jax.tree_util.tree_leaves_with_path(arg), jax.tree.leaves(grad), strict=True
            ):
                leaf = name + jax.tree_util.keystr(path)
                if np.shape(g) != a.shape:
                    hint = _shape_hint(trial, leaf, np.asarray(g))
                    findings.append(
                        at(leaf, f"has shape {np.shape(g)} but {leaf} has {a.shape}{hint}")
                    )
                elif g.dtype != a.dtype:
                    findings.append(at(leaf, f"has dtype {g.dtype} but {leaf} has {a.dtype}"))
    return findings


def finite(trial) -> list[Finding]:
    """Value and gradients are finite wherever the true ones are."""
    y, mine = trial.call[0], trial.gradients(trial.dy)
    true_y, true = trial.truth(trial.dy)
    findings = []
    for part, truth in zip(jax.tree.leaves(y), jax.tree.leaves(true_y), strict=True):
        lost = representable(truth, part.dtype) & ~np.isfinite(wide(part))
        if lost.any():
            findings.append(
                broken("finite", f"the value is not finite at index {first_index(lost)}")
            )
    for (path, _), g, t in zip(trial.variables, mine, true, strict=True):
        lost = representable(t, trial.dtype) & ~np.isfinite(wide(g))
        if lost.any():
            findings.append(
                broken_at("finite", path, f"is not finite at index {first_index(lost)}")
            )
    return findings


def value(trial) -> list[Finding]:
    """`fwd` gives the value of the definition."""
    return judge_value(trial, "fwd", trial.call[0])


def gradient(trial) -> list[Finding]:
    """Each gradient is that of the definition, for a random cotangent."""
    return judge("gradient", trial, trial.dy, trial.gradients(trial.dy))


def eager(trial) -> list[Finding]:
    """Plain calls give the gradient that compiled ones give."""
    if not trial.traceable:
        return []
    return judge("eager", trial, trial.dy, trial.of_variables(trial.call[1]))


def export(trial) -> list[Finding]:
    """The function that `jax.grad` is given has the definition's value and gradient."""
    if trial.subject.exported is None:
        return []
    y, grads = trial.pulled_back
    return [
        *judge_value(trial, "the function itself", y),
        *judge("export", trial, trial.dy, grads),
    ]


def one_entry(trial) -> list[Finding]:
    """A cotangent on one entry alone gives the gradient of that entry."""
    leaves, tree = jax.tree.flatten(trial.dy)
    if leaves[0].size < 2:
        return []
    entry = np.random.default_rng(trial.seed).integers(leaves[0].size)
    alone = [np.zeros_like(leaf) for leaf in leaves]
    alone[0].reshape(-1)[entry] = np.asarray(leaves[0]).reshape(-1)[entry]
    dy = jax.tree.unflatten(tree, alone)
    return judge("one_entry", trial, dy, trial.gradients(dy))


def linearity(trial) -> list[Finding]:
    """`bwd` is linear in dy: bwd(0) = 0 and bwd(½g − 2h) = ½·bwd(g) − 2·bwd(h)."""
    g, h = trial.dy, trial.cotangent(trial.call[0], trial.seed + 1)
    mixed = jax.tree.map(lambda g, h: (0.5 * g - 2 * h).astype(g.dtype), g, h)
    of_zero, of_mixed, of_g, of_h = (
        trial.gradients(dy) for dy in (jax.tree.map(np.zeros_like, g), mixed, g, h)
    )
    findings = []
    for (path, a), d0, dm, dg, dh in zip(
        trial.variables, of_zero, of_mixed, of_g, of_h, strict=True
    ):
        if np.isfinite(wide(dg)).all() and np.any(wide(d0) != 0):
            findings.append(broken_at("linearity", path, "is not zero for a cotangent of zero"))
            continue
        compared = np.all([np.isfinite(wide(d)) for d in (dm, dg, dh)], axis=0)
        dm, dg, dh = (np.where(compared, wide(d), 0) for d in (dm, dg, dh))
        off, *parts = dm - 0.5 * dg + 2 * dh, 0.5 * dg, 2 * dh
        error = np.linalg.norm(off) / max(sum(map(np.linalg.norm, parts)), np.finfo(float).tiny)
        if error > 16 * eps(a.dtype) * np.sqrt(terms(trial, a)):
            message = f"is not linear in dy: for ½g − 2h it is off by {error:.1e} of its norm"
            findings.append(broken_at("linearity", path, message, error))
    return findings


def determinism(trial) -> list[Finding]:
    """The same arguments give the same bits."""
    once, again = (trial.gradients(trial.dy) for _ in range(2))
    plain = trial.of_variables(trial.call[1])
    _, residuals = trial.subject.fwd(*trial.args)
    plain_again = trial.of_variables(trial.subject.bwd(residuals, trial.dy))
    return [
        broken_at("determinism", path, "differs between two calls with the same arguments")
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
    stacked = [jax.tree.map(_stacked, *parts) for parts in (batch, dys)]
    mapped = trial.of_variables(_mapped(trial.subject, *stacked))
    looped = [
        trial.of_variables(compiled(trial.subject, args, dy)[1])
        for args, dy in zip(batch, dys, strict=True)
    ]
    findings = []
    for i, (path, leaf) in enumerate(trial.variables):
        expected = np.stack([wide(grads[i]) for grads in looped])
        compared = np.isfinite(expected)
        error = relative_error(
            np.where(compared, wide(mapped[i]), 0), np.where(compared, expected, 0)
        )
        if not error <= 64 * eps(leaf.dtype) * np.sqrt(terms(trial, leaf)):
            message = f"under vmap is off by {error:.1e} from one call after the other"
            findings.append(broken_at("vmap", path, message, error))
    return findings


def second_order(trial) -> list[Finding]:
    """Differentiating value and gradient once more (reverse over reverse) is right too."""
    if trial.subject.exported is None or not trial.traceable:
        return []
    of_gradients = [
        short_decimals(leaf, trial.seed + i) for i, (_, leaf) in enumerate(trial.variables)
    ]
    probes = trial.cotangent(trial.call[0], trial.seed + len(of_gradients)), of_gradients
    (ours, ours_dy), (theirs, theirs_dy) = (
        _second(function, trial, probes)
        for function in (trial.subject.exported, trial.subject.definition)
    )
    named = [*(path for path, _ in trial.variables), *["dy"] * len(jax.tree.leaves(ours_dy))]
    ours, theirs = [*ours, *jax.tree.leaves(ours_dy)], [*theirs, *jax.tree.leaves(theirs_dy)]
    scale = max([np.abs(wide(t)).max(initial=0) for t in theirs] + [1])
    findings = []
    for path, mine, true in zip(named, ours, theirs, strict=True):
        error = np.abs(wide(mine) - wide(true)).max(initial=0) / scale
        if not error <= 1e7 * eps(trial.dtype):
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


@partial(jax.jit, static_argnums=0)
def _mapped(subject, args, dy):
    def one(args, dy):
        _, residuals = subject.fwd(*args)
        return subject.bwd(residuals, dy)

    return jax.vmap(one)(args, dy)


def _second(function, trial, probes):
    """The gradient of ⟨probes, (value, gradient)⟩ with respect to the variables and dy."""
    leaves, tree = jax.tree.flatten(trial.args)
    floating = [is_differentiable(leaf) for leaf in leaves]

    def first(variables, dy):
        given = iter(variables)
        filled = [
            next(given) if floats else leaf for leaf, floats in zip(leaves, floating, strict=True)
        ]
        y, pullback = jax.vjp(function, *jax.tree.unflatten(tree, filled))
        cotangents = jax.tree.leaves(pullback(dy))
        return y, [d for d, floats in zip(cotangents, floating, strict=True) if floats]

    variables = [leaf for _, leaf in trial.variables]
    return jax.jit(lambda variables, dy: jax.vjp(first, variables, dy)[1](probes))(
        variables, trial.dy
    )


def _scaled(leaf, factor):
    """A multiple of a leaf that has a gradient, by NumPy: nothing is compiled for it."""
    return (factor * wide(leaf)).astype(leaf.dtype) if is_differentiable(leaf) else leaf


def _stacked(*leaves):
    return np.stack(leaves) if is_differentiable(leaves[0]) else jnp.stack(leaves)


def _said(error) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _kind(thing) -> str:
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"{type(thing).__name__}"


def _shape_hint(trial, path, grad) -> str:
    """Words for a gradient of the wrong shape that holds the right numbers."""
    _, true = trial.truth(trial.dy)
    truth = true[[name for name, _ in trial.variables].index(path)]
    known = relation(wide(grad), truth, trial.sizes)
    return f": it {known}" if known else ""


def _same(a, b) -> bool:
    return np.array_equal(wide(a), wide(b), equal_nan=True)
