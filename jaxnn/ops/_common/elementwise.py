"""Ops that work element by element, y = f(x): their declaration, and their residuals."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

from jaxtyping import Array, Float

from jaxnn.op import Op
from jaxnn.ops._common.validation import require_floating

P = ParamSpec("P")
T = TypeVar("T")

Elements = Float[Array, "*shape"]
Kinks = tuple[float, ...] | Callable[..., tuple[float, ...]]


class NoResiduals(NamedTuple):
    """Nothing: f' is a constant."""


class OutputResiduals(NamedTuple):
    """The output: the next layer saves the same array as its input, so it takes no more memory."""

    y: Elements


class InputResiduals(NamedTuple):
    """The input, where f' is not a function of the output."""

    x: Elements


class InputOutputResiduals(NamedTuple):
    """The input and the output, where the output spares the backward an expensive function."""

    x: Elements
    y: Elements


class ElementwiseOp(Op[P, T]):
    """An op y = f(x) of every element, with properties of f'; see `elementwise`."""

    def __init__(self, definition: Callable[P, T], kinks: Kinks, slope_of_output: Callable | None):
        super().__init__(definition)
        self._kinks = kinks
        self._slope_of_output = slope_of_output

    @property
    def kinks(self) -> tuple[float, ...]:
        """The points at which f' jumps, for the bound options.

        Example:
            >>> jaxnn.relu6.kinks
            (0.0, 6.0)
            >>> jaxnn.elu.kinks, jaxnn.elu.bind(alpha=0.5).kinks
            ((), (0.0,))
        """
        return self._kinks(**self.options) if callable(self._kinks) else self._kinks

    @property
    def slope_of_output(self) -> Callable[[Any], Any] | None:
        """f' as a formula in y = f(x), for the bound options.

        `None` if f' is not a function of y, or has the same formula in y as in x, like relu's.

        Example:
            >>> slope = jaxnn.elu.bind(alpha=0.5).slope_of_output
            >>> print(slope(jnp.array([-0.25, 2.0])))
            [0.25 1.  ]
        """
        if self._slope_of_output is None:
            return None
        return partial(self._slope_of_output, **self.options)


@overload
def elementwise(definition: Callable[P, T]) -> ElementwiseOp[P, T]: ...


@overload
def elementwise(
    *, kinks: Kinks = (), slope_of_output: Callable | None = None
) -> Callable[[Callable[P, T]], ElementwiseOp[P, T]]: ...


def elementwise(definition=None, *, kinks=(), slope_of_output=None):
    """Declare an op that works element by element on one floating-point array, like `jaxnn.op`.

    Args:
        definition: `(x, **options) -> y`.
        kinks: the points at which f' jumps, or a function of the options that returns them. The
            value of f' at a kink is a convention.
        slope_of_output: `(y, **options) -> f'`, for an f' that is a function of y with a different
            formula in y than in x.
    """

    def declared(definition):
        made = ElementwiseOp(definition, kinks, slope_of_output)
        made.validate(lambda x, **options: require_floating(x=x))
        return made

    return declared if definition is None else declared(definition)
