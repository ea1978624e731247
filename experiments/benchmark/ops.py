"""Forward and backward of every op of the catalogue at its benchmark shape, in float32."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import report
from experiments.benchmark.natives import native
from experiments.benchmark.timing import compiled, contest, on
from jaxnn.catalogue import ENTRIES, Case
from jaxnn.gradcheck.memory import forward_and_backward, forward_and_backward_by_autodiff
from jaxnn.op import Op

HEADERS = (
    "op",
    "ms",
    "to autodiff",
    "quartiles",
    "to native",
    "flops",
    "bytes",
    "MiB",
    "autodiff MiB",
)
LEGEND = (
    "to autodiff, to native: time of jaxnn divided by that of autodiff, of the definition and of "
    "the counterpart in jax.nn, optax or Flax; flops, bytes: as the compiler counts them, a loop's "
    "body once, divided by autodiff's; MiB: temporary memory"
)


def rows(seed: int) -> dict[str, Callable[[str, int], dict[str, Any]]]:
    """For each op, what measures it on a platform for a number of rounds."""
    return {
        f"{entry.op.__name__} {entry.benchmark.name}": partial(
            _measure, entry.op, entry.benchmark, seed
        )
        for entry in ENTRIES
    }


def _measure(op, case, seed, platform, rounds):
    with on(platform):
        functions, arguments = both_ways(op, case, seed)
        if counterpart := native(op):
            functions["native"] = forward_and_backward_by_autodiff(
                partial(counterpart, **case.options)
            )
        programs = {side: compiled(function, *arguments) for side, function in functions.items()}
        return contest(programs, rounds, op.__name__)


def both_ways(op: Op, case: Case, seed: int) -> tuple[dict[str, Callable], tuple]:
    """Forward and backward of an op by hand and by autodiff, and their arguments `(args, dy)`."""
    bound, args = op.bind(**case.options), case.arguments(seed, jnp.float32)
    dy = jax.tree.map(
        lambda y: jax.random.normal(jax.random.key(seed), y.shape, y.dtype),
        jax.eval_shape(bound.definition, *args),
    )
    functions = {
        "jaxnn": forward_and_backward(bound),
        "autodiff": forward_and_backward_by_autodiff(bound.definition),
    }
    return functions, (args, dy)


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    ours, autodiff = (figures["costs"][side] for side in ("jaxnn", "autodiff"))
    op, _, shape = name.partition(" ")
    to_autodiff, to_native = (figures["ratio"].get(side) for side in ("autodiff", "native"))
    return (
        f"`{op}` {shape}",
        report.milliseconds(figures["seconds"]["jaxnn"]),
        report.median(to_autodiff),
        report.spread(to_autodiff),
        report.median(to_native) if to_native else "",
        report.quotient(ours["flops"], autodiff["flops"]),
        report.quotient(ours["bytes"], autodiff["bytes"]),
        report.mebibytes(ours["temporary_bytes"]),
        report.mebibytes(autodiff["temporary_bytes"]),
    )


def draw(measured: dict[str, report.Figures]):
    """Each op's time and memory, divided by autodiff's."""
    ratios = [figures["ratio"]["autodiff"]["median"] for figures in measured.values()]
    return report.draw_ratios(
        measured,
        f"Forward and backward of {len(ratios)} ops: the median takes "
        f"{np.median(ratios):.2f} of autodiff's time",
    )
