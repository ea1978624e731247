"""The arguments of a call: arrays where arrays belong, and options that are known when tracing."""

import inspect
import types
import typing
from functools import cache

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from jaxnn.arrays import as_array, is_array_like
from jaxnn.options import as_option

NUMBERS = (np.ndarray, np.generic, float, int)
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


def bind(op, args: tuple, options: dict) -> tuple[tuple, dict]:
    """The positional arguments as arrays or trees of arrays, and all the options, valid.

    Optional arguments after the last one that is given, in the call or by `bind`, are omitted.

    Args:
        op: the op.
        args: as they were given.
        options: likewise, and positional arguments that were given by name.

    Raises:
        TypeError: an argument is missing or unknown, holds something other than arrays, or does
            not fit; an option is an array, or not of its annotated type.
        ValueError: an argument or an option does not fit.
    """
    name, signature = op.__name__, op.__signature__
    try:
        bound = signature.bind(*args, **options)
        given = set(bound.arguments)
        bound.apply_defaults()
    except TypeError as error:
        raise TypeError(f"{name}: {error}; it is {name}{without_annotations(signature)}") from None
    arrays, static, n_given = [], {}, 0
    try:
        for argument, value in bound.arguments.items():
            parameter = signature.parameters[argument]
            if parameter.kind is KEYWORD_ONLY:
                if value is not parameter.default:
                    value = as_option(argument, value, parameter.annotation)
                static[argument] = value
            elif (
                isinstance(value, jax.Array)
                or (value is None and parameter.default is None)
                or (
                    type(value) is dict
                    and not _takes_one_array(parameter.annotation)
                    and all(map(jax.Array.__instancecheck__, value.values()))
                )
            ):
                arrays.append(value)
            elif isinstance(value, Constant):
                arrays.append(jnp.asarray(value.array))
                given.add(argument)
            else:
                arrays.append(_converted(argument, value, parameter.annotation))
            if argument in given and parameter.kind is not KEYWORD_ONLY:
                n_given = len(arrays)
        op.rules.validate(*arrays, **static)
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"{name}: {error}") from None
    return tuple(arrays[:n_given]), static


def without_annotations(signature: inspect.Signature) -> inspect.Signature:
    """A signature as one reads it."""
    return inspect.Signature([p.replace(annotation=p.empty) for p in signature.parameters.values()])


class Constant:
    """An array that `bind` has fixed, comparable and hashable."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __eq__(self, other) -> bool:
        return isinstance(other, Constant) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{self.array.dtype}[{','.join(map(str, self.array.shape))}]"

    def _key(self):
        return self.array.dtype, self.array.shape, self.array.tobytes()


def with_defaults(name: str, signature: inspect.Signature, fixed: dict) -> inspect.Signature:
    """A signature with other defaults for some options and optional arrays of an op."""
    parameters = dict(signature.parameters)
    for given, value in fixed.items():
        parameter = parameters.get(given)
        if parameter is not None and parameter.kind is KEYWORD_ONLY:
            value = as_option(given, value, parameter.annotation)
        elif parameter is not None and parameter.default is not parameter.empty:
            value = _constant(name, given, value)
        else:
            shown = f"{name}{without_annotations(signature)}"
            raise TypeError(f"{name}: there is no option {given!r} in {shown}")
        parameters[given] = parameters[given].replace(default=value)
    return signature.replace(parameters=list(parameters.values()))


def _constant(op, name, value):
    """An array to fix; `None` and what is fixed already as they are."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{op}: bind fixes an array whose numbers are known, and {name} is traced; pass it in "
            "the call"
        )
    return value if value is None or isinstance(value, Constant) else Constant(value)


def _converted(name, value, annotation):
    """A value that is not an array yet, or a tree with such values."""
    if _takes_one_array(annotation) and not (isinstance(value, NUMBERS) or is_array_like(value)):
        kind = "None" if value is None else f"a {type(value).__name__}"
        cure = "; wrap it in jnp.asarray" if isinstance(value, list | tuple) else ""
        raise TypeError(f"{name} must be an array, got {kind}{cure}")

    def convert(leaf):
        if isinstance(leaf, jax.Array):
            return leaf
        if isinstance(leaf, NUMBERS) or is_array_like(leaf):
            return as_array(name, leaf)
        raise TypeError(f"{name} must hold arrays, got {type(leaf).__name__}")

    return jax.tree.map(convert, value, is_leaf=is_array_like)


def _is_choice(annotation) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


@cache
def _takes_one_array(annotation) -> bool:
    """Whether an annotation is a jaxtyping array, or a choice of such arrays."""
    choices = typing.get_args(annotation) if _is_choice(annotation) else ()
    kinds = [kind for kind in choices if kind is not type(None)]
    return all(
        isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray)
        for kind in kinds or [annotation]
    )
