"""What activations that work element by element share."""

from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.validation import require_floating

P = ParamSpec("P")
T = TypeVar("T")

Elements = Float[Array, "*shape"]


class NoResiduals(NamedTuple):
    """The backward needs neither the input nor the output."""


class OutputResiduals(NamedTuple):
    """The output: the next layer saves the same array as its input, so it costs nothing more."""

    y: Elements


class InputResiduals(NamedTuple):
    """The input, where the derivative is no function of the output."""

    x: Elements


class InputOutputResiduals(NamedTuple):
    """The input and the output, where the output spares the backward an expensive function."""

    x: Elements
    y: Elements


def elementwise(definition: Callable[P, T]) -> Op[P, T]:
    """The op of a function that works element by element on one floating-point array."""
    made = Op(definition)
    made.validate(lambda x, **options: require_floating(x=x))
    return made
