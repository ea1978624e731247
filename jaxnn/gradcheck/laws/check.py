"""Is this backward right?"""

from collections.abc import Collection

import numpy as np

from jaxnn.gradcheck.laws.adapters import subject_of
from jaxnn.gradcheck.laws.comparison import relative_error, representable
from jaxnn.gradcheck.laws.evaluation import Trial
from jaxnn.gradcheck.laws.laws import LAWS
from jaxnn.gradcheck.laws.oracle import is_differentiable
from jaxnn.gradcheck.report import Report, Row

PRELIMINARY = ("runs", "structure")
PLAIN = ("eager", "determinism")
CONSISTENCY = ("one_entry", "eager", "export", "vmap", "second_order")


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

    The laws run in an order that localises: it runs, structure, finite, value, gradient,
    linearity in the cotangent and zero for a zero one, determinism, one entry alone, plain
    calls, `jax.vjp` of the function itself, `vmap`. The truth is `jax.vjp` of the definition in
    float64, or differences where JAX cannot trace it. In float32 and below, the error is judged
    by the one that autodiff makes in the same dtype; there is no tolerance to choose. A gradient
    that is zero where it should be zero is reported as not tested.

    Args:
        target: an op; a `(fwd, bwd)` pair, with `fwd(*args) -> (y, residuals)` and
            `bwd(residuals, dy) -> gradients`; a `jax.custom_vjp` function, whose primal function
            is the definition; or a layer, with the arguments `params, x`, and a key if it is
            random.
        *args: arrays or pytrees of arrays; integers, booleans and PRNG keys have no gradient.
        definition: the function of `*args` that a pair implements.
        seed: of the random cotangents.
        second_order: also compare the gradient of the gradient.
        laws: the names of the laws to try, of those in `report.laws`; by default all of them.
        **options: options of the target.

    Returns:
        A `Report`: print it, ask `.ok`, or call `.raise_if_failed()`.

    Raises:
        TypeError: the target is nothing that can be checked, or an argument is not an array.
        ValueError: there is no such law.

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
    if unknown := sorted(set(laws or ()) - set(LAWS)):
        raise ValueError(f"there is no law {unknown[0]!r}; the laws are {', '.join(LAWS)}")
    subject, args = subject_of(target, args, options, definition)
    trial = Trial(subject, args, seed, plain=laws is None or not set(PLAIN).isdisjoint(laws))
    if not trial.variables:
        raise TypeError(f"{subject.name}: no argument is floating point, so there is no gradient")
    tried, findings = [], []
    for name, law in LAWS.items():
        if name == "second_order" and not second_order:
            continue
        if laws is not None and name not in laws and name not in PRELIMINARY:
            continue
        if findings and name in CONSISTENCY:
            break
        tried.append(name)
        findings += law(trial)
        if findings and name in PRELIMINARY:
            break
    settings = f"seed={seed}" + (", second_order=True" if second_order else "")
    settings += f", laws={tuple(laws)}" if laws is not None else ""
    return Report(
        name=subject.name,
        rows=_rows(trial, findings),
        findings=findings,
        notes=trial.notes,
        laws=tried,
        seed=seed,
        reproduce=f"jaxnn.gradcheck.check({subject.statement}, {settings})",
    )


def _rows(trial, findings) -> list[Row]:
    """A row for each array, with the error of its gradient under the random cotangent."""
    broken = {finding.leaf for finding in findings}
    comparable = not any(finding.law in PRELIMINARY for finding in findings)
    mine = iter(trial.gradients(trial.dy) if comparable else [])
    true = iter(trial.truth(trial.dy)[1] if comparable else [])
    rows = []
    for path, leaf in trial.leaves:
        array = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        error, verdict = float("nan"), "not tested"
        if not is_differentiable(leaf):
            verdict = "no gradient"
        elif comparable:
            gradient, truth = np.asarray(next(mine)), np.asarray(next(true))
            compared = representable(truth, leaf.dtype)
            error = relative_error(np.where(compared, gradient, 0), np.where(compared, truth, 0))
            if np.any(truth != 0) or np.any(gradient != 0):
                verdict = "right"
        at_fault = {path, path.split("[")[0]} & broken
        rows.append(Row(path, array, error, "WRONG" if at_fault else verdict))
    return rows
