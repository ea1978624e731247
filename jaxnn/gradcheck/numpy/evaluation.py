"""NumPy code at one set of arguments: its values and gradients, each computed once."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from jaxnn.gradcheck.arrays import relative_or_absolute_error, short_decimals
from jaxnn.gradcheck.differences import gradient_by_differences
from jaxnn.gradcheck.numpy import found
from jaxnn.gradcheck.numpy.code import Convention, Copy, NumPyCode
from jaxnn.gradcheck.numpy.held import NamedArray, is_number, walk
from jaxnn.gradcheck.numpy.naming import (
    ALIKE,
    DATA,
    LABELS,
    LEARNING_RATE,
    bare,
    without_marks,
)

MOST_ENTRIES = 20_000
MOST_BYTES = 2**28
NOISE = 1e-9
TOLERANCE = 1e-6


class Known:
    """Values and true gradients at one set of arguments, shared by all readings of the code.

    Attributes:
        truths: true gradients and the errors of the differences, by variable and cotangent.
        values: outputs, by variable and its value.
    """

    def __init__(self):
        self.truths: dict[tuple, tuple] = {}
        self.values: dict[tuple, np.ndarray] = {}
        self._kept = 0

    def value(self, which: tuple, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The outputs for a key, computed once while there is room in the cache."""
        known = self.values.get(which)
        if known is not None:
            return known
        value = compute()
        self._kept += value.nbytes + len(which[-1])
        if self._kept <= MOST_BYTES:
            self.values[which] = value
        return value


class Refused(ValueError):
    """The request cannot be checked under any reading of the code."""


