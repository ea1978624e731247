"""The facts about wrong gradients of a JAX function, to name the mistake and find its line."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import cast, is_differentiable, relative_or_absolute_error, wide
from jaxnn.gradcheck.explain import Evidence, explain_all
from jaxnn.gradcheck.laws.evaluation import EXACT, Evaluation
from jaxnn.gradcheck.laws.program import x64_is_on
from jaxnn.gradcheck.repair import Trial, find_repairs

EXACTLY = 1e-9  # relative rounding error of the author's steps in float64
ROUNDED = 30.0  # units in the last place by which eager steps in low precision may differ
SMALL = 1 / 64  # the size of a dy too small to be clipped
SECONDS = 6.0


def explanations(evaluation: Evaluation) -> dict[str, str]:
    """The explanation of each wrong gradient, by path; "" if none is known."""
    known = _evidence(evaluation)
    wrong = [
        path
        for path, given in known.given.items()
        if given.shape == known.truths[path].shape
        and relative_or_absolute_error(given, known.truths[path]) > EXACT
    ]
    return explain_all(wrong, known)


def repairs(evaluation: Evaluation) -> list[str]:
    """The wrong lines, each with the change that corrects the gradient."""
    functions = evaluation.checked.repairable
    if not functions or not evaluation.traceable:
        return []
    try:
        trial, confirm = _trial(evaluation), _trial(_elsewhere(evaluation))
        if not trial.truth:
            return []
        return find_repairs(trial, functions, confirm=confirm, seconds=SECONDS).sentences()
    except Exception:
        return []


def _evidence(evaluation) -> Evidence:
    """The arrays and functions from which the causes of wrong gradients are deduced."""
    paths = [path for path, _ in evaluation.variables]
    exact = evaluation.given is not None
    truth = evaluation.truth(evaluation.dy)

    def forward(arrays):
        leaves = [
            jnp.asarray(arrays[path]) if path in arrays else leaf
            for (path, _), leaf in zip(evaluation.leaves, evaluation.wide_leaves, strict=True)
        ]
        return tuple(map(np.asarray, evaluation.definition.wide_value(leaves)))

    def true_gradient(dys):
        dy = evaluation.filled([np.asarray(dy) for dy in dys])
        return dict(zip(paths, evaluation.true_gradient(dy), strict=True))

    return Evidence(
        sizes=evaluation.sizes,
        arrays=dict(evaluation.arrays),
        others=dict(evaluation.others),
        truths=dict(zip(paths, truth.grads, strict=True)),
        given=dict(zip(paths, evaluation.given_gradient(evaluation.dy), strict=True)),
        dy=tuple(wide(dy) for dy in evaluation.floating(evaluation.dy)),
        y=tuple(np.asarray(y) for y in truth.y),
        forward=forward if evaluation.traceable else None,
        true_gradient=true_gradient,
        resolution=EXACTLY if exact else 4 * evaluation.resolution,
    )


def _trial(evaluation) -> Trial:
    """The forward and backward in the form that the repair search runs: step by step."""
    paths = [path for path, _ in evaluation.variables]
    truths = dict(zip(paths, evaluation.truth(evaluation.dy).grads, strict=True))
    truths = {path: true for path, true in truths.items() if np.isfinite(true).all() and true.any()}
    wide_args = _with_leaves(evaluation, evaluation.wide_leaves)

    def run_at(args, dy):
        with jax.disable_jit():
            y, residuals = evaluation.checked.fwd(*args)
            grads = evaluation.checked.bwd(residuals, dy)
        given = dict(zip(paths, evaluation.of_variables(grads), strict=True))
        return y, {path: np.asarray(given[path]) for path in truths if given[path] is not None}

    def in_float64():
        with jax.enable_x64(True):
            return run_at(wide_args, jax.tree.map(jnp.asarray, cast(evaluation.dy, np.float64)))

    def as_written():
        return run_at(evaluation.args, evaluation.dy)

    def forward_of(args, x64):
        with jax.enable_x64(x64), jax.disable_jit():
            return evaluation.checked.fwd(*args)[0]

    if _runs_in_float64(in_float64, evaluation):
        return Trial(in_float64, truths, 1e-6, lambda: forward_of(wide_args, True))
    native = x64_is_on()
    tolerance = ROUNDED * evaluation.resolution
    return Trial(as_written, truths, tolerance, lambda: forward_of(evaluation.args, native))


def _runs_in_float64(run, evaluation) -> bool:
    """Whether the author's own steps run in float64, with the same results as in the program."""
    try:
        _, grads = run()
        given = dict(
            zip(
                [path for path, _ in evaluation.variables],
                evaluation.given_gradient(evaluation.dy),
                strict=True,
            )
        )
        return all(relative_or_absolute_error(g, given[path]) <= 1e-8 for path, g in grads.items())
    except Exception:
        return False


def _elsewhere(evaluation) -> Evaluation:
    """The same function with a small dy, at distant arguments of the same signs."""
    moved = []
    for leaf in jax.tree.leaves(evaluation.args):
        if is_differentiable(leaf):
            step = 1 + 0.9 * np.sin(1 + np.arange(np.size(leaf))).reshape(np.shape(leaf))
            leaf = jnp.asarray(leaf * step.astype(leaf.dtype), leaf.dtype)
        moved.append(leaf)
    args = _with_leaves(evaluation, moved)
    return Evaluation(evaluation.checked, args, evaluation.seed + 1, evaluation.plain, SMALL)


def _with_leaves(evaluation, leaves) -> tuple:
    return jax.tree.unflatten(jax.tree.structure(evaluation.args), leaves)
