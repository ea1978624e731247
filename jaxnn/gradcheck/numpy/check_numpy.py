"""`check_numpy`: compare a backward written with NumPy with differences of its forward."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnn.gradcheck.arrays import relative_or_absolute_error, require_seed
from jaxnn.gradcheck.numpy.calls import Unrunnable
from jaxnn.gradcheck.numpy.code import NumPyCode
from jaxnn.gradcheck.numpy.evidence import trial
from jaxnn.gradcheck.numpy.laws import NUMPY_LAWS
from jaxnn.gradcheck.numpy.readings import evaluate
from jaxnn.gradcheck.repair import find_repairs
from jaxnn.gradcheck.report import Report, Row, broken

FIRST = ("determinism", "finite")


def check_numpy(
    forward: Any,
    backward: Any = None,
    *args: Any,
    params: Sequence[str] | None = None,
    grads: Mapping[str, str] | None = None,
    loss: Callable | None = None,
    seed: int = 0,
    **named: Any,
) -> Report:
    """Check a backward written with NumPy against finite differences of its own forward.

    The code needs no changes:

    - **Functions**: `forward(*args)` returns `y`, several outputs, or these and a cache; `backward`
      takes a cotangent for each output, the cache and the arguments, recognised by the names of its
      parameters. A backward without dy, such as `sigmoid_prime(z)`, has dy = 1.
    - **One function** that returns the loss and its gradients, in any order: `backward=None`.
    - **Objects** with `forward` and `backward`, or `fprop` and `bprop`, `call` and `grad`, and so
      on. Their parameters are the arrays that forward reads and does not replace. Outputs and
      gradients may be returned or stored in the object.
    - **Static methods** with a context: `forward(ctx, *args)` and `backward(ctx, dy)`.
    - **Nodes** with `.data`, `.grad` and `.backward()`: `forward` is a function of nodes.
    - **A backward that begins at the loss** and takes labels: pass the loss and the labels by name,
      `check_numpy(net, None, x, loss=mean_square, y=labels)`. The loss may be a method of the
      object: `loss(output, y)`, `loss(x, y)` that runs forward, or `loss(y)` that reads the output
      that forward stored.

    A gradient is an array of the parameter's shape that `backward` returned, created or changed;
    names only break ties. If the backward updates the parameters itself, the gradient is the
    update divided by the learning rate.

    The true gradient is the complex step of Σ dy·y if the forward is analytic, and otherwise a
    five-point difference, in float64 with a random dy. Everything runs on copies, with the random
    generators seeded for each call, so no argument changes. The check also detects arrays changed
    in place, gradients that accumulate from call to call, and a stale cache from an earlier call.

    Args:
        forward: a function, a bound method, or an object.
        backward: a function or a bound method; `None`, or omitted, for an object and for a function
            that returns its gradients.
        *args: the arguments of forward.
        params: the names of the parameters of an object, such as "W" or "layers[0].W".
        grads: the names of gradients by the names of their parameters, such as {"W": "my_dW"}.
        loss: a function of the output and of named arguments, at which the backward begins.
        seed: the seed of the random dy.
        **named: further arguments of forward, loss and backward, such as options and labels.

    Returns:
        A `Report`: print it, ask `.ok` or `.verdict`, or call `.raise_if_failed()`. The verdict is
        "could not be run" if the code raises or an input is missing; the report gives the reason.

    Raises:
        TypeError: forward or backward is missing, `loss` is not a function, no function takes one
            of the named arguments, or `seed` is not an integer.
        ValueError: the object has no array of a name in `params`, or the arrays are too large for
            differences.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck import check_numpy
        >>> def square_forward(x):
        ...     return x**2, x
        >>> def square_backward(dy, cache):
        ...     return cache * dy
        >>> print(check_numpy(square_forward, square_backward, np.ones(3)).findings[0].message)
        d_x is 0.5 × the true gradient everywhere: a 2 is missing, or a ½ is superfluous (C5)
    """
    require_seed("check_numpy", seed)
    if loss is not None and not callable(loss):
        raise TypeError(f"check_numpy: loss must be a function of the output, got {loss!r:.80}")
    code = NumPyCode(forward, backward, args, params, grads, loss, named)
    reproduce = f"jaxnn.gradcheck.check_numpy({code.statement}, seed={seed})"
    with jax.enable_x64(True), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluation = evaluate(code, seed)
        except Unrunnable as error:
            return Report(
                name=code.name,
                rows=[],
                findings=[broken("runs", str(error))],
                laws=["runs"],
                seed=seed,
                reproduce=reproduce,
            )
        tried, findings = ["runs"], []
        for name, law in NUMPY_LAWS.items():
            tried.append(name)
            findings += law(evaluation)
            if findings and name in FIRST:
                break
        return Report(
            name=code.name,
            rows=_rows(evaluation, findings),
            findings=findings,
            notes=list(dict.fromkeys(evaluation.notes)),
            laws=tried,
            seed=seed,
            reproduce=reproduce,
            search=lambda: _repairs(evaluation, findings),
        )


def _repairs(evaluation, findings) -> list[str]:
    """The wrong lines, each with the change that corrects the gradient."""
    if not any(finding.law == "gradient" for finding in findings):
        return []
    with jax.enable_x64(True), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            confirm = trial(evaluation.elsewhere())
        except Exception:
            confirm = None
        return find_repairs(trial(evaluation), confirm=confirm).sentences()


def _rows(evaluation, findings) -> list[Row]:
    """A row for each argument and parameter."""
    if any(finding.law in FIRST for finding in findings):
        return []
    at_fault = {finding.leaf for finding in findings}
    rows = []
    for variable in evaluation.reported:
        true, given = evaluation.truth(variable), evaluation.gradients.get(variable.key)
        error, verdict = float("nan"), "no gradient"
        if given is not None and true is not None and given.shape == true.shape:
            error = relative_or_absolute_error(*evaluation.pair(variable))
            verdict = "right" if true.any() else "not tested"
        array = f"{variable.value.dtype}[{','.join(map(str, variable.value.shape))}]"
        verdict = "WRONG" if variable.path in at_fault else verdict
        rows.append(Row(variable.path, array, error, verdict))
    return rows
