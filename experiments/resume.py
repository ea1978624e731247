"""Runs that resume after an interruption: their settings, their checkpoints and what they measured.

All of it lies in the folder `checkpoint` of the output folder: `settings.json`, and a folder for
each network that is trained.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jaxnn

SECONDS = 5.0  # between two saves


class CannotResume(ValueError):
    """This run cannot resume from the checkpoint."""


def folder(args: argparse.Namespace, network: str) -> Path:
    """The folder of a network's checkpoint."""
    return _root(args) / re.sub(r"\W+", "_", network)


def begin(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Remove the checkpoint of an earlier run; with `--resume`, see that this run continues it.

    Leaves with an error if the settings differ, or if the folder holds something else.
    """
    root, file = _root(args), _root(args) / "settings.json"
    now = {"experiment": parser.prog.rpartition(".")[2]} | {
        "--" + name.replace("_", "-"): _shown(value)
        for name, value in vars(args).items()
        if name not in ("output", "resume")
    }
    before = json.loads(file.read_text()) if file.is_file() else None
    if before is None and root.exists() and not _is_empty(root):
        parser.error(f"{root} is in the way: it is not the checkpoint of an experiment")
    if args.resume and before is None:
        print(f"there is no run to resume in {args.output}: a new one begins")
    elif args.resume and before != now:
        parser.error(
            f"--resume: the run in {args.output} was begun with {_difference(before, now)}; give "
            "the same settings again, or omit --resume to begin a new run"
        )
    elif not args.resume and before is not None:
        _clear(root, file)
    root.mkdir(exist_ok=True)
    partial = args.output / "settings.json.partial"
    partial.write_text(json.dumps(now, indent=2) + "\n")
    partial.replace(file)


class Recorder:
    """A callback of `fit` that measures something after each epoch and keeps it in a file.

    A resumed run measures the epochs again that its checkpoint lacks.

    Args:
        folder: that of the checkpoint.
        measure: what to measure, as a function of the `Training`; JSON must be able to hold it.
    """

    def __init__(self, folder: Path, measure: Callable[[jaxnn.Training], Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.measure = folder / "measured.jsonl", measure
        self.measured: dict[int, Any] = {}
        text = self.path.read_text() if self.path.is_file() else ""
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):  # the process was killed while it wrote the line
                epoch, measured = json.loads(line)
                self.measured[epoch] = measured
        if text and not text.endswith("\n"):
            self._append("\n")

    def __call__(self, training: jaxnn.Training) -> None:
        """Measure the epoch that has just ended."""
        measured = self.measure(training)
        self._append(json.dumps([training.epoch, measured]) + "\n")
        self.measured[training.epoch] = measured

    def epochs(self, training: jaxnn.Training) -> list:
        """What was measured after each epoch of a run.

        Raises:
            CannotResume: the file lacks an epoch.
        """
        epochs = range(1, training.epoch + 1)
        missing = [epoch for epoch in epochs if epoch not in self.measured]
        if missing:
            raise CannotResume(f"{self.path} lacks epoch {missing[0]}, which the checkpoint has")
        return [self.measured[epoch] for epoch in epochs]

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


def _root(args) -> Path:
    return args.output / "checkpoint"


def _is_empty(root: Path) -> bool:
    return root.is_dir() and not any(root.iterdir())


def _clear(root: Path, file: Path) -> None:
    """Remove everything but the settings, by which the folder is known."""
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != file:
            path.unlink()


def _shown(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _difference(before: dict[str, str], now: dict[str, str]) -> str:
    if before["experiment"] != now["experiment"]:
        return f"experiments.{before['experiment']}, not experiments.{now['experiment']}"
    return " and ".join(
        f"{name} {before.get(name, 'unknown')}, not {value}"
        for name, value in now.items()
        if before.get(name) != value
    )
