"""The one place where a user's numbers become JAX arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOT_NUMBERS = "OSUTmM"  # NumPy's kinds of objects, strings, durations and dates
NUMBERS = (bool, int, float, complex)  # JAX gives them no dtype of their own

is_array = jax.Array.__instancecheck__  # without a call in Python of this library


def as_array(name: str, value) -> jax.Array:
    """A value as a JAX array, without changing any number.

    Only float64 and complex128 are narrowed silently, as JAX does unless `jax_enable_x64` is set.

    Args:
        name: the name in messages.
        value: a JAX or NumPy array, or anything that NumPy converts to an array of numbers.

    Raises:
        TypeError: it holds something other than numbers, or it is a masked array.
        ValueError: it holds an integer beyond the widest that JAX has.
    """
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__jax_array__"):
        return jnp.asarray(value)
    array = as_numpy(name, value)
    return jnp.asarray(value if type(value) in NUMBERS else array)


def is_array_like(value) -> bool:
    """Whether JAX accepts a value as an array although it is not one, such as a Flax parameter."""
    return hasattr(value, "__jax_array__") and not isinstance(value, jax.Array)


def unwrapped(name: str, tree):
    """A tree with an array in place of each array-like object, such as a Flax parameter.

    Raises:
        TypeError: the keys of a dict are of several types.
    """
    leaves(name, tree)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if is_array_like(leaf) else leaf, tree, is_leaf=is_array_like
    )


def wrapped_like(like, tree):
    """The inverse of `unwrapped`: arrays in the array-like objects of another tree."""
    if not any(map(is_array_like, jax.tree.leaves(like, is_leaf=is_array_like))):
        return tree

    def wrapped(like, array):
        return jax.tree.structure(like).unflatten([array]) if is_array_like(like) else array

    return jax.tree.map(wrapped, like, tree, is_leaf=is_array_like)


def leaves(name: str, tree) -> list:
    """The leaves of a tree.

    Raises:
        TypeError: the keys of a dict are of several types, which JAX cannot sort.
    """
    try:
        return jax.tree.leaves(tree)
    except ValueError:
        raise TypeError(f"{name} has a dict whose keys are of several types") from None


def as_arrays(name: str, tree):
    """A tree of arrays as a tree of JAX arrays; see `as_array`."""
    if all(map(is_array, leaves(name, tree))):
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(name + jax.tree_util.keystr(path), leaf),
        tree,
        is_leaf=lambda leaf: hasattr(leaf, "__jax_array__"),
    )


def as_real_arrays(name: str, tree):
    """A tree of JAX arrays that hold real numbers, such as parameters or weights.

    Raises:
        TypeError: it is `None`, or it holds something other than real numbers.
        ValueError: as for `as_array`.
    """
    if tree is None:
        raise TypeError(f"{name} must be a tree of arrays, got None")
    tree = as_arrays(name, tree)
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        require_real(name + jax.tree_util.keystr(path), array)
    return tree


def require_real(name: str, array) -> None:
    """Raise unless an array holds real numbers, not complex ones or random keys.

    Raises:
        TypeError: it does not.
    """
    if any(jnp.issubdtype(array.dtype, k) for k in (jnp.complexfloating, jax.dtypes.prng_key)):
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}{list(array.shape)}")


def as_scalar(name: str, value) -> jax.Array:
    """A finite real number as a JAX array without axes; a traced one is assumed to be finite.

    Raises:
        TypeError: it is something else.
        ValueError: as for `as_array`.
    """
    array = as_array(name, value)
    is_real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if array.shape or not is_real or (is_readable(array) and not np.isfinite(array)):
        raise TypeError(f"{name} must be a finite number, got {value!r:.80}")
    return array


def as_numpy(name: str, value) -> np.ndarray:
    """A value as a NumPy array that JAX can take without changing an integer."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array of NumPy, whose mask would be lost: fill it with "
            ".filled(number), and pass the mask as weights, lengths or a label to ignore"
        )
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} is not an array of numbers ({error})") from None
    if array.dtype.kind in NOT_NUMBERS or array.dtype.names is not None:
        if _holds_large_integers(array):
            raise ValueError(f"{name} holds an integer of more than 64 bits")
        kind = type(value).__name__
        shown = f"an array of dtype {array.dtype}" if isinstance(value, np.ndarray) else f"a {kind}"
        raise TypeError(f"{name} must be an array of numbers, got {shown}")
    if array.dtype.char in np.typecodes["Float"][-1] + np.typecodes["Complex"][-1]:
        raise TypeError(f"{name} is {array.dtype}, but a number in JAX has at most 64 bits")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    narrow = np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))
    if array.dtype.kind in "iu" and narrow.itemsize < array.dtype.itemsize and array.size:
        bounds = np.iinfo(narrow)
        wide = (array < bounds.min) | (array > bounds.max)
        if wide.any():
            index = np.unravel_index(np.argmax(wide), wide.shape)
            where = f" at index {[int(i) for i in index]}" if index else ""
            raise ValueError(
                f"{name} holds {array[index]}{where}, which {narrow} cannot hold; "
                'jax.config.update("jax_enable_x64", True) allows 64 bits'
            )
    return array


def is_key(value) -> bool:
    """Whether a value is one random key."""
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.shape == ()
    return value.dtype == jnp.uint32 and value.shape in ((2,), (4,))


def require_key(name: str, key) -> None:
    """Raise unless key is one random key, as `jax.random.key` or `jax.random.PRNGKey` makes it.

    Raises:
        TypeError: it is something else.
    """
    if is_key(key):
        return
    is_one = isinstance(key, jax.Array | np.ndarray)
    kind = f"{key.dtype}{list(key.shape)}" if is_one else type(key).__name__
    raise TypeError(f"{name}: key must be a random key, such as jax.random.key(0), got {kind}")


def is_readable(array: Any) -> bool:
    """Whether this process can read the numbers of an array."""
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, jax.Array) or (
        array.is_fully_addressable or array.is_fully_replicated
    )


def _holds_large_integers(array) -> bool:
    """Whether NumPy made objects of integers because one does not fit 64 bits."""
    integers = array.dtype == object and all(type(n) is int for n in array.flat)
    return integers and any(not -(2**63) <= n < 2**64 for n in array.flat)
