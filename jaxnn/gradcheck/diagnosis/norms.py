"""Normalisation steps, recognised by their values, and their wrong gradients."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnn.gradcheck.diagnosis.nodes import Node

EPS = (1e-5, 1e-6, 1e-3, 1e-8, 1e-12, 1e-4, 0.0)
CLOSE = 1e-9


class Normalisation(NamedTuple):
    """y = γ·x̂ + β with x̂ = (x − μ)·r.

    Attributes:
        x: the input.
        x_hat: x̂.
        r: one over the standard deviation, or over the root mean square.
        gamma: γ of each channel.
        axes: the axes of the statistics.
        centred: whether the mean μ is subtracted; an RMS norm does not subtract it.
    """

    x: np.ndarray
    x_hat: np.ndarray
    r: np.ndarray
    gamma: np.ndarray
    axes: tuple[int, ...]
    centred: bool

    def wrong_dx(self, dy: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """`(mistake, words, dx)` for each wrong gradient of the input."""
        scaled = dy * self.gamma
        plain = scaled - self._of_mean(scaled)
        if self.centred:
            yield "N1", "the mean is treated as a constant", self.r * (scaled - self._of_r(scaled))
            yield "N1", "mean and variance are treated as constants", self.r * scaled
            yield "N2", "the variance is treated as a constant", self.r * plain
        else:
            yield "N2", "the root mean square is treated as a constant", self.r * scaled
        yield "N4", "γ is missing", self.r * (dy - self._of_mean(dy) - self._of_r(dy))
        right = plain - self._of_r(scaled)
        yield "N4", "the division by the deviation is missing", right
        n = np.prod([self.x.shape[axis] for axis in self.axes])
        summed = scaled - n * self._of_mean(scaled) - n * self._of_r(scaled)
        yield "N4", "sums instead of the means", self.r * summed
        wrong_sign = scaled - self._of_mean(scaled) + self._of_r(scaled)
        yield "N4", "the term of the variance has the wrong sign", self.r * wrong_sign

    def wrong_dgamma(self, dy: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
        """`(mistake, words, dγ)` with a wrong factor of dy."""
        axes = tuple(range(dy.ndim - 1))
        yield "N3", "dβ instead of dγ", dy.sum(axes)
        yield "N3", "x instead of x̂", (dy * self.x).sum(axes)
        yield "N3", "y instead of x̂", (dy * self.gamma * self.x_hat).sum(axes)
        centred = self.x - self.x.mean(self.axes, keepdims=True)
        yield "N3", "x − μ instead of x̂", (dy * centred).sum(axes)

    def _of_mean(self, dy):
        return dy.mean(self.axes, keepdims=True) if self.centred else 0 * dy

    def _of_r(self, dy):
        return self.x_hat * (dy * self.x_hat).mean(self.axes, keepdims=True)


def normalisation(node: Node) -> Normalisation | None:
    """The normalisation that a step computes, or `None`."""
    if len(node.x) != 1 or node.x[0].shape != node.y.shape or node.y.ndim < 2:
        return None
    (x,), y = node.x, node.y
    if any(leaf.ndim > 1 for leaf in node.leaves):
        return None
    everything = tuple(range(x.ndim))
    for axes in filter(None, (everything[-1:], everything[:-1], everything[1:], everything[1:-1])):
        for centred in (True, False):
            for eps in EPS:
                found = _fitted(x, y, axes, centred, eps)
                if found is not None and _has_scale(node, found.gamma):
                    return found
    return None


def _has_scale(node: Node, gamma) -> bool:
    """Whether γ is one of the parameters, one more than it, or 1 throughout."""
    scales = [np.ones_like(gamma), *node.leaves, *(1 + leaf for leaf in node.leaves)]
    return any(np.allclose(gamma, s, rtol=1e-7) for s in scales if s.shape == gamma.shape)


def _fitted(x, y, axes, centred, eps) -> Normalisation | None:
    """The normalisation over these axes, if y is a multiple of it in each channel."""
    z = x - x.mean(axes, keepdims=True) if centred else x
    with np.errstate(all="ignore"):
        r = 1 / np.sqrt((z**2).mean(axes, keepdims=True) + eps)
        x_hat = z * r
        channels, values = (v.reshape(-1, v.shape[-1]) for v in (x_hat, y))
        offset, base = values.mean(0), channels.mean(0)
        square = ((channels - base) ** 2).sum(0)
        gamma = ((channels - base) * (values - offset)).sum(0) / square
        off = np.linalg.norm(values - offset - gamma * (channels - base))
    if not np.isfinite(off) or off > CLOSE * np.linalg.norm(values - offset):
        return None
    return Normalisation(x, x_hat, r, gamma, axes, centred)
