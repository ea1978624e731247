"""The closed form of the linear model with the least squared error."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnn.arrays import as_array, is_readable
from jaxnn.layer import Params
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import describe, require_floating


def least_squares(x: ArrayLike, y: ArrayLike) -> Params:
    """The linear layer whose squared error Σₙ ‖xₙ·W + b − yₙ‖² is the least, without iterating.

    Shapes (N examples, I inputs, O outputs):
        x: (N, I)
        y: (N, O)
        returned: {"w": (I, O), "b": (O,)}, the params of `Linear(I, O)`

    One input, one output, J(w₀, w₁) = Σ (y − w₀ − w₁·x)². J is convex, so its least value is
    where both derivatives are zero (a bar is a mean over the examples):
        ∂J/∂w₀ = −2·Σ (y − w₀ − w₁·x) = 0    gives   w₀ = ȳ − w₁·x̄
        ∂J/∂w₁ = −2·Σ x·(y − w₀ − w₁·x) = 0  gives   w₁ = Σ (x − x̄)·(y − ȳ) / Σ (x − x̄)²
    In general, with X and Y minus the means of their columns, the same steps give
        XᵀX·W = XᵀY,   b = ȳ − x̄·W           the normal equations
    XᵀX squares the condition number of X and so loses twice as many digits. With X = Q·R, where
    QᵀQ = I and R is triangular, the same equations read
        R·W = QᵀY
    which loses no more than X does. One input needs no factors: the formula for w₁ is used.

    Columns count as dependent if rounding hides that they are not. Each x − x̄ is scaled to a
    greatest value of 1, so that units do not matter, and the ratio of the least singular value to
    the greatest must exceed ε·I·(1 + max |x| / max |x − x̄|), where ε belongs to the dtype: x is
    rounded relative to its own size, and x − x̄ may be much smaller. Under `jit` the values are not
    known and nothing can be raised; the result is NaN instead.

    Arithmetic on float16 and bfloat16 runs in float32.

    Args:
        x: the inputs.
        y: the targets.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ.
        ValueError: the shapes do not fit, a value is not finite, or the solution is not unique:
            there are fewer examples than inputs + 1, or a column of x is constant, or depends on
            the others.

    Reference: R. B. Aeen's summary, equations 10 to 15.

    Example:
        >>> x = jnp.array([[1.0], [2.0], [3.0], [4.0]])
        >>> params = jaxnn.least_squares(x, jnp.array([[3.0], [5.0], [7.0], [10.0]]))
        >>> print(f"y = {params['b'][0]:.1f} + {params['w'][0, 0]:.1f}·x")
        y = 0.5 + 2.3·x
    """
    x, y = as_array("least_squares: x", x), as_array("least_squares: y", y)
    _check(x, y)
    params, constant, dependent = _solve(x, y)
    if is_readable(dependent):
        _require_unique(np.asarray(constant), dependent)
    return params


@jax.jit
def _solve(x, y):
    """The params, NaN if they are not unique, and why: constant columns, dependent columns."""
    x_mean, x_centred = _centre(at_least_float32(x))
    y_mean, y_centred = _centre(at_least_float32(y))
    spread = jnp.max(jnp.abs(x_centred), axis=0)
    unit = x_centred / spread[None, :]  # of size 1, so that no square overflows
    if x.shape[1] == 1:
        w = jnp.sum(unit * y_centred, axis=0, keepdims=True) / jnp.sum(unit**2)
        dependent = spread[0] == 0
    else:
        q, r = jnp.linalg.qr(unit)
        w = jax.scipy.linalg.solve_triangular(r, jnp.matmul(q.T, y_centred, precision="highest"))
        size = jnp.max(jnp.abs(at_least_float32(x)), axis=0)
        rounding = _epsilon(unit) + _epsilon(x) * jnp.max(size / spread)
        singular = jnp.linalg.svd(r, compute_uv=False)
        dependent = ~(singular[-1] > len(r) * rounding * singular[0])  # also where they are NaN
    w = jnp.where(dependent, jnp.nan, w / spread[:, None])
    b = y_mean - jnp.matmul(x_mean, w, precision="highest")
    return {"w": w.astype(x.dtype), "b": b.astype(x.dtype)}, spread == 0, dependent


def _centre(a):
    """The mean of each column, and the columns minus it: exactly zero if a column is constant."""
    shifted = a - a[:1]  # first, because the mean of equal numbers may be rounded
    mean = jnp.mean(shifted, axis=0)
    return a[0] + mean, shifted - mean[None, :]


def _epsilon(a):
    return float(jnp.finfo(a.dtype).eps)


def _check(x, y):
    try:
        require_floating(x=x, y=y)
        if x.dtype != y.dtype:
            raise TypeError(f"x is {x.dtype}, y is {y.dtype}; convert them to one dtype")
    except TypeError as error:
        raise TypeError(f"least_squares: {error}") from None
    for name, array in (("x", x), ("y", y)):
        if array.ndim != 2:
            hint = f"; {name}[:, None] makes one column of it" if array.ndim == 1 else ""
            raise ValueError(
                f"least_squares: {name} must have one row for each example and one column for "
                f"each component, got shape {array.shape}{hint}"
            )
        if array.size == 0:
            raise ValueError(f"least_squares: {name} is empty, {describe(array)}")
        if is_readable(array) and not np.isfinite(array).all():
            raise ValueError(f"least_squares: {name} holds values that are not finite")
    if len(x) != len(y):
        raise ValueError(f"least_squares: x has {len(x)} examples and y has {len(y)}")
    n_examples, n_inputs = x.shape
    if n_examples < n_inputs + 1:
        raise ValueError(
            f"least_squares: {n_inputs} weights and a bias need at least {n_inputs + 1} examples, "
            f"got {n_examples}"
        )


def _require_unique(constant, dependent):
    if constant.any() and len(constant) == 1:
        raise ValueError("least_squares: all x are equal, so every slope fits equally well")
    if constant.any():
        raise ValueError(
            f"least_squares: column {constant.argmax()} of x is the same in every example; drop "
            "it, because the bias has the same effect"
        )
    if dependent:
        raise ValueError(
            "least_squares: the columns of x are linearly dependent, so many weights fit equally "
            "well; drop a column"
        )
