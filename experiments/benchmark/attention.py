"""Attention in bfloat16, forward and backward: by cuDNN and over tiles, against JAX's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments.benchmark import report
from experiments.benchmark.processes import NotInstalled
from experiments.benchmark.timing import Row, compiled, contest
from jaxnn.gradcheck.memory import forward_and_backward, forward_and_backward_by_autodiff

SHAPE = 4, 2048, 8, 64

HEADERS = (
    "attention",
    "ms",
    "to JAX by cuDNN",
    "quartiles",
    "to JAX by XLA",
    "to tiles",
    "MiB",
    "MiB of JAX by cuDNN",
    "MiB of JAX by XLA",
    "MiB of tiles",
)
LEGEND = (
    f"{SHAPE} in bfloat16: time of jaxnn by cuDNN divided by that of autodiff of "
    "jax.nn.dot_product_attention by cuDNN and by XLA, and of jaxnn over tiles; MiB: temporary "
    "memory"
)


def rows(seed: int) -> dict[str, Row]:
    """For each order, what measures it on a platform for a number of rounds."""
    options = {
        "all keys": {},
        "causal": {"causal": True},
        "causal, window 255": {"causal": True, "window": 255},
    }
    return {
        name: Row(partial(_compiled, chosen, seed), partial(contest, name=name))
        for name, chosen in options.items()
    }


def _compiled(options, seed, platform):
    if platform != "gpu":
        raise NotInstalled("cuDNN computes on a GPU alone")
    random = np.random.default_rng(seed)
    *args, dy = (jnp.asarray(random.standard_normal(SHAPE), jnp.bfloat16) for _ in range(4))
    theirs = partial(
        jax.nn.dot_product_attention,
        is_causal="causal" in options,
        local_window_size=options.get("window"),
    )
    ours = jaxnn.attention.bind(**options)
    functions = {
        "jaxnn": forward_and_backward(ours.bind(implementation="cudnn")),
        "tiles": forward_and_backward(ours.bind(implementation="tiles")),
        "JAX by cuDNN": forward_and_backward_by_autodiff(partial(theirs, implementation="cudnn")),
        "JAX by XLA": forward_and_backward_by_autodiff(partial(theirs, implementation="xla")),
    }
    return {side: compiled(function, tuple(args), dy) for side, function in functions.items()}


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    ratio, costs = figures["ratio"], figures["costs"]
    return (
        name,
        report.milliseconds(figures["seconds"]["jaxnn"]),
        report.median(ratio["JAX by cuDNN"]),
        report.spread(ratio["JAX by cuDNN"]),
        report.median(ratio["JAX by XLA"]),
        report.median(ratio["tiles"]),
        *(
            report.mebibytes(costs[side]["temporary_bytes"])
            for side in ("jaxnn", "JAX by cuDNN", "JAX by XLA", "tiles")
        ),
    )


def draw(measured: dict[str, report.Figures]):
    """The milliseconds of each way."""
    figure, panels = report.plt.subplots(
        1, len(measured), figsize=(3 * len(measured) + 1, 2.2), squeeze=False, sharey=True
    )
    for axes, (name, figures) in zip(panels.flat, measured.items(), strict=True):
        milliseconds = {side: 1e3 * seconds for side, seconds in figures["seconds"].items()}
        report.draw_bars(axes, milliseconds, f"{name}, ms", "%.2f")
    figure.suptitle("Attention in bfloat16, forward and backward")
    return figure
