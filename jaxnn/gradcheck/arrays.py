"""Operations on arrays shared by the checkers: precision, distance, and random cotangents."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_differentiable(leaf) -> bool:
    """Whether an array can have a gradient: real or complex numbers, not labels, ids or keys."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def same_tree(a, b) -> bool:
    """Whether two trees have the same structure."""
    structure: Any = jax.tree.structure(a)
    return structure == jax.tree.structure(b)


def wide(array) -> np.ndarray:
    """An array as a NumPy array in float64, or in complex128 if it is complex."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64, copy=False)


def cast(tree, dtype):
    """Cast the floating-point leaves of a tree to a dtype.

    Complex leaves stay complex. NumPy does the conversion, so nothing is compiled.
    """

    def converted(leaf):
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return np.asarray(leaf).astype(np.result_type(dtype, np.complex64))
        return np.asarray(leaf).astype(dtype) if is_differentiable(leaf) else leaf

    return jax.tree.map(converted, tree)


def eps(dtype) -> float:
    """The distance from 1 to the next number of a dtype."""
    return float(jnp.finfo(dtype).eps)


def representable(truth, dtype) -> np.ndarray:
    """A mask of the entries where the truth is finite and does not overflow in a dtype."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(wide(truth).astype(dtype)))


def relative_error(mine, truth, whole=None) -> float:
    """‖mine − truth‖/‖truth‖: 0 if both are zero, ∞ if only the truth is.

    It is also ∞ if the shapes differ or a number is not finite.

    Args:
        mine: an array.
        truth: the array that it should be.
        whole: an array of which the truth is one part. The error is then relative to the larger of
            the two norms.
    """
    mine, truth = wide(mine), wide(truth)
    if mine.shape != truth.shape:
        return np.inf
    wholes = [truth] if whole is None else [truth, wide(whole)]
    with np.errstate(all="ignore"):
        off, square = _square(mine - truth), max(map(_square, wholes))
        if not (off < 1e250 and 1e-250 < square < 1e250):
            scale = max(np.abs(array).max(initial=0) for array in (mine, *wholes))
            if not 0 < scale < np.inf:
                return 0.0 if scale == 0 else np.inf
            off = _square(mine / scale - truth / scale)
            square = max(_square(array / scale) for array in wholes)
    return float(np.sqrt(off / square)) if square else np.inf


def relative_or_absolute_error(mine, truth, whole=None) -> float:
    """`relative_error`, or ‖mine − truth‖ where the truth (and the whole) is zero.

    `check` and `check_numpy` use cotangents of size 1. If terms of that size cancel in the true
    gradient, rounding leaves about 1e-16 in a correct one, which is not an error although its
    ratio to zero is infinite.
    """
    if np.any(wide(truth)) or (whole is not None and np.any(wide(whole))):
        return relative_error(mine, truth, whole)
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(wide(mine)))
    return norm if np.isfinite(norm) else np.inf


def masked(array, compared) -> np.ndarray:
    """An array in float64, with zeros for the entries that are not compared."""
    return wide(array) if np.all(compared) else np.where(compared, wide(array), 0)


def error_where_representable(mine, truth, dtype, whole=None) -> float:
    """`relative_or_absolute_error` over the entries whose true value a dtype can represent."""
    compared = representable(truth, dtype)
    whole = None if whole is None or whole is truth else masked(whole, compared)
    return relative_or_absolute_error(masked(mine, compared), masked(truth, compared), whole)


def identical(a, b) -> bool:
    """Whether two arrays hold the same numbers; NaN equals NaN."""
    if a is None or b is None:
        return a is b
    return np.array_equal(wide(a), wide(b), equal_nan=True)


def first_index(mask) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def short_decimals(like, seed):
    """Random arrays shaped like an array or a tree of arrays: nonzero multiples of 1/8.

    They are exact in every floating-point dtype, and print in a few digits.
    """
    leaves, tree = jax.tree.flatten(like)
    random = np.random.default_rng(seed)

    def drawn(shape):
        sizes = random.integers(1, 17, shape) / 8
        return sizes * np.where(random.random(shape) < 0.5, 1, -1)

    numbers = []
    for leaf in leaves:
        number = drawn(np.shape(leaf))
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            number = number + 1j * drawn(np.shape(leaf))
        numbers.append(np.asarray(number).astype(leaf.dtype))
    return jax.tree.unflatten(tree, numbers)


def _square(array) -> float:
    """‖array‖², which may overflow to infinity."""
    flat = array.ravel()
    return np.vdot(flat, flat).real


def require_seed(caller: str, seed) -> None:
    """Require an integer that NumPy accepts as a seed.

    Raises:
        TypeError: it is anything else.
    """
    if type(seed) is not int or seed < 0:
        raise TypeError(f"{caller}: seed must be an integer of at least 0, got {seed!r:.80}")
