"""Arguments given by `examples()` or by annotations."""

import inspect
from typing import Any

import jax
import numpy as np

from jaxnn.gradcheck.files.discovery import Target

SIZES = (7, 5, 6, 3, 4, 8, 9, 10, 11)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "bool")


def arguments(
    target: Target, examples: dict[str, Any], seed: int
) -> tuple[tuple, dict[str, Any]] | None:
    """The arguments and options for a target, or `None` if none are known.

    They come from the examples or, failing that, from jaxtyping's annotations, with a different
    size for each axis name.
    """
    given = next((examples[key] for key in target.keys if key in examples), None)
    if given is None:
        given = _from_annotations(target, seed)
    if given is None:
        return None
    if not isinstance(given, tuple):
        return (given,), {}
    if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
        return given
    return given, {}


def _from_annotations(target, seed) -> tuple | None:
    """Random arrays that match the annotations, or `None` if an argument has no usable one."""
    if target.made is not None and any(
        parameter.default is parameter.empty
        for parameter in inspect.signature(target.made).parameters.values()
    ):
        return None
    try:
        parameters = inspect.signature(target.called, eval_str=True).parameters.values()
    except Exception:  # an annotation may be anything
        return None
    random, made = np.random.default_rng(seed), []
    sizes: dict[str | int, int] = {}
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            break
        array = _like(parameter.annotation, sizes, random)
        if array is None:
            return None
        made.append(array)
    return tuple(made) or None


def _like(annotation, sizes, random) -> np.ndarray | None:
    dtypes = getattr(annotation, "dtypes", ())
    dtype = next((name for name in DTYPES if name in dtypes), None)
    if dtype is None:
        return None
    shape = []
    for dim in annotation.dims:
        if hasattr(dim, "elem"):
            return None
        name = getattr(dim, "name", len(sizes))
        new = SIZES[len(sizes) % len(SIZES)]
        shape.append(dim.size if hasattr(dim, "size") else sizes.setdefault(name, new))
    if dtype.startswith(("float", "bfloat")):
        return random.normal(size=shape).astype(jax.numpy.dtype(dtype))
    return random.integers(0, 2 if dtype == "bool" else 3, shape).astype(dtype)
