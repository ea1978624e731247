"""Normalisations, recognised by their values, and their known mistakes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from jaxnn.gradcheck.explain.axes import broadcasts, near, on_axes, subsets
from jaxnn.gradcheck.explain.evidence import Comparison, Evidence, Hypothesis, scalable

SAME = 1e-8
RECOGNISED = 1e-3
EPSILONS = (0.0, 1e-5, 1e-8, 1e-6, 1e-3, 1e-12, 1e-7, 1e-10, 1e-4, 1e-2)
STATISTICS = {"mean": "mean and variance", "rms": "root mean square", "norm": "norm"}


@dataclass(frozen=True)
class _Normalisation:
    """y = γ·x̂ + β with x̂ = (x − μ)/s."""

    input: str
    gain: str
    x: np.ndarray
    hat: np.ndarray
    scale: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    axes: tuple[int, ...]
    kind: str

    def gradient(self, g, scale=None, centre=1.0, along=1.0, axes=None) -> np.ndarray:
        """(g − centre·ḡ − along·x̂·mean(g·x̂))/s, the gradient of x from g = dy·γ."""
        axes = axes or self.axes
        mean = g.mean(axes, keepdims=True) if self.kind == "mean" else 0.0
        product = (g * self.hat).mean(axes, keepdims=True)
        if self.kind == "norm":
            product = product * self.size
        return (g - centre * mean - along * self.hat * product) / (
            self.scale if scale is None else scale
        )

    @property
    def size(self) -> int:
        """The number of entries that are normalised together."""
        return int(np.prod([self.x.shape[axis] for axis in self.axes]))


def of_normalisation(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients of the input and the gain produced by mistakes in a normalisation.

    Args:
        comparison: the gradient and the truth.
        leaf: the path of the argument.
        evidence: of its gradient.
    """
    if not evidence.is_one_array or comparison.mine.shape != comparison.truth.shape:
        return
    layer = _recognised(evidence, max(SAME, comparison.tolerance if not comparison.precise else 0))
    if layer is None:
        return
    dy, truth = evidence.dy[0], comparison.truth
    recognised = max(RECOGNISED, comparison.tolerance)
    if leaf == layer.input and near(layer.gradient(dy * layer.gamma), truth, recognised):
        yield from scalable(_slips_of_input(layer, dy))
    elif leaf == layer.gain:
        for axes in subsets(dy.ndim):
            total = (dy * layer.hat).sum(axes)
            if total.size == truth.size and near(total.reshape(truth.shape), truth, recognised):
                slips = _slips_of_gain(layer, dy)
                yield from scalable(
                    {words: term.sum(axes).reshape(truth.shape) for words, term in slips.items()}
                )
                return


def _recognised(evidence, tolerance) -> _Normalisation | None:
    y = evidence.y[0]
    for name, x in evidence.arrays.items():
        if x.shape != y.shape or not x.ndim:
            continue
        channels = [pair for pair in _channels(evidence.arrays, y.shape) if pair[0] != name]
        gains = [("", np.ones(())), *channels]
        offsets = [("", np.zeros(())), *channels]
        for axes, kind, epsilon in product(subsets(x.ndim), STATISTICS, EPSILONS):
            hat, scale = _standardised(x, axes, kind, epsilon)
            for (gain, gamma), (offset, beta) in product(gains, offsets):
                if (not gain or gain != offset) and near(gamma * hat + beta, y, tolerance):
                    return _Normalisation(name, gain, x, hat, scale, gamma, beta, axes, kind)
    return None


def _channels(arrays, shape) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that may be a gain or an offset, in a shape that broadcasts to the output's."""
    for path, array in arrays.items():
        if array.ndim == 1 and len(shape) == 4 and array.size == shape[1]:
            yield path, array[:, None, None]
        elif array.shape != shape and broadcasts(array.shape, shape):
            yield path, array


def _standardised(x, axes, kind, epsilon) -> tuple[np.ndarray, np.ndarray]:
    centred = x - x.mean(axes, keepdims=True) if kind == "mean" else x
    reduce = np.sum if kind == "norm" else np.mean
    scale = np.sqrt(reduce(centred**2, axis=axes, keepdims=True) + epsilon)
    return centred / scale, scale


