"""`check`: compare a hand-written backward with autodiff of its definition."""

from collections.abc import Collection

import numpy as np

from jaxnn.gradcheck.arrays import (
    error_where_representable,
    is_differentiable,
    masked,
    representable,
    require_seed,
)
from jaxnn.gradcheck.laws.adapters import adapt
from jaxnn.gradcheck.laws.evaluation import Evaluation
from jaxnn.gradcheck.laws.evidence import repairs
from jaxnn.gradcheck.laws.laws import LAWS
from jaxnn.gradcheck.report import Finding, Report, Row, broken, in_one_line

PRELIMINARY = ("runs", "structure")
PLAIN = ("eager", "determinism")
CONSISTENCY = (
    "one_entry",
    "eager",
    "halves",
    "examples",
    "export",
    "vmap",
    "duality",
    "second_order",
)


def check(
    target,
    *args,
    definition=None,
    seed: int = 0,
    second_order: bool = False,
    laws: Collection[str] | None = None,
    **options,
) -> Report:
    """Check a hand-written backward against autodiff of the definition.

    The laws run in an order that localises a mistake: the functions run; structure; finite numbers;
    the value; the gradient; linearity in the cotangent; determinism; a cotangent on one entry;
    calls without `jit`; the two halves of the backward; the halves with a weight for each example;
    `jax.vjp` of the function itself; `vmap`; and, in float64 or on request, duality,
    ⟨dy, J·ẋ⟩ = ⟨Jᵀ·dy, ẋ⟩. The true gradient is `jax.vjp` of the definition, traced as it is and
    evaluated in float64, or finite differences if JAX has no derivative. In float32 and below, the
    error of a gradient may be twice that of autodiff in the same dtype, so there is no tolerance
    to choose. A gradient that is zero and should be zero is reported as not tested.

    Args:
        target: an op; a `(fwd, bwd)` pair, with `fwd(*args) -> (y, residuals)` and
            `bwd(residuals, dy) -> gradients`; a `jax.custom_vjp` or `jax.custom_gradient` function,
            whose primal function is the definition; a layer, with the arguments `params, x` and, if
            it is random, a key; or any other function, whose backward is then its `jax.vjp`.
        *args: arrays or pytrees of arrays; integers, booleans and PRNG keys have no gradient.
        definition: the function of `*args` that a pair implements. For any other target, the
            function whose gradient the backward is meant to return, such as `lambda x: x` for a
            straight-through estimator; the value is still compared with the target's own.
        seed: the seed of the random cotangents.
        second_order: whether to compare the gradient of the gradient too.
        laws: the names of the laws to try, from `LAWS`; by default all that apply.
        **options: options of the target.

    Returns:
        A `Report`: print it, ask `.ok`, or call `.raise_if_failed()`.

    Raises:
        TypeError: the target cannot be checked, an argument is not an array, or `seed`,
            `second_order` or `laws` has the wrong type.
        ValueError: `laws` names an unknown law.

    Example:
        >>> def square_fwd(x):
        ...     return x * x, x
        >>> def square_bwd(x, dy):
        ...     return (x * dy,)
        >>> from jaxnn.gradcheck import check
        >>> report = check((square_fwd, square_bwd), jnp.array([1.0, 2.0]), definition=jnp.square)
        >>> report.ok
        False
    """
    if not isinstance(second_order, bool):
        raise TypeError(f"check: second_order must be True or False, got {second_order!r:.80}")
    if isinstance(laws, str) or not isinstance(laws, Collection | None):
        raise TypeError(f"check: laws must be a tuple of names, got {laws!r:.80}")
    if unknown := [law for law in laws or () if not isinstance(law, str) or law not in LAWS]:
        raise ValueError(f"there is no law {unknown[0]!r}; the laws are {', '.join(LAWS)}")
    require_seed("check", seed)
    checked, args = adapt(target, args, options, definition)
    evaluation = Evaluation(
        checked, args, seed, plain=laws is None or not set(PLAIN).isdisjoint(laws)
    )
    if not evaluation.variables:
        raise TypeError(f"{checked.name}: no argument is floating point, so there is no gradient")
    tried: list[str] = []
    findings: list[Finding] = []
    for name, law in LAWS.items():
        if not (name in PRELIMINARY or _is_wanted(name, evaluation, laws, second_order)):
            continue
        if findings and name in CONSISTENCY:
            break
        tried.append(name)
        findings += _tried(law, evaluation)
        if findings and (name == "runs" or not evaluation.variables):
            break
    settings = f"seed={seed}" + (", second_order=True" if second_order else "")
    settings += f", laws={tuple(laws)}" if laws is not None else ""
    return Report(
        name=checked.name,
        rows=_rows(evaluation, findings),
        findings=findings,
        notes=evaluation.notes,
        laws=tried,
        seed=seed,
        reproduce=f"jaxnn.gradcheck.check({checked.statement}, {settings})",
        search=lambda: repairs(evaluation) if _is_wrong(findings) else [],
    )


def _is_wrong(findings) -> bool:
    """Whether a gradient is wrong, so that a search for a repair makes sense."""
    return any(finding.law == "gradient" for finding in findings)


def _is_wanted(name, evaluation, laws, second_order) -> bool:
    """Whether a law was requested, or is a default law that applies."""
    if name == "second_order":
        return second_order and (laws is None or name in laws)
    if laws is not None:
        return name in laws
    if name == "halves":
        return evaluation.checked.halves is not None
    if name == "examples":
        return evaluation.checked.examples is not None
    if name == "duality":
        return evaluation.checked.has_forward_mode and evaluation.dtype == np.float64
    return True


def _tried(law, evaluation) -> list[Finding]:
    """The findings of a law; an exception of the code under check is one as well."""
    try:
        return law(evaluation)
    except Exception as error:
        return [broken("runs", f"the law {law.__name__} could not be tried: {in_one_line(error)}")]


def _rows(evaluation, findings) -> list[Row]:
    """A row for each array, with the error of its gradient under the random cotangent."""
    broken_leaves = {finding.leaf for finding in findings}
    errors = _errors(evaluation) if all(f.law != "runs" for f in findings) else {}
    rows = []
    for path, leaf in evaluation.leaves:
        array = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        error, tested = errors.get(path, (float("nan"), False))
        verdict = "right" if tested else "not tested"
        if not is_differentiable(leaf):
            verdict = "no gradient"
        elif {path, path.split("[")[0]} & broken_leaves:
            verdict = "WRONG"
        rows.append(Row(path, array, error, verdict))
    return rows


def _errors(evaluation) -> dict[str, tuple[float, bool]]:
    """For each gradient, its error, and whether it or the true one is nonzero."""
    errors = {}
    for (path, leaf), mine, truth in zip(
        evaluation.variables,
        evaluation.gradients(evaluation.dy),
        evaluation.truth(evaluation.dy).grads,
        strict=True,
    ):
        error = error_where_representable(mine, truth, leaf.dtype)
        compared = representable(truth, leaf.dtype)
        tested = masked(truth, compared).any() or masked(mine, compared).any()
        errors[path] = error, bool(tested)
    return errors
