"""Checks of arguments, worded for the person who passed them."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key, is_readable


def describe(x: jax.Array) -> str:
    """The dtype and shape of an array, such as `float32[7,5]`."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def require_floating(**arrays) -> None:
    """Raise unless every array is real floating point."""
    for name, x in arrays.items():
        if not isinstance(x, jax.Array):
            raise TypeError(f"{name} must be an array, got {type(x).__name__}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {describe(x)}")


def require_params(params, required: Iterable[str], optional: Iterable[str] = (), **arrays):
    """Raise unless `params` has these keys, and all arrays are floating point."""
    if not isinstance(params, dict) or not {*required} <= params.keys() <= {*required, *optional}:
        require_keys(params, required, optional)
    for array in (*params.values(), *arrays.values()):
        if not isinstance(array, jax.Array) or not jnp.issubdtype(array.dtype, jnp.floating):
            require_floating(**{f"params[{name!r}]": params[name] for name in params}, **arrays)


def require_equal_shapes(**arrays) -> None:
    """Raise unless all shapes are the same: nothing is broadcast."""
    if len({x.shape for x in arrays.values()}) > 1:
        listed = ", ".join(f"{name} has shape {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{listed}; they must be equal, nothing is broadcast")


def require_last_axis(**arrays) -> None:
    """Raise unless each array has at least one axis; the last holds one example's components."""
    for name, x in arrays.items():
        if x.ndim == 0:
            raise ValueError(
                f"{name} is a single number; its last axis must hold the components of one example"
            )


def require_alike(**arrays) -> None:
    """Raise unless all are floating-point arrays of one shape with components in the last axis."""
    require_floating(**arrays)
    require_equal_shapes(**arrays)
    require_last_axis(**arrays)


def require_axis(x, axis) -> None:
    """Raise unless `axis` is one axis of `x` and not empty."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"option axis must be an integer, got {axis!r}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"option axis is {axis} but x has shape {x.shape}")
    if x.shape[axis] == 0:
        raise ValueError(f"axis {axis} of x is empty, shape {x.shape}")


def require_axes(x, axis, option: str = "axis") -> None:
    """Raise unless an option is one axis of `x`, or a tuple of different ones."""
    if type(axis) is int and -x.ndim <= axis < x.ndim:
        return
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not axes or not all(type(a) is int for a in axes):
        raise TypeError(f"option {option} must be an integer or a tuple of integers, got {axis!r}")
    if not all(-x.ndim <= a < x.ndim for a in axes):
        raise ValueError(f"option {option} is {axis} but x has shape {x.shape}")
    if len({a % x.ndim for a in axes}) < len(axes):
        raise ValueError(f"option {option} is {axis}, which names an axis of x twice")


def require_where(where, shape: tuple) -> None:
    """Raise unless a mask, if one is given, holds booleans and broadcasts to this shape."""
    if where is None:
        return
    if where.dtype != bool:
        raise TypeError(f"where must hold booleans, got {describe(where)}")
    missing = len(shape) - where.ndim
    pairs = zip(where.shape, shape[max(missing, 0) :], strict=False)
    if missing < 0 or any(a not in (1, b) for a, b in pairs):
        raise ValueError(f"where has shape {where.shape}, which does not broadcast to {shape}")


def require_number(
    name: str, value, *, above=None, at_least=None, at_most=None, finite: bool = True
) -> None:
    """Raise unless an option is a Python number within its bounds, and finite if `finite`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"option {name} must be a number, got {value!r}")
    if math.isnan(value) or (finite and math.isinf(value)):
        kind = "finite number" if finite else "number"
        raise ValueError(f"option {name} must be a {kind}, got {value}")
    bounds = []
    if above is not None:
        bounds.append((value > above, f"above {above}"))
    if at_least is not None:
        bounds.append((value >= at_least, f"at least {at_least}"))
    if at_most is not None:
        bounds.append((value <= at_most, f"at most {at_most}"))
    if not all(fits for fits, _ in bounds):
        wanted = " and ".join(words for _, words in bounds)
        raise ValueError(f"option {name} must be {wanted}, got {value!r}")