def _slips_of_input(layer, dy) -> dict[str, np.ndarray]:
    g, statistics = dy * layer.gamma, STATISTICS[layer.kind]
    deviation = "standard deviation" if layer.kind == "mean" else statistics
    gain, constant = layer.gain or "the gain", "constants" if layer.kind == "mean" else "a constant"
    slips = {f"treats the {statistics} as {constant}": g / layer.scale}
    if layer.kind == "mean":
        slips |= _slips_with_mean(layer, g)
    term = "the x̂ term (from the variance)" if layer.kind == "mean" else "the x̂ term"
    slips |= {
        f"has the wrong sign in {term} (C1)": layer.gradient(g, along=-1),
        f"contains {term} twice (C5)": layer.gradient(g, along=2),
        f"contains only half of {term} (C5)": layer.gradient(g, along=0.5),
        "uses a sum instead of the mean of dy·γ·x̂ (C2)": layer.gradient(g, along=layer.size),
        f"lacks the factor {gain}, and treats the {statistics} as {constant}": dy / layer.scale,
        f"lacks the factor {gain}": layer.gradient(dy),
        f"applies the factor {gain} outside the means": layer.gamma * layer.gradient(dy),
        f"contains the factor {gain} twice": layer.gradient(g * layer.gamma),
        f"is not divided by the {deviation}": layer.gradient(g, scale=1.0),
        f"is divided by the {deviation} twice": layer.gradient(g, scale=layer.scale**2),
        f"is multiplied by the {deviation}, not divided": layer.gradient(g, scale=1 / layer.scale),
        "is dy unchanged, as if the normalisation had no derivative (A1)": dy * 1.0,
        f"is dy × {gain}, as if the normalisation had no derivative (A1)": g,
    }
    for other in subsets(dy.ndim):
        if other != layer.axes:
            over = f"{on_axes(other)}, but x is normalised over {on_axes(layer.axes)}"
            slips[f"takes means over {over} (S3)"] = layer.gradient(g, axes=other)
    return slips


def _slips_with_mean(layer, g) -> dict[str, np.ndarray]:
    """Mistakes in the terms of the mean and of the variance."""
    n, x = layer.size, layer.x

    def mean(array):
        return array.mean(layer.axes, keepdims=True)

    return {
        "treats the variance as a constant: its term is missing": layer.gradient(g, along=0),
        "treats the mean as a constant: its term is missing": layer.gradient(g, centre=0),
        "has the wrong sign in the term of the mean (C1)": layer.gradient(g, centre=-1),
        f"uses a variance over {n - 1} numbers in its term, not over {n}": layer.gradient(
            g, along=n / max(n - 1, 1)
        ),
        "uses a sum instead of the mean of dy·γ (C2)": layer.gradient(g, centre=n),
        "uses sums instead of means (C2)": layer.gradient(g, centre=n, along=n),
        "uses x instead of the normalised x̂": (g - mean(g) - x * mean(g * x)) / layer.scale,
        "uses x once instead of the normalised x̂": (g - mean(g) - layer.hat * mean(g * x))
        / layer.scale,
        "uses x as a factor instead of x̂": (g - mean(g) - x * mean(g * layer.hat)) / layer.scale,
        "lacks the factor x̂ in the term of the variance": (g - mean(g) - mean(g * layer.hat))
        / layer.scale,
    }


def _slips_of_gain(layer, dy) -> dict[str, np.ndarray]:
    """Arrays whose sum is taken as the gradient of γ instead of that of dy·x̂."""
    hat = layer.hat
    return {
        "lacks the normalised x̂: it is Σdy, the gradient of the offset (beta)": dy,
        "uses x instead of the normalised x̂": dy * layer.x,
        "uses x − μ instead of the normalised x̂: it is not divided by the standard deviation": dy
        * hat
        * layer.scale,
        "uses the output instead of the normalised x̂": dy * (layer.gamma * hat + layer.beta),
        f"also contains the factor {layer.gain}": dy * layer.gamma * hat,
        "is divided by the standard deviation twice": dy * hat / layer.scale,
        "is the sum of the normalised x̂, without dy": hat,
    }
