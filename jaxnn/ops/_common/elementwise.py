"""What activations that work element by element share."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.validation import require_floating

Elements = Float[Array, "*shape"]


class NothingKept(NamedTuple):
    """The backward needs neither the input nor the output."""


class OutputKept(NamedTuple):
    """The output: the next layer keeps the same array as its input, so it costs nothing more."""

    y: Elements


class InputKept(NamedTuple):
    """The input, where the derivative cannot be read off the output."""

    x: Elements


class BothKept(NamedTuple):
    """The input and the output, where the output spares the backward an expensive function."""

    x: Elements
    y: Elements


def elementwise(
    definition: Callable,
    fwd: Callable,
    bwd: Callable,
    check_options: Callable[..., None] = lambda: None,
    *,
    kept: int = 1,
) -> Op:
    """The op of a triple that works element by element and keeps `kept` arrays like x."""
    name = definition.__name__.removesuffix("_definition")

    def check(x, **options):
        require_floating(name, x=x)
        check_options(**options)

    return Op(
        definition,
        fwd,
        bwd,
        residual_bytes=lambda x, **options: kept * math.prod(x.shape) * x.dtype.itemsize,
        check=check,
        output_shape=(lambda residuals: residuals[0].shape) if kept else None,
    )
