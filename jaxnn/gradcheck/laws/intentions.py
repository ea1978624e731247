"""Gradients that deliberately differ from the function's, and how to declare them."""

import jax
import numpy as np

from jaxnn.gradcheck.arrays import is_differentiable, relative_or_absolute_error, wide
from jaxnn.gradcheck.laws.evaluation import EXACT, Evaluation

GUARDED = 1e-4  # the error of a division by n + 1e-6, say


def intention(evaluation: Evaluation, i: int, mine: np.ndarray, truth: np.ndarray) -> str:
    """Describe a gradient that may be wrong on purpose; "" for any other.

    These are recognised: a gradient where the function is flat (straight-through estimators and
    surrogates), a multiple of dy for a function that returns its argument (reversal and scaling),
    clipping, and a value that does not depend on dy.

    Args:
        evaluation: the function at its arguments.
        i: the position of the variable.
        mine: the gradient under test, of the shape of its argument.
        truth: the true gradient.

    Returns:
        The end of a sentence that begins with the gradient's name, with the way to declare it.
    """
    path, leaf = evaluation.variables[i]
    declared = evaluation.checked.primal is not None
    if declared or not mine.size or not np.isfinite(mine).all() or not mine.any():
        return ""
    if _is_constant(evaluation, i, mine):
        return (
            "does not depend on dy: it is a value passed as a gradient. If that is on purpose, as "
            "for a scale that is updated through its gradient, no definition= can declare it, "
            "because a gradient is linear in dy"
        )
    if clipped := _clipped(evaluation, i, mine, truth):
        return (
            f"is the true gradient clipped to {clipped}. If that is on purpose, no definition= can "
            "declare it, because a gradient is linear in dy: check the function without the "
            "clipping"
        )
    dys = jax.tree.leaves(evaluation.dy)
    if len(dys) != 1 or np.shape(dys[0]) != mine.shape:
        return _surrogate(evaluation, truth)
    dy, y = wide(dys[0]), wide(jax.tree.leaves(evaluation.call[0])[0])
    if not truth.any() and _same(mine, dy):
        return (
            "is dy, although the function is flat here and its gradient is zero. If this is on "
            "purpose, as in a straight-through estimator, declare the function whose gradient you "
            "mean: "
            f"{_declared(evaluation, path, path)}"
        )
    if not truth.any():
        return _surrogate(evaluation, truth)
    factor = float(np.vdot(dy, mine).real / np.vdot(dy, dy).real)
    if _same(y, wide(leaf)) and _same(mine, factor * dy):
        what = "reversed" if factor < 0 else "scaled"
        return (
            f"is {factor:.4g} × dy, and the function returns its argument unchanged. If the "
            f"gradient is {what} on purpose, declare the function whose gradient you mean: "
            f"{_declared(evaluation, path, f'{factor:.4g} * {path}')}"
        )
    return ""


def _surrogate(evaluation, truth) -> str:
    """The remark on a gradient that is nonzero where the true one is zero."""
    if truth.any():
        return ""
    return (
        "is nonzero, although the function is flat here and its gradient is zero. If this gradient "
        "stands in for the true one on purpose, declare the function whose gradient you mean with "
        "definition="
    )


def _declared(evaluation, path, expression) -> str:
    if not path.isidentifier():
        return "with definition="
    return f"definition=lambda {', '.join(evaluation.checked.arguments)}: {expression}"


def _is_constant(evaluation, i, mine) -> bool:
    """Whether a gradient is the same for a dy of zero."""
    nothing = jax.tree.map(np.zeros_like, evaluation.dy)
    return _same(evaluation.given_gradient(nothing)[i], mine)


def _clipped(evaluation, i, mine, truth) -> str:
    """A description of the limit, if the true gradient is clipped by entry or by norm."""
    if limits := _limits(mine, truth):
        return limits
    factor = float(np.vdot(truth, mine).real / (np.vdot(truth, truth).real or 1.0))
    if not 0 < factor < 1 or not _same(mine, factor * truth):
        return ""
    doubled = jax.tree.map(lambda d: 2 * d if is_differentiable(d) else d, evaluation.dy)
    if relative_or_absolute_error(evaluation.given_gradient(doubled)[i], mine) > GUARDED:
        return ""
    return f"a fixed norm: it is {factor:.4g} × the true one here, and does not grow with dy"


def _limits(mine, truth) -> str:
    """The interval to which the true gradient is clipped, if it is."""
    changed = np.abs(mine - truth) > EXACT * np.abs(truth).max(initial=0)
    if not changed.any() or changed.all() or np.iscomplexobj(mine):
        return ""
    low, high = mine.min(), mine.max()
    if 0 in (low, high) or not _same(np.clip(truth, low, high), mine):
        return ""
    below, above = changed & (truth < low), changed & (truth > high)
    if max(below.sum(), above.sum()) < 2:  # a single entry shows nothing
        return ""
    if below.any() and above.any():
        return f"[{low:.4g}, {high:.4g}]"
    return f"at least {low:.4g}" if below.any() else f"at most {high:.4g}"


def _same(mine, wanted) -> bool:
    return bool(relative_or_absolute_error(mine, wanted) <= EXACT)
