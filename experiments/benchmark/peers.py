"""The digits network trained by jaxnn and by other libraries, each in its own process."""

import importlib.util
import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.benchmark import report
from experiments.benchmark.processes import NotInstalled, measured_process
from experiments.benchmark.timing import by_turns, compared
from experiments.digits import DATASETS, load

plt = common.pyplot()

SETTINGS = {
    "sizes": (64, 128, 10),
    "epochs": 50,
    "batch_size": 64,
    "learning_rate": DATASETS["digits"].learning_rates["sgd"],
}
MODULES = {
    "PyTorch": "torch",
    "scikit-learn": "sklearn",
    "Flax NNX": "flax",
    "Equinox": "equinox",
}

HEADERS = (
    "library",
    "ms per epoch",
    "epoch to jaxnn's",
    "quartiles",
    "start to end, s",
    "whole to jaxnn's",
    "quartiles",
    "peak MiB",
    "jaxnn MiB",
    "test accuracy",
    "jaxnn accuracy",
)
LEGEND = (
    "ms per epoch: after a warm-up; start to end: from the start of the process to the end of the "
    f"{SETTINGS['epochs']} epochs, imports and compilation included; to jaxnn's: the library's "
    "time divided by jaxnn's, run in turn; peak MiB: resident memory"
)


def rows(seed: int) -> dict[str, Callable[[str, int], dict[str, Any]]]:
    """For each other library, what measures it and jaxnn on a platform for a number of rounds.

    All libraries run in turn, so that one run of jaxnn in each round serves for all of them.
    """
    together = cache(partial(_together, seed))
    return {library: partial(_against_jaxnn, library, together) for library in MODULES}


def _against_jaxnn(library, together, platform, rounds):
    if not _is_installed(library):
        raise NotInstalled(f"{MODULES[library]} is not installed: pip install 'jaxnn[peers]'")
    measured = together(platform, rounds)
    sides = {"peer": measured[library], "jaxnn": measured["jaxnn"]}

    def each(figure):
        return {side: [run[figure] for run in runs] for side, runs in sides.items()}

    def median(figure):
        return {side: float(np.median(numbers)) for side, numbers in each(figure).items()}

    return {
        "epoch": compared(each("seconds_per_epoch")),
        "start_to_end": compared(each("seconds_from_start")),
        "peak_bytes": median("peak_bytes"),
        "accuracy": median("accuracy"),
    }


def _together(seed, platform, rounds) -> dict[str, list[dict[str, Any]]]:
    """The figures of every run of each library that is installed."""
    settings = json.dumps(SETTINGS | {"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "digits.npz")
        np.savez(data, **load("digits")._asdict())
        peer = "experiments.benchmark.peer"
        runs = {
            library: partial(measured_process, platform, "-m", peer, library, str(data), settings)
            for library in ("jaxnn", *filter(_is_installed, MODULES))
        }
        for run in runs.values():  # fills the caches of files and of bytecode
            run()
        return by_turns(runs, rounds, "libraries")


def _is_installed(library) -> bool:
    return importlib.util.find_spec(MODULES[library]) is not None


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    epoch, whole = figures["epoch"], figures["start_to_end"]
    return (
        name,
        report.milliseconds(epoch["seconds"]["peer"]),
        report.median(epoch["ratio"]["jaxnn"]),
        report.spread(epoch["ratio"]["jaxnn"]),
        f"{whole['seconds']['peer']:.2f}",
        report.median(whole["ratio"]["jaxnn"]),
        report.spread(whole["ratio"]["jaxnn"]),
        *(f"{size / 2**20:.0f}" for size in figures["peak_bytes"].values()),
        *(f"{accuracy:.3f}" for accuracy in figures["accuracy"].values()),
    )


def draw(measured: dict[str, report.Figures]):
    """The figures of every library, divided by those of jaxnn in the runs beside its own."""
    panels = {
        "Time of an epoch": lambda f: f["epoch"]["ratio"]["jaxnn"]["median"],
        "Time from start to end": lambda f: f["start_to_end"]["ratio"]["jaxnn"]["median"],
        "Peak memory": lambda f: f["peak_bytes"]["peer"] / f["peak_bytes"]["jaxnn"],
    }
    figure, all_axes = plt.subplots(1, 3, figsize=(9, 1.1 + 0.3 * len(measured)), sharey=True)
    for axes, (title, ratio) in zip(all_axes, panels.items(), strict=True):
        numbers = {"jaxnn": 1.0} | {name: ratio(figures) for name, figures in measured.items()}
        report.draw_bars(axes, numbers, title, "%.2f")
    figure.suptitle(
        f"The digits network, {SETTINGS['epochs']} epochs, each in its own process: "
        "each library divided by jaxnn"
    )
    return figure
