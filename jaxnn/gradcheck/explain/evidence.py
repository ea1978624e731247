"""The facts about a wrong gradient, and its comparison with hypotheses."""

import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.explain.factors import Constant, known_constants, value_of

Arrays = dict[str, np.ndarray]
Outputs = tuple[np.ndarray, ...]

FLOAT64_TOLERANCE = 1e-6
COINCIDENCE = 1e-5
GUARDED_TOLERANCE = 1e-4
SECONDS = 0.7


@dataclass(frozen=True)
class Evidence:
    """The arrays and functions from which the cause of a wrong gradient is deduced.

    Attributes:
        sizes: the sizes that may explain a wrong factor, by their meaning, such as
            `{"the size of axis 0 of x": 64}`.
        options: the numeric options by name, such as `{"p": 0.3}`.
        arrays: the floating-point arguments and parameters by path.
        others: all other arrays, such as labels, by path.
        truths: the true gradient of each entry of `arrays`.
        given: the gradients under test.
        dy: the cotangent of each output.
        y: the outputs.
        forward: returns the outputs for other `arrays`; `None` if it cannot be called.
        true_gradient: returns the true gradients for other cotangents; `None` if it cannot be
            called.
        resolution: the relative rounding error of the gradients under test.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    options: dict[str, int | float] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    others: Arrays = field(default_factory=dict)
    truths: Arrays = field(default_factory=dict)
    given: Arrays = field(default_factory=dict)
    dy: Outputs = ()
    y: Outputs = ()
    forward: Callable[[Arrays], Outputs] | None = None
    true_gradient: Callable[[Outputs], Arrays] | None = None
    resolution: float = 1e-12

    @property
    def output_name(self) -> str:
        """The name of the first output in a formula."""
        return "y" if "y" not in self.arrays | self.others else "output"

    @property
    def is_one_array(self) -> bool:
        """Whether the function returns a single real array with several entries."""
        return (
            len(self.y) == len(self.dy) == 1
            and self.y[0].size > 1
            and self.y[0].dtype.kind == "f"
            and self.y[0].shape == self.dy[0].shape
        )

    def gradients_for(self, dy: Iterable) -> Arrays:
        """The true gradients for other cotangents; empty if they are unknown."""
        if self.true_gradient is None:
            return {}
        try:
            found = self.true_gradient(tuple(map(np.asarray, dy)))
        except Exception:
            return {}
        return {path: np.asarray(gradient) for path, gradient in found.items()}

    def outputs_at(self, changes: Arrays) -> Outputs:
        """The outputs with some arrays replaced; empty if they are unknown."""
        if self.forward is None:
            return ()
        try:
            return tuple(np.asarray(y) for y in self.forward(self.arrays | changes))
        except Exception:
            return ()


class Hypothesis(NamedTuple):
    """The gradient that a mistake would produce.

    Attributes:
        gradient: the numbers.
        words: the end of a sentence that begins with the gradient's name.
        mistake: the id of the mistake in `jaxnn.gradcheck.diagnosis.mistakes`, if it has one.
        scalable: whether a known constant may be wrong as well.
        free: the constants that may be present without being mentioned.
    """

    gradient: np.ndarray
    words: str
    mistake: str = ""
    scalable: bool = False
    free: tuple[float, ...] = ()


class Explanation(NamedTuple):
    """The description of a wrong gradient, and the id of the mistake."""

    words: str
    mistake: str = ""

    def __str__(self) -> str:
        return f"{self.words} ({self.mistake})" if self.mistake else self.words


class Comparison:
    """A wrong gradient compared with the true one."""

    def __init__(self, mine, truth, evidence: Evidence):
        self.mine, self.truth = _wide(mine), _wide(truth)
        self.tolerance = max(FLOAT64_TOLERANCE, 2 * evidence.resolution)
        sizes = evidence.sizes | _numbers_of_entries(evidence, self.truth.size)
        self.constants = known_constants(sizes, evidence.options, products=self.precise)
        self.most = self.tolerance
        self._norm = np.linalg.norm(self.mine)
        same = self.mine.shape == self.truth.shape
        self._off = np.linalg.norm(self.mine - self.truth) if same else np.inf

    def loosened(self) -> "Comparison":
        """The same comparison with a tolerance that allows a guard, such as ε in log(p + ε)."""
        loose = copy(self)
        loose.tolerance = loose.most = max(self.tolerance, GUARDED_TOLERANCE)
        return loose

    def rivalling_a_multiple(self) -> "Comparison":
        """The same comparison for hypotheses that must fit far better than a multiple does."""
        strict = copy(self)
        strict.most = self.error_of_multiple / 2
        return strict

    @property
    def is_settled_by_multiple(self) -> bool:
        """Whether a multiple of the true gradient that fits leaves nothing to explain."""
        if self.precise or not self.mine.any():
            return True
        return self.error_of_multiple <= self.tolerance / 20

    @property
    def error_of_multiple(self) -> float:
        """The error of the nearest multiple of the true gradient."""
        c = np.vdot(self.truth, self.mine) / np.vdot(self.truth, self.truth)
        return self.error(c * self.truth)

    @property
    def precise(self) -> bool:
        """Whether the numbers are accurate enough to tell many hypotheses apart."""
        return self.tolerance <= 1e-4

    def error(self, gradient) -> float:
        """The relative distance of a hypothesis from the gradient; ∞ if it does not fit."""
        gradient = np.asarray(gradient)
        if gradient.shape != self.mine.shape or not np.isfinite(gradient).all() or not self._norm:
            return np.inf
        if self.tolerance ** np.count_nonzero(gradient) > COINCIDENCE:
            return np.inf
        off = np.linalg.norm(self.mine - gradient)
        fits = off <= self.most * self._norm and off <= 0.05 * self._off
        return float(off / self._norm) if fits else np.inf

    def fits(self, gradient) -> bool:
        """Whether a hypothesis explains the gradient."""
        return self.error(gradient) < np.inf

    def alike(self, a, b) -> bool:
        """Whether two arrays are the same within the tolerance."""
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return False
        return bool(np.linalg.norm(a - b) <= self.tolerance * np.linalg.norm(b))

    def with_constant(self, hypothesis: Hypothesis) -> Explanation | None:
        """The explanation by a hypothesis that fits up to a meaningful constant."""
        gradient = np.asarray(hypothesis.gradient)
        if gradient.shape != self.mine.shape or not np.isfinite(gradient).all():
            return None
        if np.count_nonzero(gradient) < 2 or self.alike(gradient, self.truth):
            return None
        square = np.vdot(gradient, gradient)
        c = np.vdot(gradient, self.mine).real / square if square else 0.0
        if not c or not self.fits(c * gradient):
            return None
        if any(abs(c - factor) <= self.tolerance * factor for factor in hypothesis.free):
            return Explanation(hypothesis.words, hypothesis.mistake)
        constant = self.constant(c) if self.precise or abs(c + 1) <= self.tolerance else None
        if constant is None:
            return None
        return Explanation(f"{hypothesis.words}; {constant.besides}", hypothesis.mistake)

    def constant(self, c: float) -> Constant | None:
        """The meaningful constant that equals a factor, if any."""
        return value_of(c, self.constants, self.tolerance)


def _numbers_of_entries(evidence, size) -> dict[str, int]:
    """The number of entries of each array, and of output entries per gradient entry."""
    entries = {
        f"the number of entries of {path}": array.size
        for path, array in evidence.arrays.items()
        if array.ndim > 1
    }
    if len(evidence.y) == 1 and size and evidence.y[0].size % size == 0:
        each = "the number of output entries for each of its entries"
        entries[each] = evidence.y[0].size // size
    return entries


def _wide(array) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def scalable(gradients: Arrays) -> Iterator[Hypothesis]:
    """Hypotheses that may also be off by a constant, from their descriptions."""
    for words, gradient in gradients.items():
        yield Hypothesis(gradient, words, "", True)


def first_that_fits(
    comparison: Comparison, hypotheses: Iterable[Hypothesis], deadline: float = np.inf
) -> Explanation | None:
    """The first hypothesis that explains a gradient.

    An exact fit takes precedence over one that needs a constant. With few correct digits several
    may fit; then a far better fit replaces an earlier one.

    Args:
        comparison: the gradient and the truth.
        hypotheses: the likeliest first.
        deadline: the time of `time.monotonic` after which no hypothesis is tried.
    """
    exact, scaled, least = None, None, np.inf
    for hypothesis in until(min(deadline, time.monotonic() + SECONDS), hypotheses):
        error = comparison.error(hypothesis.gradient)
        if error < least / 3:
            exact, least = Explanation(hypothesis.words, hypothesis.mistake), error
            if comparison.precise:
                break
        elif scaled is None and hypothesis.scalable:
            scaled = comparison.with_constant(hypothesis)
    return exact or scaled


def until(deadline: float, hypotheses: Iterable[Hypothesis]) -> Iterator[Hypothesis]:
    """The hypotheses generated before a deadline, with overflow warnings silenced."""
    with np.errstate(all="ignore"):
        for hypothesis in hypotheses:
            yield hypothesis
            if time.monotonic() > deadline:
                return
