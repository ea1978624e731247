"""Options: plain Python values, static when a call is traced, of the annotated type."""

import typing
from typing import Any

import jax
import numpy as np

NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "a string"}


def as_option(name: str, value, annotation=Any):
    """An option in its stored form: a NumPy scalar as a Python number, a list as a tuple.

    Args:
        name: the option.
        value: the value that was passed.
        annotation: its type. `bool`, `int`, `float`, `str`, literals and unions of these are
            checked strictly: `True` is not a number, and a number is not a flag. The op itself
            checks all others.

    Raises:
        TypeError: it is an array, it is not hashable, or it is not of the annotated type.
        ValueError: it is a string that is none of the choices, or it holds an integer beyond 32
            bits, or one that no floating-point number holds.
    """
    value = _hashable(name, value)
    if annotation is not float:
        _require_32_bits(name, value)
    kinds = typing.get_args(annotation) or (annotation,)
    literals = typing.get_origin(annotation) is typing.Literal
    for kind in () if literals else kinds:
        if kind not in (*NAMES, type(None)) and typing.get_origin(kind) is not typing.Literal:
            return value
    names = []
    for kind in (annotation,) if literals else kinds:
        if type(value) is kind or (value in typing.get_args(kind) and type(value) is str):
            return value
        if kind is float and type(value) is int and int not in kinds:
            return _as_float(name, value)
        if kind is not type(None):
            names.append(NAMES.get(kind) or " or ".join(map(repr, typing.get_args(kind))))
    literal = any(typing.get_origin(kind) is typing.Literal for kind in (annotation, *kinds))
    error = ValueError if literal and type(value) is str else TypeError
    raise error(f"option {name} must be {' or '.join(names)}, got {value!r:.80}")


def as_option_of(caller: str, name: str, value, annotation=Any):
    """Like `as_option`, for a function that is not an op: its name precedes the message."""
    try:
        return as_option(name, value, annotation)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{caller}: {error}") from None


def _hashable(name, value):
    if isinstance(value, jax.Array | np.ndarray):
        raise TypeError(
            f"option {name!r} must be a plain Python value, known when the op is traced, but is an "
            "array"
        )
    if isinstance(value, list | tuple):
        return tuple(_hashable(name, entry) for entry in value)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"option {name!r} must be hashable, such as a tuple, but is a {type(value).__name__}"
        ) from None
    return value.item() if isinstance(value, np.generic) else value


def _require_32_bits(name, value) -> None:
    for entry in value if isinstance(value, tuple) else (value,):
        if isinstance(entry, tuple):
            _require_32_bits(name, entry)
        elif type(entry) is int and not -(2**31) <= entry < 2**31:
            raise ValueError(f"option {name} must fit 32 bits, got {entry}")


def _as_float(name, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"option {name} is too large for a number") from None
