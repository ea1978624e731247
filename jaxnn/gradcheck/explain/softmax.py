"""Softmax and log-softmax, recognised by their gradients, and their known mistakes."""

from collections.abc import Iterator

import numpy as np

from jaxnn.gradcheck.explain.axes import near, on_axes, subsets
from jaxnn.gradcheck.explain.evidence import Comparison, Evidence, Hypothesis, scalable

RECOGNISED = 1e-4


def of_softmax(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients that mistakes in softmax and log-softmax give.

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
        f"has only the diagonal of {jacobian} in it, dy·p·(1 − p) (L1)": dy * p * (1 - p),
        f"lacks the term −p·Σ(dy·p) of {jacobian}: only dy·p is there (L1)": dy * p,
        "is dy unchanged, as if the derivative of softmax were missing (A1)": dy * 1.0,
        f"has {jacobian} in it twice (L2)": _softmax(p, _softmax(p, dy, axis), axis),
        f"lacks the factor p of {jacobian}": dy - total,
        f"lacks the factor p in the second term of {jacobian}": dy * p - total,
        f"has the wrong sign of the second term of {jacobian}": dy * p + p * total,
        "has Σdy in the place of Σ(dy·p)": p * (dy - dy.sum(axis, keepdims=True)),
        "has the mean of dy in the place of Σ(dy·p)": p * (dy - dy.mean(axis, keepdims=True)),
        "has the mean of dy·p in the place of its sum (C3)": p * (dy - total / x.shape[axis]),
        **{
            f"is summed over {on_axes(other)}, but softmax runs along axis {axis} (S3)": _softmax(
                p, dy, other
            )
            for other in subsets(x.ndim)
            if other != (axis,)
        },
        f"has the input in the place of the output p in {jacobian} (A2)": _softmax(x, dy, axis),
        f"has only the diagonal of {jacobian} in it, and dy is not used (L1)": p * (1 - p),
    }


def _slips_of_log_softmax(y, dy, axis) -> dict[str, np.ndarray]:
    p, total = np.exp(y), dy.sum(axis, keepdims=True)
    return {
        "is dy unchanged: the term −p·Σdy of log-softmax's derivative is missing (A1)": dy * 1.0,
        "has −p in the place of −p·Σdy": dy - p,
        "lacks the factor p at Σdy": dy - total,
        "has only the diagonal of the Jacobian in it, dy·(1 − p) (L1)": dy * (1 - p),
        "has the wrong sign of the term p·Σdy": dy + p * total,
        "has log p in the place of p (A2)": dy - y * total,
        "has Σ(dy·p) in the place of Σdy": dy - p * (dy * p).sum(axis, keepdims=True),
        "has the mean of dy in the place of Σdy (C3)": dy - p * dy.mean(axis, keepdims=True),
        "is the derivative of softmax, not of log-softmax (A3)": _softmax(p, dy, axis),
        "has the derivative of softmax in it as well (L2)": _softmax(p, dy - p * total, axis),
        **{
            f"is summed over {on_axes(other)}, but log-softmax runs along axis {axis} (S3)": (
                dy - p * dy.sum(other, keepdims=True)
            )
            for other in subsets(y.ndim)
            if other != (axis,)
        },
    }
