"""`assert_gradient`: a gradient check in one line of a test."""

import inspect
from typing import Any

import jax

from jaxnn.gradcheck.laws.check import check
from jaxnn.gradcheck.numpy.check_numpy import check_numpy
from jaxnn.gradcheck.report import Report
from jaxnn.layer import Layer
from jaxnn.op import Op


def assert_gradient(target: Any, *args: Any, **options: Any) -> Report:
    """Check a hand-written backward, and raise an error unless it is right.

    JAX code goes to `check`: an op, a layer, a `jax.custom_vjp` function, a pair `(fwd, bwd)` with
    `definition=`, or any function of JAX arrays. NumPy code goes to `check_numpy`: an object with a
    forward and a backward, two functions, or a function that returns a loss and its gradients.

    Args:
        target: an op, a layer, an object, a function, or a pair of functions.
        *args: the arguments of the forward. The backward may precede them, as in `check_numpy`.
        **options: options of `check` or `check_numpy`, such as `seed` and `definition`.

    Returns:
        The report.

    Raises:
        GradientMismatch: the backward is wrong, could not be run, or was not tested because every
            gradient is zero. The message is the report.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck import assert_gradient
        >>> def square(x):
        ...     return x**2
        >>> def square_backward(dy, x):
        ...     return 2 * x * dy
        >>> def test_square():
        ...     assert_gradient(square, square_backward, np.array([0.5, -2.0, 3.0]))
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    if isinstance(target, tuple | list):
        target, args = target[0], (*target[1:], *args)
    paired = bool(args) and inspect.isroutine(inspect.unwrap(args[0]))
    if paired and "definition" in options:
        report = check((target, args[0]), *args[1:], **options)
    elif paired:
        report = check_numpy(target, *args, **options)
    elif _is_jax(target, args) or "definition" in options:
        report = check(target, *args, **options)
    else:
        report = check_numpy(target, None, *args, **options)
    report.raise_if_failed()
    return report


def _is_jax(target, args) -> bool:
    """Whether a target given alone goes to `check`, not to `check_numpy`."""
    kinds = Op | Layer | jax.custom_vjp
    if isinstance(inspect.unwrap(target, stop=lambda inner: isinstance(inner, kinds)), kinds):
        return True
    if hasattr(target, "backward"):
        return False
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(args))
