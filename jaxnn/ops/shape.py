"""Ops that change only the shape."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.validation import describe, require_floating


@jax.tree_util.register_static
@dataclass(frozen=True)
class Shape:
    """A shape as a residual: static when the backward is traced, and without any array."""

    sizes: tuple[Any, ...]


class ShapeResiduals(NamedTuple):
    """The shape of the input."""

    x: Shape


@op
def flatten(x: Float[Array, "N ..."]) -> Float[Array, "N I"]:
    """Each example's numbers in one row: all axes but the first become one.

    Shapes:
        N batch; I the product of the other sizes
        x, dx: (N, …)
        y, dy: (N, I)

    Backward: y holds the numbers of x in the same order, so
        dx = dy in the shape of x

    Saves no array.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no axis.

    Reference: M. Abadi et al., "TensorFlow", 2016; Keras `Flatten`.

    Example:
        >>> jaxnn.flatten(jnp.ones((7, 5, 3))).shape
        (7, 15)
    """
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


@flatten.validate
def _(x):
    require_floating(x=x)
    if x.ndim == 0:
        raise ValueError("x is a single number; its first axis must be the batch")


@flatten.forward
def flatten_fwd(x):
    """y = x in the shape (N, I)."""
    n, *others = x.shape
    return x.reshape(n, math.prod(others)), ShapeResiduals(Shape(x.shape))


@flatten.backward
def flatten_bwd(residuals, dy):
    """dx = dy in the shape of x."""
    return (dy.reshape(residuals.x.sizes),)


@op
def reshape(x: Float[Array, "*shape"], *, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """The same numbers in another shape.

    Shapes:
        x, dx: any
        y, dy: `shape`

    Backward: y holds the numbers of x in the same order (the last axis varies fastest), so
        dx = dy in the shape of x

    Saves no array.

    Args:
        x: the numbers.
        shape: the shape of y, including the batch axis. One size may be −1 and is then computed
            from the others, so that the op works for batches of any size.

    Raises:
        TypeError: x is not floating point, or shape is not a tuple of integers.
        ValueError: the shape does not hold as many numbers as x.

    Reference: C. R. Harris et al., "Array programming with NumPy", 2020; `numpy.reshape`.

    Example:
        >>> to_images = jaxnn.reshape.bind(shape=(-1, 8, 8, 1))
        >>> to_images(jnp.ones((7, 64))).shape
        (7, 8, 8, 1)
    """
    return x.reshape(shape)


@reshape.validate
def _(x, *, shape):
    require_floating(x=x)
    if not isinstance(shape, tuple) or not all(type(size) is int for size in shape):
        raise TypeError(f"option shape must be a tuple of integers, got {shape!r}")
    known = math.prod(size for size in shape if size != -1)
    free = shape.count(-1)
    fits = x.size == known if free == 0 else known > 0 and x.size % known == 0
    if min(shape, default=0) < -1 or free > 1 or not fits:
        raise ValueError(
            f"x is {describe(x)}, {x.size} numbers, which do not fit the shape {shape}"
        )


@reshape.forward
def reshape_fwd(x, *, shape):
    """y = x in the new shape."""
    return x.reshape(shape), ShapeResiduals(Shape(x.shape))


@reshape.backward
def reshape_bwd(residuals, dy, *, shape):
    """dx = dy in the shape of x."""
    return (dy.reshape(residuals.x.sizes),)
