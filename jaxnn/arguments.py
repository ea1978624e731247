"""The arguments of a call: arrays where arrays belong, and options that are known when tracing."""

import inspect
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

NUMBERS = (np.ndarray, np.generic, float, int)


def as_arrays(parameters: Mapping[str, inspect.Parameter], arguments: dict) -> tuple[tuple, dict]:
    """The positional arguments as arrays or trees of arrays, and the options.

    Args:
        parameters: those of the op.
        arguments: a value for each of them.

    Raises:
        TypeError: an argument holds something other than arrays, or an option is an array.
    """
    args, options = [], {}
    for name, value in arguments.items():
        if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            if isinstance(value, jax.Array | np.ndarray):
                raise TypeError(
                    f"option {name!r} must be a plain Python value, known when the op is traced, "
                    "and is an array"
                )
            options[name] = value.item() if isinstance(value, np.generic) else value
        elif (
            isinstance(value, jax.Array)
            or (value is None and parameters[name].default is None)
            or (type(value) is dict and all(map(jax.Array.__instancecheck__, value.values())))
        ):
            args.append(value)
        else:
            args.append(_converted(name, value, parameters[name].annotation))
    return tuple(args), options


def signature_in_short(function) -> str:
    """The name of a function and its parameters, without their annotations."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"{function.__name__}{inspect.Signature(plain)}"


def _converted(name, value, annotation):
    """A value that is not an array yet, or a tree with such values."""
    if _takes_one_array(annotation) and not (isinstance(value, NUMBERS) or _is_array_like(value)):
        kind = "None" if value is None else f"a {type(value).__name__}"
        cure = "; wrap it in jnp.asarray" if isinstance(value, list | tuple) else ""
        raise TypeError(f"{name} must be an array, got {kind}{cure}")

    def convert(leaf):
        if isinstance(leaf, jax.Array):
            return leaf
        if isinstance(leaf, NUMBERS) or _is_array_like(leaf):
            return jnp.asarray(leaf)
        raise TypeError(f"{name} must hold arrays, got {type(leaf).__name__}")

    return jax.tree.map(convert, value, is_leaf=_is_array_like)


def _is_array_like(value) -> bool:
    """Whether JAX takes it as an array although it is none, such as a parameter of Flax."""
    return hasattr(value, "__jax_array__") and not isinstance(value, jax.Array)


def _takes_one_array(annotation) -> bool:
    """Whether an annotation is a jaxtyping array, or a choice of such arrays."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return all(
        isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray)
        for kind in kinds or [annotation]
    )
