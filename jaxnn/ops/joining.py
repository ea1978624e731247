"""Ops that join the arrays of a tuple into one, where the paths of a graph meet."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe
from jaxnn.ops.shape import Shape

Arrays = tuple[Float[Array, "..."], ...]


class SizesResiduals(NamedTuple):
    """The sizes of the arrays along the axis."""

    sizes: Shape


class FactorResiduals(NamedTuple):
    """The input."""

    x: Arrays


@op
def add(x: Arrays) -> Float[Array, "..."]:
    """Sum of the arrays of a tuple, y = x₀ + x₁ + ….

    Shapes:
        x, dx: a tuple of arrays of one shape
        y, dy: that shape

    Backward, from ⟨dy, Σᵢ ẋᵢ⟩ = Σᵢ ⟨dy, ẋᵢ⟩:
        dxᵢ = dy

    Saves nothing of the input: every gradient is dy.

    Raises:
        TypeError: x is not a tuple of floating-point arrays.
        ValueError: the tuple is empty, or the shapes differ (nothing is broadcast).

    Reference: D. Duvenaud and M. Johnson, stax, `FanInSum`.

    Example:
        >>> print(jaxnn.add((jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]))))
        [4. 7.]
    """
    return sum(x[1:], x[0])


@add.validate
def _(x):
    _require_tuple(x)
    _require_one_shape(x)


@add.forward
@wide
def add_fwd(x):
    """y = Σᵢ xᵢ."""
    return sum(x[1:], x[0]), SizesResiduals(Shape((1,) * len(x)))


@add.backward
def add_bwd(residuals, dy):
    """dxᵢ = dy."""
    return ((dy,) * len(residuals.sizes.sizes),)


@op
def multiply(x: Arrays) -> Float[Array, "..."]:
    """Product of the arrays of a tuple, y = x₀ ⊙ x₁ ⊙ ….

    Shapes:
        x, dx: a tuple of arrays of one shape
        y, dy: that shape

    Backward, from ⟨dy, ẏ⟩ with ẏ = Σᵢ ẋᵢ ⊙ Πⱼ≠ᵢ xⱼ:
        dxᵢ = dy ⊙ Πⱼ≠ᵢ xⱼ
    The product over the others is not y/xᵢ, which is undefined where xᵢ = 0.

    Saves its input: each gradient is a function of the other arrays.

    Raises:
        TypeError: x is not a tuple of floating-point arrays.
        ValueError: the tuple is empty, or the shapes differ (nothing is broadcast).

    Reference: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, for products as
    gates.

    Example:
        >>> print(jaxnn.multiply((jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]))))
        [ 3. 10.]
    """
    return math.prod(x[1:], start=x[0])


@multiply.validate
def _(x):
    _require_tuple(x)
    _require_one_shape(x)


@multiply.forward
@wide
def multiply_fwd(x):
    """y = Πᵢ xᵢ."""
    y = x[0]
    for factor in x[1:]:
        y = y * factor
    return y, FactorResiduals(x)


@multiply.backward
@wide
def multiply_bwd(residuals, dy):
    """dxᵢ = dy ⊙ Πⱼ≠ᵢ xⱼ, from the products of all factors before and of all after."""
    x = residuals.x
    before = [dy]
    for factor in x[:-1]:
        before.append(before[-1] * factor)
    gradients, after = [before[-1]], None
    for i in range(len(x) - 1, 0, -1):
        after = x[i] if after is None else after * x[i]
        gradients.append(before[i - 1] * after)
    return (tuple(reversed(gradients)),)


@op
def concatenate(x: Arrays, *, axis: int = -1) -> Float[Array, "..."]:
    """Concatenation of the arrays of a tuple along an axis, y = [x₀, x₁, …].

    Shapes:
        x, dx: a tuple of arrays whose shapes differ at most along the axis
        y, dy: the sum of their sizes along the axis

    Backward: each number of y is one number of one array, so
        dxᵢ = the part of dy where xᵢ went

    Saves only the shapes of the input.

    Args:
        x: the arrays.
        axis: the axis along which to join them.

    Raises:
        TypeError: x is not a tuple of floating-point arrays, or axis is not an integer.
        ValueError: the tuple is empty, there is no such axis, or the shapes differ elsewhere.

    Reference: D. Duvenaud and M. Johnson, stax, `FanInConcat`.

    Example:
        >>> print(jaxnn.concatenate((jnp.array([1.0, 2.0]), jnp.array([3.0]))))
        [1. 2. 3.]
    """
    return jnp.concatenate(x, axis)


@concatenate.validate
def _(x, *, axis):
    _require_tuple(x)
    if type(axis) is not int:
        raise TypeError(f"option axis must be an integer, got {axis!r}")
    n_axes = x[0].ndim
    if not -n_axes <= axis < n_axes:
        raise ValueError(f"option axis is {axis} but the first array is {describe(x[0])}")
    others = [a.shape[: axis % n_axes] + a.shape[axis % n_axes + 1 :] for a in x]
    if any(a.ndim != n_axes for a in x) or len(set(others)) > 1:
        raise ValueError(f"the shapes {_listed(x)} may differ only along axis {axis}")


@concatenate.forward
def concatenate_fwd(x, *, axis=-1):
    """y = [x₀, x₁, …]."""
    return jnp.concatenate(x, axis), SizesResiduals(Shape(tuple(a.shape[axis] for a in x)))


@concatenate.backward
def concatenate_bwd(residuals, dy, *, axis=-1):
    """dxᵢ = the part of dy where xᵢ went."""
    parts, start = [], 0
    for size in residuals.sizes.sizes:
        parts.append(jax.lax.slice_in_dim(dy, start, start + size, axis=axis % dy.ndim))
        start += size
    return (tuple(parts),)


def _require_tuple(x) -> None:
    if not isinstance(x, tuple | list):
        raise TypeError(f"x must be a tuple of arrays, got {type(x).__name__}")
    if not x:
        raise ValueError("x is an empty tuple")
    for a in x:
        if not isinstance(a, jax.Array) or not jnp.issubdtype(a.dtype, jnp.floating):
            raise TypeError(f"x must hold floating-point arrays, got {_listed(x)}")


def _require_one_shape(x) -> None:
    if len({a.shape for a in x}) > 1:
        raise ValueError(f"the shapes {_listed(x)} differ; nothing is broadcast")


def _listed(x) -> str:
    return ", ".join(describe(a) if isinstance(a, jax.Array) else type(a).__name__ for a in x)
