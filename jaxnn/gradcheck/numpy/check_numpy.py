"""Is this backward, written with NumPy, right? Nothing in it has to change for the check."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxnn.gradcheck import differences
from jaxnn.gradcheck.explain import relation
from jaxnn.gradcheck.laws.comparison import broken, broken_at, first_index, relative_error
from jaxnn.gradcheck.laws.evaluation import short_decimals
from jaxnn.gradcheck.numpy.conventions import (
    LEARNING_RATE,
    RESET,
    Homework,
    Leaf,
    Misfit,
    is_gradient,
)
from jaxnn.gradcheck.report import Finding, Report, Row

PRELIMINARY = ("runs", "determinism", "finite")
MOST_ENTRIES = 20_000
TOLERANCE = 1e-6
NOISE = 1e-9


def check_numpy(
    forward: Any,
    backward: Any = None,
    *args: Any,
    params: Sequence[str] | None = None,
    grads: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Report:
    """Check a backward written with NumPy against differences of its own forward.

    Functions: `forward(*args)` returns `y` or `(y, cache)`; `backward` takes dy and the cache, or
    dy and the arguments, in an order that the names of its parameters tell. It returns a
    gradient, a tuple of them in the order of the arguments, or a dict by name ("W" or "dW").

    Layers: an object with `forward` (or `__call__`) and `backward`. Its parameters are the arrays
    that it holds before the forward pass and after it; their gradients are what `backward`
    returns, or leaves under such names as `dW`, `grad_W`, `W_grad` and `grads["W"]`. A loss whose
    backward takes no dy has dy = 1. A backward that takes a learning rate and updates the
    parameters gets the rate 1, so that the gradient is what it subtracts.

    The truth is the complex step of Σ dy·y where the forward is analytic, else five-point
    differences, in float64 with a random dy. Everything runs on copies: the object and the
    arguments stay as they are. Besides the gradients it looks for arrays that are changed in
    place, gradients that add up from call to call, and caches of an earlier call.

    Args:
        forward: a function, a bound method, or an object with `forward` and `backward`.
        backward: a function or a bound method; `None`, or left out, for an object.
        *args: what forward is given.
        params: the names of an object's parameters, such as "W" or "layers[0].W".
        grads: names of gradients by the names of parameters, such as {"W": "my_dW"}.
        seed: of the random dy.

    Returns:
        A `Report`: print it, ask `.ok`, or call `.raise_if_failed()`.

    Raises:
        TypeError: there is no forward and backward.
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
    with jax.enable_x64(True), np.errstate(all="ignore"):
        trial = _Trial(Homework(forward, backward, args, params, grads), seed)
        tried, findings = [], []
        for name, law in LAWS.items():
            tried.append(name)
            findings += law(trial)
            if findings and name in PRELIMINARY:
                break
        return Report(
            name=trial.homework.name,
            rows=_rows(trial, findings),
            findings=findings,
            notes=trial.notes,
            laws=tried,
            seed=seed,
            reproduce=f"jaxnn.gradcheck.check_numpy({trial.homework.statement}, seed={seed})",
        )


