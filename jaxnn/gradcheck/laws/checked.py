"""A function with a backward, in the form of an op."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A function with a backward, in the form of an op.

    Attributes:
        name: its name in the report.
        arguments: the names of its positional arguments.
        definition: the function that autodiff differentiates.
        fwd: `(*args) -> (y, residuals)`.
        bwd: `(residuals, dy) -> one gradient for each argument`.
        halves: `(residuals, dy) -> one gradient for each argument` from the two halves of the
            backward, or `None` if it has no halves.
        examples: `(residuals, dy) -> Examples`, or `None` if the gradient of each example is not
            defined.
        exported: the function that users pass to `jax.grad`, or `None` if there is none.
        has_forward_mode: whether `jax.jvp` accepts `exported` as well.
        statement: the arguments of the call of `check`, for the line that repeats it.
        primal: the function that defines the value, if its gradient deliberately differs from that
            of the definition.
        trusted: whether the rules of `jax.custom_jvp` within the definition are trusted. If not,
            differences have to confirm them.
        ignores_integers: whether the gradients of integers are ignored.
        keeps_contract: whether the backward must run under every transformation.
        any_dtype: whether its functions are one formula for every dtype, as those of an op are.
        repairable: the functions written by the author of the backward, the backward first.
    """

    name: str
    arguments: tuple[str, ...]
    definition: Callable
    fwd: Callable
    bwd: Callable
    halves: Callable | None = None
    examples: Callable | None = None
    exported: Callable | None = None
    has_forward_mode: bool = False
    statement: str
    primal: Callable | None = None
    trusted: bool = True
    ignores_integers: bool = False
    keeps_contract: bool = False
    any_dtype: bool = False
    repairable: tuple[Callable, ...] = ()


class Examples(NamedTuple):
    """Three pairs that must be equal, each a tree like the parameters.

    Attributes:
        sum: the result of `bwd_params`, without weights and with weight 1 for each example.
        weighted: the result of `bwd_params` with weights, and the weighted sum of `bwd_examples`.
        norms: the squared norms according to `bwd_examples`, and those of the gradients themselves.
    """

    sum: tuple
    weighted: tuple
    norms: tuple
