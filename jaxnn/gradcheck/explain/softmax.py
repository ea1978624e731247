"""Softmax and log-softmax, recognised by their gradients, and their known mistakes."""

from collections.abc import Iterator

import numpy as np

from jaxnn.gradcheck.explain.axes import near, on_axes, subsets
from jaxnn.gradcheck.explain.evidence import Comparison, Evidence, Hypothesis, scalable

RECOGNISED = 1e-4


def of_softmax(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients produced by mistakes in softmax and log-softmax.

    Args:
        comparison: the gradient and the truth.
        leaf: the path of the argument.
        evidence: of its gradient.
    """
    x = evidence.arrays.get(leaf)
    if not evidence.is_one_array or x is None or x.shape != evidence.y[0].shape:
        return
    y, dy = evidence.y[0], evidence.dy[0]
    recognised = max(RECOGNISED, comparison.tolerance)
    for axis in reversed(range(x.ndim)):
        right = _softmax(y, dy, axis)
        if near(y.sum(axis), 1, recognised) and near(right, comparison.truth, recognised):
            yield from scalable(_slips_of_softmax(x, y, dy, axis))
            return
        p = np.exp(y)
        right = dy - p * dy.sum(axis, keepdims=True)
        if near(p.sum(axis), 1, recognised) and near(right, comparison.truth, recognised):
            yield from scalable(_slips_of_log_softmax(y, dy, axis))
            return


def _softmax(p, dy, axis):
    return p * (dy - (dy * p).sum(axis, keepdims=True))


def _slips_of_softmax(x, p, dy, axis) -> dict[str, np.ndarray]:
    jacobian = "softmax's Jacobian"
    total = (dy * p).sum(axis, keepdims=True)
    return {
        f"contains only the diagonal of {jacobian}, dy·p·(1 − p) (L1)": dy * p * (1 - p),
        f"lacks the term −p·Σ(dy·p) of {jacobian}: only dy·p is there (L1)": dy * p,
        "is dy unchanged: the derivative of softmax is missing (A1)": dy * 1.0,
        f"contains {jacobian} twice (L2)": _softmax(p, _softmax(p, dy, axis), axis),
        f"lacks the factor p of {jacobian}": dy - total,
        f"lacks the factor p in the second term of {jacobian}": dy * p - total,
        f"has the wrong sign in the second term of {jacobian}": dy * p + p * total,
        "uses Σdy instead of Σ(dy·p)": p * (dy - dy.sum(axis, keepdims=True)),
        "uses the mean of dy instead of Σ(dy·p)": p * (dy - dy.mean(axis, keepdims=True)),
        "uses the mean of dy·p instead of its sum (C3)": p * (dy - total / x.shape[axis]),
        **{
            f"is summed over {on_axes(other)}, but softmax runs along axis {axis} (S3)": _softmax(
                p, dy, other
            )
            for other in subsets(x.ndim)
            if other != (axis,)
        },
        f"uses the input instead of the output p in {jacobian} (A2)": _softmax(x, dy, axis),
        f"contains only the diagonal of {jacobian}, and dy is not used (L1)": p * (1 - p),
    }


def _slips_of_log_softmax(y, dy, axis) -> dict[str, np.ndarray]:
    p, total = np.exp(y), dy.sum(axis, keepdims=True)
    return {
        "is dy unchanged: the term −p·Σdy of log-softmax's derivative is missing (A1)": dy * 1.0,
        "uses −p instead of −p·Σdy": dy - p,
        "lacks the factor p in the term p·Σdy": dy - total,
        "contains only the diagonal of the Jacobian, dy·(1 − p) (L1)": dy * (1 - p),
        "has the wrong sign in the term p·Σdy": dy + p * total,
        "uses log p instead of p (A2)": dy - y * total,
        "uses Σ(dy·p) instead of Σdy": dy - p * (dy * p).sum(axis, keepdims=True),
        "uses the mean of dy instead of Σdy (C3)": dy - p * dy.mean(axis, keepdims=True),
        "is the derivative of softmax, not of log-softmax (A3)": _softmax(p, dy, axis),
        "also contains the derivative of softmax (L2)": _softmax(p, dy - p * total, axis),
        **{
            f"is summed over {on_axes(other)}, but log-softmax runs along axis {axis} (S3)": (
                dy - p * dy.sum(other, keepdims=True)
            )
            for other in subsets(y.ndim)
            if other != (axis,)
        },
    }
