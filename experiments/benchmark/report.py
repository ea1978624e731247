"""What the suites share: Markdown tables of figures, and the picture of ratios."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import common

plt = common.pyplot()
tabulate = common.require("tabulate").tabulate

LEAST_SHOWN = 1e-3  # ratio of memories; less is drawn there

Figures = dict[str, Any]
Measured = dict[str, dict[str, Figures]]  # by row, by platform


def table(
    measured: Measured, headers: Sequence[str], cells: Callable[[str, Figures], tuple]
) -> str:
    """A Markdown table with a line for each row, and columns for each platform.

    Args:
        measured: the figures.
        headers: of the columns; the first holds the row's name.
        cells: from a row's name and its figures on one platform to the cells of its line.
    """
    found = list(dict.fromkeys(platform for row in measured.values() for platform in row))
    prefixes = [f"{platform} " if len(found) > 1 else "" for platform in found]
    heads = [headers[0], *(prefix + head for prefix in prefixes for head in headers[1:])]
    lines = []
    for name, row in measured.items():
        of_platforms = [cells(name, row[platform]) for platform in found if platform in row]
        line = [of_platforms[0][0]]
        for platform in found:
            line += cells(name, row[platform])[1:] if platform in row else [""] * len(headers[1:])
        lines.append(line)
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True, colalign=align)


def milliseconds(seconds: float) -> str:
    """Seconds, in milliseconds."""
    return f"{1e3 * seconds:.2f}"


def mebibytes(size: float) -> str:
    """Bytes, in MiB."""
    return f"{size / 2**20:.1f}"


def quotient(numerator: float, denominator: float) -> str:
    """A ratio, or nothing where it has no meaning."""
    return f"{numerator / denominator:.2f}" if denominator else ""


def median(quartiles: dict[str, float]) -> str:
    """A median alone."""
    return f"{quartiles['median']:.2f}"


def spread(quartiles: dict[str, float]) -> str:
    """The quartiles around a median."""
    return f"{quartiles['q1']:.2f}–{quartiles['q3']:.2f}"


def memory_ratio(figures: Figures) -> float:
    """Temporary memory divided by autodiff's; where neither takes any, 1."""
    ours, autodiff = (figures["costs"][side]["temporary_bytes"] for side in ("jaxnn", "autodiff"))
    if not autodiff:
        return 1.0 if not ours else np.inf
    return ours / autodiff


def draw_ratios(measured: dict[str, Figures], title: str):
    """Time and memory divided by autodiff's, of rows on one platform: log axes, a line at 1."""
    names = sorted(measured, key=lambda name: -measured[name]["ratio"]["autodiff"]["median"])
    figure, (time, memory) = plt.subplots(
        1, 2, figsize=(8, 1.8 + 0.17 * len(names)), sharey=True, width_ratios=(3, 2)
    )
    for side, other, color, marker in (
        ("autodiff", "autodiff", "C0", "o"),
        ("native", "jax.nn, optax or Flax", "C1", "x"),
    ):
        places = [i for i, name in enumerate(names) if side in measured[name]["ratio"]]
        if not places:
            continue
        ratios = [measured[names[i]]["ratio"][side] for i in places]
        low, middle, high = ([r[q] for r in ratios] for q in ("q1", "median", "q3"))
        time.hlines(places, low, high, color=color, linewidth=1)
        time.scatter(
            middle, places, 16, color=color, marker=marker, label=f"jaxnn / {other}", zorder=3
        )
    ratios = np.array([memory_ratio(measured[name]) for name in names])
    faces = ["C0" if ratio else "none" for ratio in ratios]
    memory.scatter(
        np.maximum(ratios, LEAST_SHOWN),
        range(len(names)),
        16,
        edgecolors="C0",
        facecolors=faces,
        zorder=3,
    )
    memory.set_xlim(0.7 * LEAST_SHOWN, 2)
    for axes, name, words, ticks in (
        (time, "Time", "ratio (below 1: jaxnn is faster)", [0.05, 0.1, 0.2, 0.5, 1, 2]),
        (memory, "Memory", "jaxnn / autodiff (hollow: 0)", [0.001, 0.01, 0.1, 1]),
    ):
        axes.axvline(1, color="#666666", linewidth=1)
        axes.set(xscale="log", title=name, xlabel=words)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.4), max(high, 1.6))  # has ticks, even if all ratios are near 1
        plain_ticks(axes.xaxis, ticks)
    time.set_yticks(range(len(names)), [name.split(" ")[0] for name in names], fontsize=8)
    time.set_ylim(-1, len(names))
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def plain_ticks(axis, at: Sequence[float]) -> None:
    """Ticks at these numbers of a log axis, written out, as far as they are in view."""
    low, high = sorted(axis.get_view_interval())
    shown = [tick for tick in at if low <= tick <= high]
    axis.set_ticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_ticks([], minor=True)


def draw_bars(axes, numbers: dict[str, float], title: str, form: str) -> None:
    """A horizontal bar for each number, jaxnn's in another colour."""
    bars = axes.barh(
        list(numbers),
        numbers.values(),
        color=["C0" if name == "jaxnn" else "C1" for name in numbers],
        height=0.65,
    )
    axes.bar_label(bars, fmt=form, padding=3)
    axes.set_axisbelow(True)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.2)
    axes.set_ylim(len(numbers) - 0.4, -0.6)
    axes.set_title(title)
