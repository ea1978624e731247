"""Forward and backward of every op of the catalogue at its benchmark shape, in float32."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import report
from experiments.benchmark.natives import native
from experiments.benchmark.timing import Row, contest, with_arguments
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


def rows(seed: int) -> dict[str, Row]:
    """For each op, what measures it on a platform for a number of rounds."""
    return {
        f"{entry.op.__name__} {entry.benchmark.name}": Row(
            partial(_compiled, entry.op, entry.benchmark, seed),
            partial(_measured, entry.op, entry.benchmark, seed),
        )
        for entry in ENTRIES
    }


def _compiled(op, case, seed, platform):
    """The programs without their arguments, which together take gigabytes."""
    shapes = jax.eval_shape(lambda: _arguments(op, case, seed))
    functions = _functions(op, case)
    if counterpart := native(op):
        functions["native"] = forward_and_backward_by_autodiff(partial(counterpart, **case.options))
    return {side: jax.jit(f).lower(*shapes).compile() for side, f in functions.items()}


def _measured(op, case, seed, programs, rounds):
    arguments = _arguments(op, case, seed)
    contestants = {side: with_arguments(p, *arguments) for side, p in programs.items()}
    return contest(contestants, rounds, op.__name__)


def both_ways(op: Op, case: Case, seed: int) -> tuple[dict[str, Callable], tuple]:
    """Forward and backward of an op by hand and by autodiff, and their arguments `(args, dy)`."""
    return _functions(op, case), _arguments(op, case, seed)


def _functions(op, case):
    bound = op.bind(**case.options)
    return {
        "jaxnn": forward_and_backward(bound),
        "autodiff": forward_and_backward_by_autodiff(bound.definition),
    }


def _arguments(op, case, seed):
    args, random = case.arguments(seed, jnp.float32), np.random.default_rng(seed + 1)
    dy = jax.tree.map(
        lambda y: jnp.asarray(random.standard_normal(y.shape, np.float32), y.dtype),
        jax.eval_shape(op.bind(**case.options).definition, *args),
    )
    return args, dy


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