def require_for_each_axis(name: str, value, n_axes: int, at_least: int = 1) -> None:
    """Raise unless an option is an integer, or one for each axis, of `at_least` this size."""
    each = value if isinstance(value, tuple) else (value,) * n_axes
    if not all(type(size) is int for size in each):
        raise TypeError(f"option {name} must be an integer or a tuple of integers, got {value!r}")
    if len(each) != n_axes or min(each) < at_least:
        bound = "positive" if at_least == 1 else f"at least {at_least}"
        raise ValueError(
            f"option {name} must be {bound}, one number or one for each of the {n_axes} "
            f"axes between the first and the last, got {value!r}"
        )


def require_padding(padding, n_axes: int) -> None:
    """Raise unless padding is a name or an integer, or a name, integer or pair for each axis."""
    each = padding if isinstance(padding, tuple) else (padding,) * n_axes
    if len(each) != n_axes or not all(map(_is_padding_of_an_axis, each)):
        raise ValueError(
            "option padding must be 'SAME', 'SAME_LOWER', 'VALID', 'CAUSAL', an integer, or a "
            f"tuple of {n_axes} that holds one of these or a pair (before, after) for each axis "
            f"between the first and the last, with no negative number, got {padding!r}"
        )


def require_one_key(key) -> None:
    """Raise unless an argument is one random key."""
    if not is_key(key):
        kind = ValueError if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else TypeError
        raise kind(f"key must be one PRNG key, as jax.random.key makes it, got {describe(key)}")


def require_keys(params, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raise unless `params` is a dict with exactly these keys."""
    required, optional = set(required), set(optional)
    if not isinstance(params, dict):
        raise TypeError(f"params must be a dict of arrays, got {type(params).__name__}")
    if missing := sorted(required - set(params)):
        raise ValueError(f"params has no {missing[0]!r}; its keys are {sorted(params)}")
    if unknown := sorted(set(params) - required - optional):
        raise ValueError(f"params has a key {unknown[0]!r} that is not used")


def require_integers(name: str, array) -> None:
    """Raise unless an array has an integer dtype."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {describe(array)}")


def require_lengths(name: str, lengths, shape: tuple, longest) -> None:
    """Raise unless lengths, if given, have this shape and, if known, are in 0 … longest."""
    if lengths is None:
        return
    require_integers(name, lengths)
    if lengths.shape != shape:
        raise ValueError(
            f"{name} has shape {lengths.shape}; there must be one for each example, shape {shape}"
        )
    if not is_readable(lengths):
        return  # not known yet
    lengths = np.asarray(lengths)
    wrong = (lengths < 0) | (lengths > longest)
    if wrong.any():
        raise ValueError(
            f"{name} holds {lengths[wrong][0]}, which is out of range: a length is 0 … {longest}"
        )


def require_labels(labels, shape: tuple[int, ...], n_classes: int, ignore=None) -> None:
    """Raise unless labels have this shape and, where they are known, lie in 0 … n_classes − 1."""
    if labels.shape != shape:
        raise ValueError(
            f"integer labels have shape {labels.shape}; there must be one for each row of "
            f"the prediction, shape {shape}"
        )
    if not is_readable(labels):
        return  # not known yet: at run time a label out of range gives NaN
    labels = np.asarray(labels)
    wrong = (labels < 0) | (labels >= n_classes)
    if ignore is not None:
        wrong &= labels != ignore
    if wrong.any():
        raise ValueError(
            f"label {labels[wrong][0]} is out of range; with {n_classes} classes the labels "
            f"are 0 … {n_classes - 1}"
        )


def _is_padding_of_an_axis(value) -> bool:
    if isinstance(value, str):
        return value in ("SAME", "SAME_LOWER", "VALID", "CAUSAL")
    sizes = value if isinstance(value, tuple) else (value, value)
    return len(sizes) == 2 and all(type(size) is int and size >= 0 for size in sizes)
