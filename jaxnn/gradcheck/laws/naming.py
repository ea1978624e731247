"""How a wrong gradient of a JAX function differs from the true one, in one sentence."""

import jax
import numpy as np

from jaxnn.gradcheck.arrays import is_differentiable, relative_or_absolute_error
from jaxnn.gradcheck.explain import explain
from jaxnn.gradcheck.laws.evaluation import EXACT, Evaluation
from jaxnn.gradcheck.laws.evidence import explanations
from jaxnn.gradcheck.laws.intentions import intention


def named(evaluation: Evaluation, i: int, mine: np.ndarray, truth: np.ndarray) -> str:
    """The end of a sentence that begins with the gradient's name, or "" if no pattern fits.

    Args:
        evaluation: the function at its arguments.
        i: the position of the variable.
        mine: the gradient under test, of any shape.
        truth: the true gradient.
    """
    path, _ = evaluation.variables[i]
    if path in evaluation.missing:
        return "is None, which JAX reads as zero, but the true gradient is not zero"
    if mine.shape != truth.shape:
        return described(mine, truth, evaluation.sizes)
    known = "" if np.iscomplexobj(truth) else _explanations(evaluation).get(path, "")
    exact = evaluation.given_gradient(evaluation.dy)[i]
    if relative_or_absolute_error(exact, truth) > EXACT:
        mine = np.where(np.isfinite(mine), exact, mine)
    return (
        _unused_output(evaluation, i)
        or intention(evaluation, i, mine, truth)
        or known
        or described(mine, truth, evaluation.sizes)
    )


def _explanations(evaluation) -> dict[str, str]:
    """The explanations of all wrong gradients, computed once for an evaluation."""
    if not hasattr(evaluation, "explained"):
        evaluation.explained = explanations(evaluation)
    return evaluation.explained


def described(mine: np.ndarray, truth: np.ndarray, sizes: dict[str, int]) -> str:
    """Like `named`, from the numbers alone."""
    if not (np.iscomplexobj(mine) or np.iscomplexobj(truth)):
        return explain(mine, truth, sizes)
    if mine.shape == truth.shape and relative_or_absolute_error(mine.conj(), truth) <= EXACT:
        return "is the complex conjugate of the true gradient"
    return explain(_parts(mine), _parts(truth), sizes)


def _parts(array) -> np.ndarray:
    """Real and imaginary parts along a last axis."""
    return np.stack([array.real, array.imag], -1)


def _unused_output(evaluation, i) -> str:
    """The remark on an output whose cotangent has no effect on a gradient."""
    named_outputs = jax.tree_util.tree_leaves_with_path(evaluation.dy)
    if len(named_outputs) < 2:
        return ""
    unused = [
        position
        for position, (_, d) in enumerate(named_outputs)
        if is_differentiable(d) and _is_unused(evaluation, i, position)
    ]
    outputs = " and ".join(_output(named_outputs[position][0]) for position in unused)
    return f"is wrong: the cotangent of output {outputs} is not used" if unused else ""


def _is_unused(evaluation, i, position) -> bool:
    leaves, tree = jax.tree.flatten(evaluation.dy)
    alone = [d if k == position else np.zeros_like(d) for k, d in enumerate(leaves)]
    dy = jax.tree.unflatten(tree, alone)
    return bool(
        np.any(np.nan_to_num(evaluation.true_gradient(dy)[i]))
        and not np.any(evaluation.given_gradient(dy)[i])
    )


def _output(path) -> str:
    """An output as text: its position in a tuple, otherwise its path."""
    if len(path) == 1 and isinstance(path[0], jax.tree_util.SequenceKey):
        return str(path[0].idx)
    return jax.tree_util.keystr(path)
