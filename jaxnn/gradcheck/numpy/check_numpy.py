"""`check_numpy`: a backward written with NumPy, unchanged, against differences of its forward."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn.gradcheck.arrays import relative_or_absolute_error, require_seed
from jaxnn.gradcheck.numpy.conventions import NumPyBackward
from jaxnn.gradcheck.numpy.evaluation import NumPyEvaluation
from jaxnn.gradcheck.numpy.laws import NUMPY_LAWS
from jaxnn.gradcheck.report import Report, Row

FIRST = ("runs", "determinism", "finite")


def check_numpy(
    forward: Any,
    backward: Any = None,
    *args: Any,
    params: Sequence[str] | None = None,
    grads: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Report:
    """Check a backward written with NumPy against finite differences of its own forward.

    Functions: `forward(*args)` returns `y` or `(y, cache)`; `backward` takes dy and the cache, or
    dy and the arguments, in an order told by the names of its parameters. It returns a gradient, a
    tuple of them in the order of the arguments, or a dict by name ("W" or "dW").

    Layers: an object with `forward` (or `__call__`) and `backward`. Its parameters are the arrays
    that it holds both before and after the forward pass. `backward` returns their gradients or
    stores them under names such as `dW`, `grad_W`, `W_grad` and `grads["W"]`. A loss whose backward
    takes no dy has dy = 1. A backward that takes a learning rate and updates the parameters gets
    the rate 1, so that it subtracts the gradient itself.

    The true gradient is the complex step of Σ dy·y if the forward is analytic, and otherwise a
    five-point difference, in float64 with a random dy. Everything runs on copies, so the object and
    the arguments do not change. The check also looks for arrays that are changed in place,
    gradients that add up from call to call, and caches of an earlier call.

    Args:
        forward: a function, a bound method, or an object with `forward` and `backward`.
        backward: a function or a bound method; `None`, or omitted, for an object.
        *args: the arguments of forward.
        params: the names of an object's parameters, such as "W" or "layers[0].W".
        grads: names of gradients by the names of parameters, such as {"W": "my_dW"}.
        seed: of the random dy.

    Returns:
        A `Report`: print it, ask `.ok`, or call `.raise_if_failed()`.

    Raises:
        TypeError: forward or backward is missing, or seed is no integer.
        ValueError: the object has no array of that name, or the arrays are too large for
            differences.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck import check_numpy
        >>> def square_forward(x):
        ...     return x**2, x
        >>> def square_backward(dy, cache):
        ...     return cache * dy
        >>> print(check_numpy(square_forward, square_backward, np.ones(3)).findings[0].message)
        d_x is 0.5 × the true gradient everywhere: a 2 is missing, or a ½ is too much
    """
    require_seed("check_numpy", seed)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        evaluation = NumPyEvaluation(NumPyBackward(forward, backward, args, params, grads), seed)
        tried, findings = [], []
        for name, law in NUMPY_LAWS.items():
            tried.append(name)
            findings += law(evaluation)
            if findings and name in FIRST:
                break
        return Report(
            name=evaluation.code.name,
            rows=_rows(evaluation, findings),
            findings=findings,
            notes=evaluation.notes,
            laws=tried,
            seed=seed,
            reproduce=f"jaxnn.gradcheck.check_numpy({evaluation.code.statement}, seed={seed})",
        )


def _rows(evaluation, findings) -> list[Row]:
    """A row for each argument and parameter."""
    if any(finding.law in FIRST for finding in findings):
        return []
    at_fault = {finding.leaf for finding in findings}
    rows = []
    for variable in evaluation.reported:
        true, given = evaluation.truth(variable), evaluation.gradients.get(variable.key)
        error, verdict = float("nan"), "no gradient"
        if given is not None and given.shape == true.shape:
            error = relative_or_absolute_error(*evaluation.pair(variable))
            verdict = "right" if true.any() else "not tested"
        array = f"{variable.value.dtype}[{','.join(map(str, variable.value.shape))}]"
        verdict = "WRONG" if variable.path in at_fault else verdict
        rows.append(Row(variable.path, array, error, verdict))
    return rows
