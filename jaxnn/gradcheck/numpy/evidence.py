"""The facts about wrong gradients of NumPy code, to name the mistake and find its line."""

import numpy as np

from jaxnn.gradcheck.explain import Evidence
from jaxnn.gradcheck.numpy.calls import parameters
from jaxnn.gradcheck.numpy.evaluation import TOLERANCE, NumPyEvaluation
from jaxnn.gradcheck.numpy.held import is_number, walk
from jaxnn.gradcheck.repair import Trial


def evidence(evaluation: NumPyEvaluation, wrong) -> Evidence:
    """The arrays and functions from which the causes of wrong gradients are deduced.

    Args:
        evaluation: the code at its arguments.
        wrong: the variables whose gradients are wrong.
    """
    checked = _checked(evaluation)
    keys = {variable.path: variable.key for variable in evaluation.variables}

    def forward(arrays):
        return tuple(evaluation.copy({keys[p]: a for p, a in arrays.items()}).forward())

    def true_gradient(cotangents):
        found = {v.path: evaluation.true_gradient(v, list(cotangents)) for v in wrong}
        return {path: true for path, true in found.items() if true is not None}

    return Evidence(
        sizes=evaluation.sizes,
        options=_options(evaluation),
        arrays={v.path: np.asarray(v.value, np.float64) for v in evaluation.variables},
        others=_other_arrays(evaluation),
        truths=_truths(evaluation),
        given={v.path: evaluation.gradients[v.key] for v in checked},
        dy=tuple(evaluation.cotangents),
        y=tuple(evaluation.outputs),
        forward=forward,
        true_gradient=true_gradient,
        resolution=max(1e-12, *(evaluation.resolution(v) for v in wrong)),
    )


def trial(evaluation: NumPyEvaluation) -> Trial:
    """The forward and backward in the form that the repair search runs."""
    paths = {variable.key: variable.path for variable in evaluation.variables}

    def run():
        outputs, gradients = evaluation.run(evaluation.copy())
        return outputs, {paths[key]: gradient for key, gradient in gradients.items()}

    checked = _checked(evaluation)
    truths = _truths(evaluation)
    return Trial(
        run=run,
        truth={path: true for path, true in truths.items() if np.isfinite(true).all()},
        tolerance=max([TOLERANCE, *(10 * evaluation.resolution(v) for v in checked)]),
        forward=lambda: evaluation.copy().forward(),
    )


def _checked(evaluation) -> list:
    """The variables that have both a gradient and a true gradient."""
    return [
        v
        for v in evaluation.variables
        if v.key in evaluation.gradients and evaluation.truth(v) is not None
    ]


def _truths(evaluation) -> dict[str, np.ndarray]:
    truths = {v.path: evaluation.truth(v) for v in _checked(evaluation)}
    return {path: true for path, true in truths.items() if true is not None}


def _options(evaluation) -> dict[str, float]:
    """The numbers that are passed to the code or stored in it, by name."""
    code = evaluation.code
    found = {
        leaf.path: leaf.value
        for leaf in walk("object", code.instance, wanted=is_number)
        if np.ndim(leaf.value) == 0
    }
    for function in code.functions:
        found |= {p.name: p.default for p in parameters(function) if not p.required}
    given = dict(zip(code.names, code.args, strict=True)) | code.named
    for name, thing in given.items():
        numbers = walk("argument", thing, name, (name,), wanted=is_number)
        found |= {leaf.path: leaf.value for leaf in numbers if np.ndim(leaf.value) == 0}
    return {
        name: float(value)
        for name, value in found.items()
        if is_number(value) and not isinstance(value, complex) and np.isfinite(value)
    }


def _other_arrays(evaluation) -> dict[str, np.ndarray]:
    """The labels and other arrays without a gradient, by name."""
    code = evaluation.code
    known = {variable.path for variable in evaluation.variables}
    given = dict(zip(code.names, code.args, strict=True)) | code.named
    found = {}
    for name, thing in given.items():
        if isinstance(thing, list | tuple | np.ndarray) and name not in known:
            try:
                array = np.asarray(thing)
            except ValueError:
                continue
            if array.ndim and np.issubdtype(array.dtype, np.number):
                found[name] = array
    return found
