"""The start: `import jaxnn` and the first compiled step, each against plain JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any

from experiments import common
from experiments.benchmark import report
from experiments.benchmark.processes import measured_process
from experiments.benchmark.timing import by_turns, compared, quartiles

plt = common.pyplot()

HEADERS = ("start", "jaxnn ms", "plain JAX ms", "ratio", "quartiles", "difference ms", "quartiles")
LEGEND = (
    "Each side runs in its own process. Imports count from the start of the process; the "
    "first step of the 64-128-10 network counts from the call to its result, with tracing and "
    "compilation."
)

IMPORT = "import time; import {}; print('{{\"finished_at\": %r}}' % time.monotonic())"


def rows(seed: int) -> dict[str, Callable[[str, int], dict[str, Any]]]:
    """For the import and the first step, what measures it on a platform."""

    def first_step(side):
        return "-m", "experiments.benchmark.first_step", side, str(seed)

    imports = {
        side: ("-c", IMPORT.format(modules))
        for side, modules in (("jaxnn", "jaxnn"), ("plain JAX", "jax, optax"))
    }
    steps = {"jaxnn": first_step("jaxnn"), "plain JAX": first_step("plain")}
    return {
        "import": partial(_measure, "import", imports, "seconds_from_start"),
        "first step": partial(_measure, "first step", steps, "seconds"),
    }


def _measure(name, programs, figure, platform, rounds):
    for arguments in programs.values():  # fills the caches of files and of bytecode
        measured_process(platform, *arguments)
    runs = by_turns(
        {side: partial(measured_process, platform, *a) for side, a in programs.items()},
        rounds,
        name,
    )
    seconds = {side: [run[figure] for run in measured] for side, measured in runs.items()}
    ours, plain = seconds.values()
    difference = quartiles([a - b for a, b in zip(ours, plain, strict=True)])
    return compared(seconds) | {"difference": difference}


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    ratio, difference = figures["ratio"]["plain JAX"], figures["difference"]
    return (
        name,
        *(report.milliseconds(seconds) for seconds in figures["seconds"].values()),
        report.median(ratio),
        report.spread(ratio),
        f"{1e3 * difference['median']:.0f}",
        f"{1e3 * difference['q1']:.0f} … {1e3 * difference['q3']:.0f}",
    )


def draw(measured: dict[str, report.Figures]):
    """The seconds of both sides."""
    figure, panels = plt.subplots(1, len(measured), figsize=(7, 1.9), squeeze=False, sharey=True)
    for axes, (name, figures) in zip(panels.flat, measured.items(), strict=True):
        report.draw_bars(axes, figures["seconds"], f"{name}, s", "%.2f")
    figure.suptitle("The start of a program, with jaxnn and with plain JAX")
    return figure
