"""The backward passes in a file, and the arguments to check them with."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.gradcheck.laws.check import check
from jaxnn.gradcheck.numpy.check_numpy import check_numpy
from jaxnn.gradcheck.numpy.conventions import takes_residuals_first
from jaxnn.gradcheck.report import Report, in_one_line
from jaxnn.layer import Layer
from jaxnn.op import Op

PAIRS = {"_fwd": "_bwd", "_forward": "_backward"}
SIZES = (7, 5, 6, 3, 4, 8, 9, 10, 11)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "bool")


class Unusable(Exception):
    """A file, or a function in it, that cannot be checked; the message says why."""


class Target(NamedTuple):
    """Something in a file that can be checked.

    Attributes:
        name: its name in the file.
        check: `(*args, seed, **options) -> Report`.
        annotated: the function whose annotations tell its arguments.
    """

    name: str
    check: Callable[..., Report]
    annotated: Callable


def load(path: Path) -> ModuleType:
    """The file as a module, imported as `python file` would.

    Raises:
        Unusable: there is no such file, or it raises.
    """
    if not path.is_file():
        raise Unusable(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise Unusable(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise Unusable(f"{path} raised {in_one_line(error)}") from error
    return module


def examples(module: ModuleType) -> dict[str, Any]:
    """The arguments that the file's own function `examples()` returns by name.

    Raises:
        Unusable: it raises, or returns something else than a dict.
    """
    if not hasattr(module, "examples"):
        return {}
    try:
        given = module.examples()
    except Exception as error:
        raise Unusable(f"examples() raised {in_one_line(error)}") from error
    if not isinstance(given, dict):
        raise Unusable(f"examples() must return a dict by name, not {type(given).__name__}")
    return given


def targets(module: ModuleType) -> list[Target]:
    """The functions, ops, layers and classes of a module that can be checked, in its order."""
    found = (_target(module, name, thing) for name, thing in vars(module).items())
    return [target for target in found if target is not None]


def arguments(target: Target, examples: dict[str, Any], seed: int) -> tuple[tuple, dict[str, Any]]:
    """The arguments and options to check a target with.

    They come from the examples or, failing that, from jaxtyping's annotations, with another
    size for each axis.

    Raises:
        Unusable: there are neither.
    """
    given = examples.get(target.name)
    if given is None:
        given = _from_annotations(target, seed)
    if given is None:
        raise Unusable(
            f"no arguments are known for {target.name}: have examples() return "
            f"{{{target.name!r}: (its arguments, …)}}, or annotate them with jaxtyping"
        )
    if not isinstance(given, tuple):
        return (given,), {}
    if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
        return given
    return given, {}


def _target(module, name, thing) -> Target | None:
    here = getattr(thing, "__module__", None) == module.__name__
    if isinstance(thing, Layer):
        return Target(name, partial(_check_layer, thing), thing.apply)
    if isinstance(thing, Op | jax.custom_vjp) and here:
        function = thing.fun if isinstance(thing, jax.custom_vjp) else thing
        return Target(name, partial(check, thing), function)
    if inspect.isclass(thing) and here and hasattr(thing, "backward"):
        forward = getattr(thing, "forward", thing.__call__)
        return Target(name, partial(_check_class, thing), partial(forward, None))
    if inspect.isfunction(thing) and here:
        return _pair(module, name, thing)
    return None


def _pair(module, name, forward) -> Target | None:
    """The target whose forward has this name, if there is a backward of the same name."""
    ending = next((ending for ending in PAIRS if name.endswith(ending)), "")
    stem = name.removesuffix(ending)
    backward = getattr(module, stem + PAIRS.get(ending, ""), None)
    whole = getattr(module, stem, None)
    if not ending or not inspect.isfunction(backward) or isinstance(whole, Op | jax.custom_vjp):
        return None
    definition = getattr(module, f"{stem}_definition", whole if ending == "_fwd" else None)
    if callable(definition) and takes_residuals_first(backward):
        run = partial(check, (forward, backward), definition=definition)
        return Target(stem, run, definition)
    return Target(stem, partial(_check_functions, forward, backward), forward)


def _check_layer(layer, *args, seed, **options) -> Report:
    """A layer at `params, x`, or at `x` alone with its initial parameters."""
    if len(args) == 1:
        args = (layer.init(jax.random.key(seed)), *args)
    return check(layer, *args, seed=seed, **options)


def _check_class(cls, *args, seed, **options) -> Report:
    """The object of a class given as the first argument, or one made without arguments."""
    if not isinstance(args[0], cls):
        args = (cls(), *args)
    return check_numpy(args[0], None, *args[1:], seed=seed, **options)


def _check_functions(forward, backward, *args, seed, **options) -> Report:
    """Functions, each with those of the options that it takes."""
    if options:
        forward, backward = (
            partial(f, **{k: options[k] for k in inspect.signature(f).parameters if k in options})
            for f in (forward, backward)
        )
    return check_numpy(forward, backward, *args, seed=seed)


def _from_annotations(target, seed) -> tuple | None:
    """Random arrays as the annotations of the arguments say, or `None` if one says nothing."""
    try:
        parameters = inspect.signature(target.annotated, eval_str=True).parameters.values()
    except Exception as error:
        raise Unusable(f"the annotations of {target.name}: {in_one_line(error)}") from error
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