class _Trial:
    """The homework with one dy, and what the laws ask about it."""

    def __init__(self, homework, seed):
        self.homework, self.seed = homework, seed
        self.notes: list[str] = []

    @cached_property
    def y(self) -> np.ndarray:
        """The value."""
        return self.homework.copy().forward()

    @cached_property
    def takes_dy(self) -> bool:
        """Whether the backward takes the gradient of what comes after."""
        used, dy = self.homework.copy(), object()
        used.forward()
        return any(given is dy for given in used.arguments_of_backward(dy).values())

    @cached_property
    def dy(self) -> np.ndarray:
        """A random cotangent, or 1 for a backward that takes none."""
        y = self.y.astype(np.float64)
        return short_decimals(y, self.seed) if self.takes_dy else np.ones_like(y)

    @cached_property
    def variables(self) -> list[Leaf]:
        """The arguments, and the parameters: what forward leaves where it is in the object."""
        leaves = self.homework.leaves
        inputs = [leaf for leaf in leaves if leaf.owner == "argument"]
        held = {leaf.path: leaf for leaf in leaves if leaf.owner == "object"}
        if self.homework.params is not None:
            for name in self.homework.params:
                if name not in held:
                    raise ValueError(
                        f"{self.homework.name} has no floating-point array {name!r}; it has: "
                        f"{', '.join(held) or 'none'}"
                    )
            return inputs + [held[name] for name in self.homework.params]
        used = self.homework.copy()
        before = {leaf.key: leaf.value for leaf in used.leaves()}
        used.forward()
        after = {leaf.key: leaf.value for leaf in used.leaves()}
        return inputs + [
            leaf
            for leaf in held.values()
            if after.get(leaf.key) is before[leaf.key]
            and leaf.path not in self.homework.names
            and not is_gradient(leaf, held.values())
        ]

    @cached_property
    def checked(self) -> list[Leaf]:
        """The variables without those arrays of the object that turn out to be no parameters."""
        return [
            variable
            for variable in self.variables
            if variable.owner == "argument"
            or variable.key in self.gradients
            or self.truth(variable).any()
        ]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that a wrong factor may come from, by what they are."""
        return {
            f"the size of axis {axis} of {leaf.path}": size
            for leaf in self.variables
            for axis, size in enumerate(np.shape(leaf.value))
        } | {"the number of entries of y": self.y.size}

    def value(self, *values) -> np.ndarray:
        """The value with other values of the variables."""
        return self.homework.copy(self._by_key(values)).forward()

    @cached_property
    def point(self) -> list[np.ndarray]:
        """The values of the variables."""
        return [np.asarray(variable.value, np.float64) for variable in self.variables]

    @cached_property
    def differences(self) -> tuple[dict, float]:
        """The true gradients, and how far they can be trusted."""
        entries = sum(array.size for array in self.point)
        if entries > MOST_ENTRIES:
            raise ValueError(
                f"{self.homework.name}: its arrays have {entries} entries, and each one takes a "
                f"call of forward; give smaller ones, of at most {MOST_ENTRIES} in all"
            )
        grads, error = differences.gradient(self.value, self.point, self.dy)
        return self._by_key(grads), error

    @cached_property
    def noise(self) -> float:
        """What is as good as zero in a gradient."""
        truth, _ = self.differences
        sizes = [np.abs(np.nan_to_num(true)).max(initial=0) for true in truth.values()]
        return NOISE * float(max([np.abs(self.dy * self.y).sum(), *sizes]))

    def truth(self, variable) -> np.ndarray:
        """The true gradient, zero where it is as good as zero."""
        true = self.differences[0][variable.key]
        return np.where(np.abs(true) <= self.noise, 0, true)

    def pair(self, variable) -> tuple[np.ndarray, np.ndarray]:
        """The gradient given and the true one, the same where there is none."""
        true, mine = self.truth(variable), self.gradients[variable.key]
        mine = np.where(np.abs(mine) <= self.noise, 0, mine)
        return mine, np.where(np.isfinite(true), true, mine)

    @cached_property
    def gradients(self) -> dict[tuple[str, str], np.ndarray]:
        """The gradients that the homework finds, by the keys of their variables."""
        return self.run(self.homework.copy())[1]

    def run(self, used) -> tuple[np.ndarray, dict]:
        """Value and gradients of a copy, with a dy of its own."""
        y = used.forward()
        return y, used.backward(np.array(self.dy)[()], self.variables)

    def _by_key(self, values) -> dict:
        return {v.key: value for v, value in zip(self.variables, values, strict=True)}


def runs(trial) -> list[Finding]:
    """Forward gives an array of floating-point numbers, and backward gives gradients."""
    try:
        y = trial.y
    except Exception as error:
        return [broken("runs", f"forward raised {_said(error)}")]
    if not np.issubdtype(y.dtype, np.floating):
        message = f"forward must return y or (y, cache), y floating point; its y is {y.dtype}"
        return [broken("runs", message)]
    if not trial.variables:
        raise TypeError(f"{trial.homework.name}: no array is floating point, so has no gradient")
    if not trial.takes_dy and y.ndim > 0:
        return [broken("runs", "backward takes no dy, but y is not a scalar")]
    try:
        gradients = trial.gradients
    except Misfit as error:
        return [broken("runs", f"backward {error}")]
    except Exception as error:
        return [broken("runs", f"backward raised {_said(error)}")]
    if not gradients:
        return [broken("runs", "backward returned no gradient, and the object holds none")]
    return []


def determinism(trial) -> list[Finding]:
    """The same arguments give the same value and the same gradients."""
    y, again = trial.run(trial.homework.copy())
    if not _same(y, trial.y):
        message = "forward gives another value each time, so it has no differences: fix its seed"
        return [broken("determinism", message)]
    return [
        broken_at("determinism", variable.path, "differs between two calls with the same arguments")
        for variable in trial.variables
        if variable.key in again and not _same(again[variable.key], trial.gradients[variable.key])
    ]


def finite(trial) -> list[Finding]:
    """Value and gradients are finite."""
    if not np.isfinite(trial.y).all():
        return [
            broken(
                "finite", f"the value is not finite at index {first_index(~np.isfinite(trial.y))}"
            )
        ]
    return [
        broken_at(
            "finite", variable.path, f"is not finite at index {first_index(~np.isfinite(grad))}"
        )
        for variable in trial.variables
        if (grad := trial.gradients.get(variable.key)) is not None and not np.isfinite(grad).all()
    ]


def gradient(trial) -> list[Finding]:
    """Each gradient is there, has the shape of its array and is what differences give."""
    _, error = trial.differences
    bound = max(TOLERANCE, 10 * error)
    if bound > TOLERANCE:
        trial.notes.append(f"forward is not in float64, or not smooth: good to {error:.0e} only")
    findings = []
    for k, variable in enumerate(trial.variables):
        true, given = trial.truth(variable), trial.gradients.get(variable.key)
        if not np.isfinite(true).all():
            place = _place(variable, first_index(~np.isfinite(true)))
            trial.notes.append(f"forward is not finite beside {place}: nothing to compare there")
        if given is None:
            findings += _missing(trial, variable)
            continue
        right_shape = given.shape == true.shape
        off = relative_error(*trial.pair(variable)) if right_shape else float("nan")
        if not off <= bound and not (right_shape and _explained_by_a_kink(trial, k, bound)):
            message = _in_words(trial, variable, given, off)
            findings.append(broken_at("gradient", variable.path, message, off))
    return findings


def in_place(trial) -> list[Finding]:
    """Neither forward nor backward changes its arguments, dy or the parameters."""
    used, dy = trial.homework.copy(), np.array(trial.dy)
    stages = [used.values()]
    used.forward()
    stages.append(used.values())
    updates = any(map(LEARNING_RATE.fullmatch, used.arguments_of_backward(dy)))
    used.backward(dy[()], trial.variables)
    stages.append(used.values())
    findings = []
    for step, before, after in zip(("forward", "backward"), stages, stages[1:], strict=False):
        for variable in trial.checked:
            if _same(before.get(variable.key), after.get(variable.key)):
                continue
            if variable.owner == "argument":
                message = f"{step} changes {variable.path} in place"
            elif not updates:
                message = f"{step} changes {variable.path}, which only an update should"
            else:
                continue
            findings.append(Finding("in_place", variable.path, float("nan"), message))
    if not _same(dy, trial.dy):
        findings.append(broken("in_place", "backward changes dy in place"))
    return findings


def accumulation(trial) -> list[Finding]:
    """A second call gives the gradients of the first."""
    if any(map(RESET.fullmatch, dir(trial.homework.instance))):
        return []
    used = trial.homework.copy()
    trial.run(used)
    used.args = trial.homework.copy().args
    y, second = trial.run(used)
    if not _same(y, trial.y):
        return []
    findings = []
    for variable in trial.variables:
        if variable.key not in second:
            continue
        once, twice = trial.gradients[variable.key], second[variable.key]
        if _close(twice, 2 * once) and once.any():
            message = "is not reset between calls: a second call gives the sum of both"
            findings.append(broken_at("accumulation", variable.path, message))
        elif not _close(twice, once):
            findings.append(
                broken_at("accumulation", variable.path, "is another one at a second call")
            )
    return findings


def stale_cache(trial) -> list[Finding]:
    """After a forward at other arguments, backward is about those."""
    other = {
        leaf.key: 0.75 * np.flip(np.asarray(leaf.value))
        for leaf in trial.variables
        if leaf.owner == "argument"
    }
    used = trial.homework.copy()
    used.forward()
    used.args = trial.homework.copy(other).args
    try:
        y, mine = trial.run(used)
        expected_y, expected = trial.run(trial.homework.copy(other))
    except Exception as error:
        return [broken("stale_cache", f"a second forward and its backward raised {_said(error)}")]
    return [
        broken_at(
            "stale_cache", variable.path, "is that of an earlier call of forward: a stale cache"
        )
        for variable in trial.variables
        if _same(y, expected_y)
        and variable.key in mine
        and not _close(mine[variable.key], expected[variable.key])
        and _close(mine[variable.key], trial.gradients[variable.key])
    ]


LAWS: dict[str, Callable[[_Trial], list[Finding]]] = {
    law.__name__: law
    for law in (runs, determinism, finite, gradient, in_place, accumulation, stale_cache)
}


def _rows(trial, findings) -> list[Row]:
    """A row for each argument and parameter."""
    if any(finding.law in PRELIMINARY for finding in findings):
        return []
    at_fault = {finding.leaf for finding in findings}
    rows = []
    for variable in trial.checked:
        true, given = trial.truth(variable), trial.gradients.get(variable.key)
        error, verdict = float("nan"), "no gradient"
        if given is not None and given.shape == true.shape:
            error = relative_error(*trial.pair(variable))
            verdict = "right" if true.any() else "not tested"
        array = f"{variable.value.dtype}[{','.join(map(str, variable.value.shape))}]"
        verdict = "WRONG" if variable.path in at_fault else verdict
        rows.append(Row(variable.path, array, error, verdict))
    return rows


def _missing(trial, variable) -> list[Finding]:
    """A gradient that is not there: that of a parameter should be."""
    if not trial.truth(variable).any():
        return []
    if variable.owner == "argument":
        trial.notes.append(f"backward gives no gradient of {variable.path}, so none is checked")
        return []
    name = variable.names[-1]
    message = (
        f"was not found: backward does not return it, and the object holds no d{name} or "
        f"grad_{name}; if it has another name, say grads={{{variable.path!r}: …}}, and if "
        f"{variable.path} is no parameter, name those that are, params=(…)"
    )
    return [broken_at("gradient", variable.path, message)]


def _explained_by_a_kink(trial, k, bound) -> bool:
    """Whether all that is off lies between the one-sided slopes of a point that is not smooth."""
    mine, true = trial.pair(trial.variables[k])
    scale = max(np.abs(mine).max(), np.abs(true).max())
    wrong = [tuple(map(int, index)) for index in np.argwhere(np.abs(mine - true) > bound * scale)]
    for index in wrong:
        slopes = sorted(differences.one_sided_slopes(trial.value, trial.point, trial.dy, k, index))
        slack = 1e-3 * max(map(abs, slopes))
        if slopes[1] - slopes[0] <= slack or not (
            slopes[0] - slack <= mine[index] <= slopes[1] + slack
        ):
            return False
    places = ", ".join(_place(trial.variables[k], index) for index in wrong)
    trial.notes.append(
        f"not smooth here: at {places} the function has a kink, and the gradient given lies "
        "between its one-sided slopes"
    )
    return True


def _in_words(trial, variable, given, off) -> str:
    """What a wrong gradient is in terms of the true one."""
    if given.shape != trial.truth(variable).shape:
        known = relation(given, trial.truth(variable), trial.sizes)
        shapes = f"has shape {given.shape} but {variable.path} has {np.shape(variable.value)}"
        return f"{shapes}: it {known}" if known else shapes
    mine, true = trial.pair(variable)
    if trial.takes_dy and trial.y.ndim > 0:
        ones, _ = differences.gradient(trial.value, trial.point, np.ones_like(trial.y))
        if _close(mine, ones[trial.variables.index(variable)]):
            return "is the one for dy = 1, as if dy were not used"
    return relation(mine, true, trial.sizes) or f"is off by {off:.1e} of its norm"


def _close(mine, true) -> bool:
    return np.shape(mine) == np.shape(true) and relative_error(mine, true) <= TOLERANCE


def _same(mine, true) -> bool:
    return np.array_equal(mine, true, equal_nan=True)


def _place(variable, index) -> str:
    return f"{variable.path}{list(index)}" if index else variable.path


def _said(error) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
