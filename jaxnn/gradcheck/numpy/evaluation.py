"""Code in NumPy at one set of arguments: its values and gradients, each computed once."""

from functools import cached_property

import numpy as np

from jaxnn.gradcheck.arrays import short_decimals
from jaxnn.gradcheck.differences import gradient_by_differences
from jaxnn.gradcheck.numpy.conventions import NamedArray, NumPyBackward, is_gradient

MOST_ENTRIES = 20_000
NOISE = 1e-9


class NumPyEvaluation:
    """Code in NumPy with one dy, and the values and gradients that the laws compare.

    Attributes:
        code: the forward and the backward, with their arguments.
        seed: of dy.
        notes: remarks of the laws, besides their findings.
    """

    def __init__(self, code: NumPyBackward, seed: int):
        self.code, self.seed = code, seed
        self.notes: list[str] = []

    @cached_property
    def y(self) -> np.ndarray:
        """The value."""
        return self.code.copy().forward()

    @cached_property
    def takes_dy(self) -> bool:
        """Whether the backward takes the gradient of its output."""
        used, dy = self.code.copy(), object()
        used.forward()
        return any(given is dy for given in used.arguments_of_backward(dy).values())

    @cached_property
    def dy(self) -> np.ndarray:
        """A random cotangent, or 1 for a backward that takes none."""
        y = self.y.astype(np.float64)
        return short_decimals(y, self.seed) if self.takes_dy else np.ones_like(y)

    @cached_property
    def variables(self) -> list[NamedArray]:
        """The arguments, and the parameters: the object's arrays that forward does not replace."""
        leaves = self.code.leaves
        inputs = [leaf for leaf in leaves if leaf.owner == "argument"]
        held = {leaf.path: leaf for leaf in leaves if leaf.owner == "object"}
        if self.code.params is not None:
            for name in self.code.params:
                if name not in held:
                    raise ValueError(
                        f"{self.code.name} has no floating-point array {name!r}; it has: "
                        f"{', '.join(held) or 'none'}"
                    )
            return inputs + [held[name] for name in self.code.params]
        used = self.code.copy()
        before = {leaf.key: leaf.value for leaf in used.leaves()}
        used.forward()
        after = {leaf.key: leaf.value for leaf in used.leaves()}
        return inputs + [
            leaf
            for leaf in held.values()
            if after.get(leaf.key) is before[leaf.key]
            and leaf.path not in self.code.names
            and not is_gradient(leaf, held.values())
        ]

    @cached_property
    def reported(self) -> list[NamedArray]:
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
        """The sizes that a wrong factor may stem from, by their meaning."""
        return {
            f"the size of axis {axis} of {leaf.path}": size
            for leaf in self.variables
            for axis, size in enumerate(np.shape(leaf.value))
        } | {"the number of entries of y": self.y.size}

    def value(self, *values) -> np.ndarray:
        """The value with other values of the variables."""
        return self.code.copy(self._by_key(values)).forward()

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
                f"{self.code.name}: its arrays have {entries} entries, and each one takes a "
                f"call of forward; give smaller ones, of at most {MOST_ENTRIES} in all"
            )
        grads, error = gradient_by_differences(self.value, self.point, self.dy)
        return self._by_key(grads), error

    @cached_property
    def noise(self) -> float:
        """The size below which an entry of a gradient counts as zero."""
        truth, _ = self.differences
        sizes = [np.abs(np.nan_to_num(true)).max(initial=0) for true in truth.values()]
        return NOISE * float(max([np.abs(self.dy * self.y).sum(), *sizes]))

    def truth(self, variable) -> np.ndarray:
        """The true gradient, with 0 for entries that are only noise."""
        true = self.differences[0][variable.key]
        return np.where(np.abs(true) <= self.noise, 0, true)

    def pair(self, variable) -> tuple[np.ndarray, np.ndarray]:
        """The gradient given and the true one, equal at entries that have no true one."""
        true, mine = self.truth(variable), self.gradients[variable.key]
        mine = np.where(np.abs(mine) <= self.noise, 0, mine)
        return mine, np.where(np.isfinite(true), true, mine)

    @cached_property
    def gradients(self) -> dict[tuple[str, str], np.ndarray]:
        """The gradients that the code gives, by the keys of their variables."""
        return self.run(self.code.copy())[1]

    def run(self, used) -> tuple[np.ndarray, dict]:
        """Value and gradients of a copy, with a dy of its own."""
        y = used.forward()
        return y, used.backward(np.array(self.dy)[()], self.variables)

    def _by_key(self, values) -> dict:
        return {v.key: value for v, value in zip(self.variables, values, strict=True)}
