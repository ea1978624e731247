"""What the experiments share: command line, referee, result file and the look of the pictures."""

import argparse
import importlib
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from jaxnn.layer import Params

# Okabe and Ito's colours, which every kind of colour vision tells apart
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]

STYLE = {
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "font.size": 10,
    "figure.titlesize": 12,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


class Parser(argparse.ArgumentParser):
    """A command line whose errors take one line.

    Args:
        name: the module in `experiments`.
        description: what the program does.
        writes: whether it has the option `--output`.
        random: whether it has the option `--seed`.
    """

    def __init__(self, name: str, description: str, writes: bool = True, random: bool = True):
        super().__init__(prog=f"python -m experiments.{name}", description=description)
        if writes:
            self.add_argument(
                "--output",
                type=Path,
                default=Path("results", name),
                metavar="DIR",
                help="folder to write to, made if there is none (default: %(default)s)",
            )
        if random:
            self.add_argument(
                "--seed", type=integer(0, 2**32 - 1), default=0, help="default: %(default)s"
            )

    def add_integers(self, **options: tuple[int, str]) -> None:
        """Add options that are positive integers: the default of each, and what it is."""
        for name, (default, words) in options.items():
            self.add_argument(
                "--" + name.replace("_", "-"),
                type=positive_int,
                default=default,
                metavar="N",
                help=f"{words} (default: %(default)s)",
            )

    def error(self, message: str):
        """Leave with the message and status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def make_folder(self, folder: Path) -> None:
        """Create the output folder, or leave with an error if it cannot be written to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            self.error(f"cannot write to the folder {folder}: {error.strerror}")

    def check_batch_size(self, batch_size: int, n: int, examples: str) -> None:
        """Leave with an error if a minibatch is larger than all the n examples together."""
        if batch_size > n:
            self.error(f"--batch-size is {batch_size} but there are {n} {examples}")

    def run(self, program: Callable[..., None], *arguments: Any) -> None:
        """Call the program, and leave with one line if its training diverges."""
        try:
            program(*arguments)
        except jaxnn.NonFiniteError as error:
            self.exit(1, f"{self.prog}: {error}\n")


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument that is an integer within these bounds."""
    bounds = f"of at least {least}" if most is None else f"in {least} … {most}"

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer {bounds}")
        return int(text)

    return parse


positive_int = integer(1)


def positive_float(text: str) -> float:
    """An argument that is a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def share(text: str) -> float:
    """An argument that is a number of at least 0 and below 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return number


def require(module: str) -> ModuleType:
    """Import a module of the extra `experiments`, or leave with a line on how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'jaxnn[experiments]'", file=sys.stderr)
        sys.exit(2)


def pyplot() -> ModuleType:
    """`matplotlib.pyplot`, set up to draw pictures for print without a screen."""
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    plt.rcParams.update(STYLE, **{"axes.prop_cycle": plt.cycler(color=PALETTE)})
    return plt


def save_pictures(folder: Path, **figures: Any) -> None:
    """Write each figure to a PNG of its name, and close it."""
    plt = pyplot()
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
        plt.close(figure)


def linear_layers(params: Params) -> list[dict[str, jax.Array]]:
    """The parameters of the linear layers of `jaxnn.mlp`, leaving out the ops between them."""
    return [layer for layer in params if layer]


def autodiff(net: jaxnn.Layer, loss: jaxnn.Op) -> Callable:
    """The twin of `jaxnn.value_and_grad` in which JAX differentiates the definitions."""

    def objective(params, x, target, key):
        with jaxnn.definitions():
            y, residuals = net.fwd(params, x, key)
            return jnp.mean(loss(y, target)), residuals

    def gradient(params, state, x, target, key=None):
        differentiated = jax.value_and_grad(objective, has_aux=True)
        (value, residuals), grads = differentiated(params, x, target, key)
        return value, grads, net.update_state(state, residuals) if net.stateful else state

    def stateless(params, x, target, key=None):
        value, grads, _ = gradient(params, (), x, target, key)
        return value, grads

    return gradient if net.stateful else stateless


def both_gradients(net: jaxnn.Layer, loss: jaxnn.Op, params, x, target, key=None) -> tuple:
    """The gradient of one batch by hand, and what it should be.

    The referee is `jax.grad` of the definitions. It works in float64, so that the rounding errors
    are those of the hand-written gradient alone, in full float32 on any device.
    """
    state = (net.init_state(),) if net.stateful else ()
    with jax.default_matmul_precision("highest"):
        grads = jax.jit(jaxnn.value_and_grad(net, loss))(params, *state, x, target, key)[1]
    with jax.enable_x64(True):
        wide = jax.tree.map(_in_float64, (params, *state, x, target))
        expected = jax.jit(autodiff(net, loss))(*wide, key)[1]
    return grads, expected


def _in_float64(array):
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return np.asarray(array, np.float64) if floating else array


def relative_errors(found: Any, expected: Any) -> dict[str, float]:
    """‖found − expected‖/‖expected‖ of each leaf of two equal trees, by the leaf's path."""

    def error(found, expected):
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        difference = np.linalg.norm(found - expected)
        return float(difference / np.linalg.norm(expected)) if difference else 0.0

    errors = jax.tree.map(error, found, expected)
    return {
        jax.tree_util.keystr(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(errors)
    }


def machine() -> dict[str, Any]:
    """The machine the program runs on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }


def write_result(folder: Path, settings: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write `result.json`, whole or not at all: the result, and what it takes to get it again.

    Args:
        folder: the output folder.
        settings: the parsed command line.
        result: the measured values.
    """
    record = result | {
        "settings": vars(settings),
        "versions": {name: _version(name) for name in ("jax", "jaxlib", "jaxnn", "numpy")}
        | {"python": platform.python_version()},
        "platform": machine(),
    }
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(record, indent=2, default=str, allow_nan=False) + "\n")
    partial.replace(folder / "result.json")


def _version(name: str) -> str:
    """A package's version; jaxnn may run from its folder without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name, which Python does not know on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
