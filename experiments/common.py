"""What the experiments share: command line, progress, referee, result, look of the pictures."""

import argparse
import importlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import resume
from jaxnn.layer import Params

# Okabe and Ito's colours, which every kind of colour vision tells apart
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]

STYLE = {
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "svg.hashsalt": "jaxnn",  # the same figure gives the same file
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


SECONDS_BETWEEN_LINES = 30.0  # of the progress, where there is no terminal

# Where installed, their versions are part of a result
LIBRARIES = (
    *("jax", "jaxlib", "numpy", "optax", "scipy", "scikit-learn", "matplotlib", "dp-accounting"),
    *("torch", "flax", "equinox", "opacus", "backpack-for-pytorch"),
)

_started = time.monotonic()  # when the program began


class Parser(argparse.ArgumentParser):
    """A command line whose errors take one line.

    Args:
        name: the module in `experiments`.
        description: what the program does.
        writes: whether it has the option `--output`.
        random: whether it has the option `--seed`.
        trains: whether it has the option `--resume`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        writes: bool = True,
        random: bool = True,
        trains: bool = False,
    ):
        global _started
        _started = time.monotonic()
        super().__init__(prog=f"python -m experiments.{name}", description=description)
        self.writes = writes
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
        self.trains = trains
        if trains:
            self.add_argument(
                "--resume",
                action="store_true",
                help="resume the interrupted run in the output folder instead of starting a "
                "new one; the other options must be the same",
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

    def parse_args(self, args=None, namespace=None):
        """Parse the command line, and remember it for the line on how to resume."""
        self.arguments = sys.argv[1:] if args is None else args
        return super().parse_args(args, namespace)

    def run(self, program: Callable[..., Any], args: argparse.Namespace, *arguments: Any) -> Any:
        """Call the program, and leave with one line if it is interrupted or its training diverges.

        The `result.json` of an earlier run is removed first: only a run that succeeds has one. With
        `--resume` it is of the same run and stays, in case the command is refused.

        Args:
            program: takes `args` and `arguments`.
            args: the parsed command line, with an output folder that exists.
            *arguments: the program's further arguments.

        Returns:
            The program's result.
        """
        if self.trains:
            resume.begin(self, args)
        if self.writes and not (self.trains and args.resume):
            (args.output / "result.json").unlink(missing_ok=True)
        noted: list[int] = []
        try:
            with _signals_as_exceptions(noted), _lines_at_once():
                return program(args, *arguments)
        except resume.CannotResume as error:
            self.error(f"--resume: {error}; omit --resume to begin a new run")
        except FloatingPointError as error:
            self.exit(1, f"{self.prog}: {self._diverged(error, args)}\n")
        except KeyboardInterrupt as error:
            by_sigterm = str(error).startswith("SIGTERM")
            self._interrupted(*noted, signal.SIGTERM if by_sigterm else signal.SIGINT)
        except (Exception, SystemExit):  # a library may have made another one of the signal's
            if not noted:
                raise
            self._interrupted(*noted)

    def _diverged(self, error: FloatingPointError, args: argparse.Namespace) -> str:
        """The message on leaving; the last finite parameters are written to a file."""
        if not isinstance(error, jaxnn.NonFiniteError):
            return str(error)
        file = args.output / "last_finite.safetensors"
        jaxnn.save_params(file, error.training.params)
        return f"{str(error).rpartition(';')[0]}; the last finite parameters are in {file}"

    def _interrupted(self, number: int, *later: int):
        """Leave with a line on how to resume, and the status of a process that a signal ended."""
        message = f"{self.prog}: interrupted"
        if self.trains:
            arguments = [argument for argument in self.arguments if argument != "--resume"]
            message += f"; to resume: {self.prog} {shlex.join([*arguments, '--resume'])}"
        self.exit(128 + number, message + "\n")


@contextmanager
def _signals_as_exceptions(noted: list[int]) -> Iterator[None]:
    """A context in which Ctrl-C and SIGTERM raise KeyboardInterrupt; those that come are noted.

    Python drops an exception in a destructor or in a callback of the garbage collector, and JAX has
    such a callback. The signal is then raised again a little later.
    """
    before, hook = {}, sys.unraisablehook

    def note(number, frame):
        noted.append(number)
        raise KeyboardInterrupt

    def raise_again(dropped):
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
        elif noted:
            threading.Timer(0.01, signal.raise_signal, noted[-1:]).start()

    if threading.current_thread() is threading.main_thread():  # no other gets signals
        for number in (signal.SIGINT, signal.SIGTERM):
            # a handler that was set outside Python, or a signal that is ignored, stays as it is
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, note)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _lines_at_once() -> Iterator[None]:
    """A context in which each printed line appears at once, in a pipe and a file too."""
    before = getattr(sys.stdout, "line_buffering", True)
    if not before:
        sys.stdout.reconfigure(line_buffering=True)
    try:
        yield
    finally:
        if not before:
            sys.stdout.reconfigure(line_buffering=False)


class Lines:
    """A line on the progress every half minute, where there is no terminal to show a bar."""

    def __init__(self):
        self.spoken = time.monotonic()

    def say(self, line: str) -> None:
        """Print the line, unless it is too early or there is a terminal."""
        if sys.stderr.isatty() or time.monotonic() - self.spoken < SECONDS_BETWEEN_LINES:
            return
        self.spoken = time.monotonic()
        print(line, file=sys.stderr)


def progress(items: Sequence, what: str, unit: str) -> Iterator:
    """Go through items with a progress bar on a terminal, and with `Lines` elsewhere."""
    tqdm, lines = require("tqdm").tqdm, Lines()
    for done, item in enumerate(tqdm(items, desc=what, unit=unit, disable=None)):
        lines.say(f"{what}: {done} of {len(items)} {unit}s")
        yield item


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


def count(n: int, thing: str) -> str:
    """A number of things, such as `1 epoch` or `2 epochs`."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def require(module: str, extra: str = "experiments") -> ModuleType:
    """Import a module of an extra, or leave with a line on how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'jaxnn[{extra}]'", file=sys.stderr)
        sys.exit(2)


def pyplot() -> ModuleType:
    """`matplotlib.pyplot`, set up to draw pictures for print without a screen."""
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    plt.rcParams.update(STYLE, **{"axes.prop_cycle": plt.cycler(color=PALETTE)})
    return plt


def save_pictures(folder: Path, **figures: Any) -> None:
    """Write each figure to a PNG and an SVG of its name, and close it.

    The SVG is for print. Its identifiers have a fixed salt and its metadata has no date, so that
    the same figure always gives the same bytes.
    """
    plt = pyplot()
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def fit(
    net: jaxnn.Layer, loss: jaxnn.Op, params: Params, data: tuple, **options: Any
) -> jaxnn.Training:
    """`jaxnn.fit` of a run that reports failure as such.

    It prints a line if a classifier is no better than the most frequent class.

    Args:
        net: the network.
        loss: the loss.
        params: the parameters to start from.
        data: `(x, target)`.
        **options: of `jaxnn.fit`.

    Raises:
        FloatingPointError: the loss is no longer finite, or has more than doubled.
    """
    state = net.init_state() if net.stateful else None
    before = jaxnn.evaluate(net, loss, params, data, state=state)["loss"]
    training = jaxnn.fit(net, loss, params, data, **options)
    refuse_divergence(before, training.history["loss"][-1])
    if "accuracy" in training.history:
        right = training.history["accuracy"][-1]
        _, counts = np.unique_counts(data[1])
        guess = counts.max() / counts.sum()
        if right <= guess:
            print(
                f"nothing learned: {right:.1%} of the training examples are right; the most "
                f"frequent class alone is {guess:.1%}"
            )
    return training


def refuse_divergence(before: float, after: float) -> None:
    """Raise `FloatingPointError` if training has more than doubled the loss."""
    if after > 2 * before:
        raise FloatingPointError(
            f"training diverged: it has raised the loss from {before:.3g} to {after:.3g}"
        )


def linear_layers(params: Params) -> list[dict[str, jax.Array]]:
    """The parameters of the linear layers of `jaxnn.mlp`, without the ops between them."""
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
    """‖found − expected‖/‖expected‖ of each leaf of two equal trees, by `leaf_name`."""

    def error(found, expected):
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        difference = np.linalg.norm(found - expected)
        return float(difference / np.linalg.norm(expected)) if difference else 0.0

    errors = jax.tree.map(error, found, expected)
    return {leaf_name(path): value for path, value in jax.tree_util.tree_leaves_with_path(errors)}


def leaf_name(path: tuple) -> str:
    """The name of a leaf of parameters, such as `layer 2, w` for `params[2]["w"]`."""
    keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
    numbers = list(takewhile(str.isdecimal, keys))
    layer = ["layer " + ".".join(numbers)] if numbers else []
    return ", ".join(layer + keys[len(numbers) :])


def machine() -> dict[str, Any]:
    """The machine the program runs on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }


def write_result(
    folder: Path, settings: argparse.Namespace, result: dict[str, Any]
) -> dict[str, Any]:
    """Write `result.json`, whole or not at all: the result, and what it takes to get it again.

    `date` is the end of the run, in UTC, and `seconds` its time, without the earlier parts of a
    run that was resumed. `commit` is that of the checkout, with a "+" if files have changed since,
    and null outside one.

    Args:
        folder: the output folder.
        settings: the parsed command line. `--resume` does not change the result and is omitted.
        result: the measured values.

    Returns:
        What was written.

    Raises:
        FloatingPointError: a measured value is not finite.
    """
    record = result | {
        "settings": {name: value for name, value in vars(settings).items() if name != "resume"},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - _started, 1),
        "commit": _commit(),
        "versions": _versions(),
        "machine": machine(),
    }
    try:
        text = json.dumps(record, indent=2, default=str, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise FloatingPointError("a measured value is not finite") from None
    partial = folder / "result.json.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / "result.json")
    return record


@cache
def _commit() -> str | None:
    """The commit of the checkout that holds this file, with a "+" if tracked files differ."""
    root = Path(__file__).resolve().parents[1]
    only_here = {"GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_OPTIONAL_LOCKS": "0"}
    command = ("git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+")
    try:
        described = subprocess.run(
            command, cwd=root, env=os.environ | only_here, capture_output=True, text=True
        )
    except OSError:
        return None
    return described.stdout.strip() or None


def _versions() -> dict[str, str]:
    """The versions of Python, jaxnn and the installed ones of `LIBRARIES`."""
    found = {"python": platform.python_version(), "jaxnn": jaxnn.__version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    """The processor's name, which Python does not know on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