class NumPyEvaluation:
    """NumPy code with one dy, and the values and gradients that the laws compare.

    Attributes:
        code: the forward and the backward, with their arguments.
        convention: the reading of the code.
        seed: the seed of dy.
        ones: whether dy is 1, since the backward does not use it.
        moved: changed values of some variables, by their keys.
        known: a cache of values and true gradients, shared with other readings.
        jacobian: whether backward, which takes no dy, returns ∂y/∂x itself, the axes of y first.
        rate: the learning rate of updates that the backward makes.
        notes: remarks of the laws, in addition to their findings.
    """

    def __init__(
        self,
        code: NumPyCode,
        seed: int,
        convention: Convention,
        ones: bool = False,
        moved: dict | None = None,
        known: Known | None = None,
        jacobian: bool = False,
    ):
        self.code, self.seed, self.convention = code, seed, convention
        self.ones, self.moved, self.jacobian = ones, moved or {}, jacobian
        self.rate = 1.0
        self.notes: list[str] = []
        self._known = known or Known()

    # ---- the code as it runs

    @cached_property
    def leaves(self) -> list[NamedArray]:
        """The arrays that a copy replaces, each once, under its shortest name."""
        used = Copy(self.code, self.convention, *self.code.things(self.convention))
        shortest: dict[int, NamedArray] = {}
        for leaf in used.leaves():
            known = shortest.setdefault(id(leaf.value), leaf)
            if len(leaf.names) < len(known.names):
                shortest[id(leaf.value)] = leaf
        return list(shortest.values())

    @cached_property
    def cleared(self) -> frozenset:
        """The keys of the arrays that hold gradients of earlier calls."""
        return frozenset(leaf.key for leaf in self.leaves if is_gradient(leaf, self.leaves))

    def copy(self, values=None) -> Copy:
        """A copy with new values of some leaves."""
        values = self.moved | (values or {})
        return self.code.copy(self.convention, self.leaves, values, self.cleared)

    def elsewhere(self) -> "NumPyEvaluation":
        """The same code with a different dy and different values of the variables.

        The signs are kept, so labels, probabilities and variances stay valid; the values move far
        if forward allows it.
        """
        for reach in (0.9, 0.1):
            evaluation = NumPyEvaluation(
                self.code,
                self.seed + 1,
                self.convention,
                self.ones,
                self._moved_by(reach),
                jacobian=self.jacobian,
            )
            truths = [evaluation.truth(variable) for variable in self._movable]
            if all(true is not None and np.isfinite(true).all() for true in truths):
                break
        return evaluation

    @property
    def _movable(self) -> list[NamedArray]:
        checked = [v for v in self.variables if v.key in self.gradients]
        return [v for v in checked if self.truth(v) is not None]

    def _moved_by(self, reach) -> dict:
        moved = {}
        for variable in self._movable:
            value = np.asarray(variable.value, np.float64)
            step = reach * np.sin(1 + np.arange(value.size)).reshape(value.shape)
            moved[variable.key] = value * (1 + step)
        return moved

    @cached_property
    def outputs(self) -> list[np.ndarray]:
        """The outputs of forward."""
        return self.copy().forward()

    @cached_property
    def y(self) -> np.ndarray:
        """The outputs, as one vector unless there is only one."""
        return self.outputs[0] if len(self.outputs) == 1 else _flat(self.outputs)

    @cached_property
    def takes_dy(self) -> bool:
        """Whether the backward takes a cotangent."""
        call = self.convention.call or {}
        return any(source.kind == "dy" for source in call.values())

    @cached_property
    def cotangents(self) -> list[np.ndarray]:
        """A random cotangent for each output, or 1 if the backward uses none."""
        ys = [np.asarray(y, np.float64) for y in self.outputs]
        if self.ones or not (self.takes_dy or self.jacobian):
            return [np.ones_like(y) for y in ys]
        return [short_decimals(y, self.seed + 7919 * i) for i, y in enumerate(ys)]

    @cached_property
    def dy(self) -> np.ndarray:
        """The cotangents, as one vector unless there is only one."""
        return self.cotangents[0] if len(self.outputs) == 1 else _flat(self.cotangents)

    @cached_property
    def ignores_dy(self) -> bool:
        """Whether the gradients are unchanged for dy = 1."""
        try:
            ones = NumPyEvaluation(
                self.code, self.seed, self.convention, ones=True, known=self._known
            )
            mine, other = self.gradients, ones.gradients
        except Exception:
            return False
        return bool(mine) and all(
            key in other and np.array_equal(mine[key], other[key]) for key in mine
        )

    # ---- the variables

    @cached_property
    def variables(self) -> list[NamedArray]:
        """The arguments and the parameters: arrays that forward reads and does not replace.

        A plain number, or an array in the object with the name of data, counts as a parameter only
        if backward gives its gradient.
        """
        return [v for v in self.possible if not self._is_optional(v) or v.key in self._chosen]

    def _is_optional(self, variable) -> bool:
        name = str(variable.names[-1])
        is_data = DATA.fullmatch(name) or LABELS.fullmatch(name)
        return variable.path in self.code.lifted or bool(variable.owner == "object" and is_data)

    @cached_property
    def possible(self) -> list[NamedArray]:
        """The variables, and the plain numbers and data that may be parameters."""
        inputs = [leaf for leaf in self.leaves if leaf.owner == "argument"]
        inputs = [leaf for leaf in inputs if leaf.key not in self.cleared]
        others = [leaf for leaf in self.leaves if leaf.owner != "argument"]
        if self.code.params is not None:
            held = {leaf.path: leaf for leaf in others}
            for name in self.code.params:
                if name not in held:
                    raise Refused(
                        f"{self.code.name} has no floating-point array {name!r}; it has: "
                        f"{', '.join(held) or 'none'}"
                    )
            return inputs + [held[name] for name in self.code.params]
        used = self.copy()
        before = {leaf.key: leaf.value for leaf in used.leaves()}
        used.forward()
        leaves = used.leaves()
        after = {leaf.key: leaf.value for leaf in leaves}
        growing = {leaf.names[:-1] for leaf in leaves if leaf.key not in before}
        return inputs + [
            leaf
            for leaf in others
            if after.get(leaf.key) is before[leaf.key]
            and leaf.path not in self.code.names
            and leaf.key not in self.cleared
            and not (isinstance(leaf.names[-1], int) and leaf.names[:-1] in growing)
        ]

    @cached_property
    def reported(self) -> list[NamedArray]:
        """The variables without the arrays that turn out not to be parameters."""
        return [v for v in self.variables if v.key in self.gradients or self._counts(v)]

    def _matters(self, variable) -> bool:
        """Whether the outputs depend on a variable, as far as is known."""
        true = self.truth(variable)
        return true is None or bool(true.any())

    def _counts(self, variable) -> bool:
        """Whether a variable without a gradient appears in the report."""
        if variable.owner == "global":
            return False
        if variable.owner == "argument" and len(variable.names) == 1:
            return True
        true = self.truth(variable)
        return true is not None and bool(true.any())

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that may explain a wrong factor, by their meaning."""
        sizes = {
            f"the size of axis {axis} of {leaf.path}": size
            for leaf in self.variables
            for axis, size in enumerate(np.shape(leaf.value))
        }
        for name, thing in self.code.named.items():
            for axis, size in enumerate(np.shape(thing)):
                sizes.setdefault(f"the size of axis {axis} of {name}", size)
        return sizes | {"the number of entries of y": self.y.size}

    # ---- the truth

    def truth(self, variable) -> np.ndarray | None:
        """The true gradient, with 0 for entries that are only noise.

        It is `None` if forward cannot be run close to its arguments.
        """
        true, _ = self._difference(variable)
        if true is None:
            return None
        floor = NOISE * max(
            np.abs(self.dy * self.y).sum(), np.abs(np.nan_to_num(true)).max(initial=0)
        )
        return np.where(np.abs(true) <= floor, 0, true)

    def resolution(self, variable) -> float:
        """The relative error of the differences."""
        return self._difference(variable)[1]

    def true_gradient(self, variable, cotangents) -> np.ndarray | None:
        """The true gradient for other cotangents."""
        return self._by_differences(variable, _flat(cotangents))[0]

    def _difference(self, variable):
        dy = _flat(self.cotangents)
        which = (*self._point(variable), dy.tobytes())
        if which not in self._known.truths:
            self._known.truths[which] = self._by_differences(variable, dy)
        return self._known.truths[which]

    def _point(self, variable) -> tuple:
        """A key of everything that the outputs depend on, except the value of a variable."""
        return variable.key, self.convention.outputs, self.convention.as_arrays, self.code.identity

    def _by_differences(self, variable, dy):
        point = np.asarray(self.moved.get(variable.key, variable.value), np.float64)
        if point.size > MOST_ENTRIES:
            raise Refused(
                f"{self.code.name}: {variable.path} has {point.size} entries, and each one takes a "
                f"call of forward; use smaller arrays, with at most {MOST_ENTRIES} in total"
            )

        def value(moved):
            which = (*self._point(variable), moved.dtype.char, moved.tobytes())
            return self._known.value(
                which, lambda: _flat(self.copy({variable.key: moved}).forward())
            )

        try:
            (true,), error = gradient_by_differences(value, [point], dy)
        except Exception:
            return None, 0.0
        return true, error

    # ---- the gradients under test

    @cached_property
    def gradients(self) -> dict[tuple[str, str], np.ndarray]:
        """The gradients that the code computes, by the keys of their variables."""
        gradients = {}
        for key, (array, note) in self._chosen.items():
            gradients[key] = np.array(array, np.float64)
            if note and note not in self.notes:
                self.notes.append(note)
        return gradients

    @cached_property
    def _chosen(self) -> dict:
        """For each variable, its gradient and a remark on its source, if one was found."""
        chosen, used = {}, self.copy()
        used.forward()
        before = used.values()
        candidates = used.backward(self._given_dy())
        after = used.values()
        suitable = found.gradients(self.code, self.possible, candidates)
        updates = {
            v.key: before[v.key] - after[v.key]
            for v in self.possible
            if v.owner != "argument"
            and v.key in after
            and np.shape(before[v.key]) == np.shape(after[v.key])
            and not np.array_equal(before[v.key], after[v.key])
            and self._matters(v)
        }
        self.updated |= set(updates)
        for variable in self.possible:
            options, by_name = suitable[variable.key]
            if variable.key in updates and by_name < found.BY_POSITION:
                continue
            updates.pop(variable.key, None)
            if options and not self._is_stray(variable, suitable):
                option = self._best(variable, options)
                array = self._contracted(variable, option.array.value)
                chosen[variable.key] = array, _remark(variable, option, by_name)
        if updates:
            self.rate, note = self._rate(updates)
            chosen |= {key: (change / self.rate, note) for key, change in updates.items()}
        return chosen

    def _is_stray(self, variable, suitable) -> bool:
        """Whether an array was chosen by shape alone for a variable that should have no gradient.

        Such a variable is an array in the object on which forward does not depend, or an argument
        if most arrays that backward returned have the names of gradients, such as dW. Unless it is
        right, the unnamed array is then something else, such as the last state.
        """
        options, by_name = suitable[variable.key]
        if variable.owner == "object" and by_name < found.BY_POSITION:
            return not self._matters(variable)
        named = [suit for suit in suitable.values() if suit.by_name >= ALIKE]
        if variable.owner != "argument" or by_name >= found.BY_POSITION or len(named) < 2:
            return False
        values = [np.asarray(option.array.value, np.float64) for option in options]
        return not any(self.is_right(variable, value) for value in values)

    @cached_property
    def updated(self) -> set:
        """The keys of the variables that backward itself updates."""
        return set()

    def _rate(self, updates) -> tuple[float, str]:
        """The learning rate of updates within the backward, and a remark on its source.

        Args:
            updates: the changes of the variables, by their keys.
        """
        call = self.convention.call or {}
        if any(source.kind == "rate" for source in call.values()):
            return 1.0, ""
        rates = {
            float(leaf.value): leaf.path
            for leaf in walk("object", self.code.instance, wanted=is_number)
            if np.ndim(leaf.value) == 0
            and LEARNING_RATE.fullmatch(str(leaf.names[-1]))
            and leaf.value
        }
        said = "the gradients are the updates that backward makes"
        by_key = {variable.key: variable for variable in self.possible}
        for rate, path in rates.items():
            if any(self.is_right(by_key[key], change / rate) for key, change in updates.items()):
                return rate, f"{said}, divided by {path} = {rate:g}"
        for rate, path in rates.items():
            return rate, f"{said}, divided by {path} = {rate:g}"
        for key, change in updates.items():
            true = self.truth(by_key[key])
            if true is not None and true.any() and np.isfinite(true).all():
                rate = float(np.sum(change * true) / np.sum(true * true))
                if rate > 0 and self.is_right(by_key[key], change / rate):
                    return rate, f"{said}, up to the learning rate: {rate:.3g} fits"
        return 1.0, f"{said}, with the learning rate 1"

    def _best(self, variable, options):
        """The candidate that is right, if there is one, and the likeliest otherwise."""
        if len(options) > 1:
            for option in options:
                if self.is_right(variable, np.asarray(option.array.value, np.float64)):
                    return option
        return options[0]

    def is_right(self, variable, given) -> bool:
        """Whether a gradient is the true one, except at entries where none exists."""
        true = self.truth(variable)
        if true is None or np.shape(given) != true.shape or not np.isfinite(given).all():
            return False
        given = np.where(np.isfinite(true), given, true)
        bound = max(TOLERANCE, 10 * self.resolution(variable))
        return relative_or_absolute_error(given, true) <= bound

    @property
    def merit(self) -> tuple[int, int]:
        """The number of right gradients, and the number with the shapes of their variables."""
        given = [
            (v, self.gradients[v.key])
            for v in self.variables
            if v.key in self.gradients and self.truth(v) is not None
        ]
        shaped = sum(np.shape(gradient) == np.shape(v.value) for v, gradient in given)
        return sum(self.is_right(v, gradient) for v, gradient in given), shaped

    @property
    def all_right(self) -> bool:
        """Whether there are gradients, all of them are right, and no parameter lacks one."""
        checked = [v for v in self.variables if v.key in self.gradients]
        lacking = [
            v
            for v in self.variables
            if v.owner == "object" and v.key not in self.gradients and self._counts(v)
        ]
        return (
            bool(checked)
            and not lacking
            and all(
                self.is_right(v, self.gradients[v.key]) or self.truth(v) is None for v in checked
            )
        )

    def run(self, used) -> tuple[list[np.ndarray], dict]:
        """Outputs and gradients of a copy."""
        outputs = used.forward()
        before = used.values()
        suitable = found.gradients(self.code, self.possible, used.backward(self._given_dy()))
        after, gradients = used.values(), {}
        for variable in self.variables:
            key = variable.key
            options, by_name = suitable[key]
            if key not in self.gradients:
                continue
            if key in self.updated and by_name < found.BY_POSITION:
                gradients[key] = (before[key] - after[key]) / self.rate
            elif options:
                option = self._best(variable, options)
                array = self._contracted(variable, option.array.value)
                gradients[key] = np.array(array, np.float64)
        return outputs, gradients

    @property
    def gives_jacobians(self) -> bool:
        """Whether a gradient computed without dy has the shape of a Jacobian."""
        if self.takes_dy or self.y.ndim == 0:
            return False
        return any(self._is_jacobian(v, self.gradients.get(v.key)) for v in self.variables)

    def _is_jacobian(self, variable, array) -> bool:
        whole = (*self.y.shape, *np.shape(variable.value))
        return np.shape(array) in (whole, self._shape_by_rows(variable))

    def _shape_by_rows(self, variable) -> tuple[int, ...] | None:
        """The shape of a stack of Jacobians, one for each row of y and of a variable."""
        shape = np.shape(variable.value)
        if len(shape) != 2 or self.y.ndim != 2 or shape[0] != self.y.shape[0]:
            return None
        return (*self.y.shape, shape[1])

    def _contracted(self, variable, array):
        """Σ dy·J if the array is a Jacobian, otherwise the array itself."""
        if not (self.jacobian and self._is_jacobian(variable, array)):
            return array
        if np.shape(array) == self._shape_by_rows(variable):
            return np.einsum("nk,nkj->nj", self.dy, array)
        return np.tensordot(self.dy, array, self.y.ndim)

    def _given_dy(self) -> list:
        return [np.array(dy)[()] for dy in self.cotangents]

    def pair(self, variable) -> tuple[np.ndarray, np.ndarray]:
        """The gradient under test and the true one, equal at entries that have no true one."""
        true: Any = self.truth(variable)
        mine = self.gradients[variable.key]
        floor = NOISE * np.abs(self.dy * self.y).sum()
        mine = np.where((np.abs(mine) <= floor) & (true == 0), 0, mine)
        return mine, np.where(np.isfinite(true), true, mine)


def is_gradient(leaf, leaves) -> bool:
    """Whether the name of an array says that it is the gradient of another."""
    others = [other for other in leaves if other.key != leaf.key and other.owner == leaf.owner]
    names = {bare(other.names) for other in others}
    return any(bare(of) in names for of in without_marks(leaf.names) if of)


def _remark(variable, option, by_name) -> str:
    """A remark on the source of a gradient, unless its name shows it."""
    if option.source == "returned" or by_name >= ALIKE:
        return ""
    return f"the gradient of {variable.path} was taken from {option.array.path}"


def _flat(arrays) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays])
