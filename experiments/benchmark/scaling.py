"""Time and memory of a gradient against batch, width, depth, sequence length and classes."""

import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common
from experiments.benchmark import report
from experiments.benchmark.ops import both_ways
from experiments.benchmark.timing import compiled, contest, on
from jaxnn.catalogue.case import case, labels, normal, omitted, params

plt = common.pyplot()

HEADERS = (
    "size",
    "from … to",
    "ms at the largest",
    "to autodiff",
    "time ∝ size^",
    "autodiff ∝ size^",
    "MiB at the largest",
    "autodiff MiB",
    "memory ∝ size^",
    "autodiff memory ∝ size^",
)
LEGEND = (
    "to autodiff: time at the largest size divided by autodiff's; the exponents are fitted to the "
    "larger half of the sizes; MiB: temporary memory"
)


class Sweep(NamedTuple):
    """A computation at growing sizes.

    Attributes:
        what: the size and the computation.
        sizes: the sizes.
        programs: `(size, seed) -> (functions, args)`: jaxnn's and autodiff's way.
    """

    what: str
    sizes: tuple[int, ...]
    programs: Callable[[int, int], tuple[dict[str, Callable], tuple]]


def _perceptron(sizes, batch_size, seed):
    net = jaxnn.mlp(sizes)
    random = np.random.default_rng(seed)
    x = jnp.asarray(random.standard_normal((batch_size, sizes[0])), jnp.float32)
    target = jnp.asarray(random.integers(0, sizes[-1], batch_size))
    ways = {"jaxnn": jaxnn.value_and_grad, "autodiff": common.autodiff}
    functions = {side: way(net, jaxnn.softmax_cross_entropy) for side, way in ways.items()}
    return functions, (net.init(jax.random.key(seed)), x, target)


def _attention(t, seed):
    qkv = [normal(1, t, 4, 64)] * 3
    return both_ways(jaxnn.attention, case("", *qkv, *[omitted] * 4, causal=True), seed)


def _lstm(t, seed):
    arrays = {"w": (64, 512), "u": (128, 512), "b": (512,)}
    made = params(**{name: normal(*shape, scale=0.1) for name, shape in arrays.items()})
    return both_ways(jaxnn.lstm, case("", made, normal(t, 32, 64), omitted, omitted), seed)


def _classes(k, seed):
    made = params(w=normal(128, k, scale=0.1), b=normal(k))
    arguments = made, normal(512, 128), labels(512, k), omitted
    return both_ways(jaxnn.linear_softmax_cross_entropy, case("", *arguments), seed)


SWEEPS = {
    "batch": Sweep(
        "batch of a 784-512-512-10 network",
        (16, 32, 64, 128, 256, 512, 1024),
        lambda n, seed: _perceptron((784, 512, 512, 10), n, seed),
    ),
    "width": Sweep(
        "width H of a 784-H-H-10 network",
        (64, 128, 256, 512, 1024, 2048),
        lambda h, seed: _perceptron((784, h, h, 10), 128, seed),
    ),
    "depth": Sweep(
        "hidden layers of 128 units",
        (1, 2, 4, 8, 16, 32),
        lambda n, seed: _perceptron((128, *[128] * n, 10), 256, seed),
    ),
    "length": Sweep("positions of attention", (128, 256, 512, 1024, 2048), _attention),
    "steps": Sweep("steps of an LSTM", (16, 32, 64, 128, 256, 512), _lstm),
    "classes": Sweep(
        "classes of linear_softmax_cross_entropy", (1000, 2000, 4000, 8000, 16000, 32000), _classes
    ),
}


def rows(seed: int) -> dict[str, Callable[[str, int], dict[str, Any]]]:
    """For each sweep, what measures it on a platform for a number of rounds."""
    return {name: partial(_measure, name, sweep, seed) for name, sweep in SWEEPS.items()}


def _measure(name, sweep, seed, platform, rounds):
    contests = []
    for size in sweep.sizes:
        with on(platform):
            functions, args = sweep.programs(size, seed)
            programs = {side: compiled(function, *args) for side, function in functions.items()}
            contests.append(contest(programs, rounds, f"{name} {size}"))
    seconds, memory = (
        {side: [of(figures)[side] for figures in contests] for side in ("jaxnn", "autodiff")}
        for of in (
            lambda figures: figures["seconds"],
            lambda figures: {s: c["temporary_bytes"] for s, c in figures["costs"].items()},
        )
    )
    return {
        "what": sweep.what,
        "sizes": sweep.sizes,
        "seconds": seconds,
        "ratio": [figures["ratio"]["autodiff"] for figures in contests],
        "temporary_bytes": memory,
        "time_exponent": {s: exponent(sweep.sizes, cost) for s, cost in seconds.items()},
        "memory_exponent": {s: exponent(sweep.sizes, cost) for s, cost in memory.items()},
    }


def exponent(sizes, costs) -> float | None:
    """The a of cost ∝ sizeᵃ, by least squares of the logarithms over the larger half of the sizes.

    `None` where something costs nothing.
    """
    half = len(sizes) // 2
    if not all(costs[half:]):
        return None
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""

    def exponents(kind):
        fitted = figures[f"{kind}_exponent"].values()
        return ["" if a is None else f"{a:.2f}" for a in fitted]

    return (
        figures["what"],
        f"{figures['sizes'][0]} … {figures['sizes'][-1]}",
        report.milliseconds(figures["seconds"]["jaxnn"][-1]),
        report.median(figures["ratio"][-1]),
        *exponents("time"),
        *(report.mebibytes(costs[-1]) for costs in figures["temporary_bytes"].values()),
        *exponents("memory"),
    )


def draw(measured: dict[str, report.Figures]):
    """Time above memory, a column for each sweep."""
    figure, panels = plt.subplots(
        2, len(measured), figsize=(2.3 * len(measured) + 0.7, 5), squeeze=False, sharex="col"
    )
    for column, figures in zip(panels.T, measured.values(), strict=True):
        sizes = figures["sizes"]
        for axes, kind, fitted, unit in (
            (column[0], "seconds", "time_exponent", 1e3),
            (column[1], "temporary_bytes", "memory_exponent", 2**-20),
        ):
            for side, line in (("jaxnn", "o-"), ("autodiff", "s--")):
                a = figures[fitted][side]
                label = side if a is None else f"{side} ∝ $n^{{{a:.2f}}}$"
                axes.plot(sizes, unit * np.array(figures[kind][side]), line, ms=4, label=label)
            axes.set(xscale="log", yscale="log")
            axes.legend(fontsize=8)
            report.plain_ticks(axes.yaxis, [d * 10.0**k for k in range(-3, 5) for d in (1, 2, 5)])
        report.plain_ticks(column[1].xaxis, sizes[:: max(1, len(sizes) // 3)])
        column[1].set_xlabel(textwrap.fill(figures["what"], 22, break_long_words=False), fontsize=9)
    panels[0, 0].set_ylabel("forward and backward, ms")
    panels[1, 0].set_ylabel("temporary memory, MiB")
    figure.suptitle("What a gradient costs as it grows")
    return figure
