"""Callbacks of `fit`: early stopping, the best parameters, and logs.

A callback is a function of the `Training` after an epoch; one that returns true ends the run. All
of these read only the history of the run, so a run that resumes after a crash stops where it would
have stopped, and its log has each epoch once.
"""

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from jaxnn.training.checkpoint import save_params
from jaxnn.training.state import Training


class _Monitor:
    """The base of `EarlyStopping` and `KeepBest`, with the number that they monitor.

    Attributes:
        monitor: its name in the history.
        mode: "min" if smaller is better, "max" if larger is.
    """

    def __init__(self, monitor: str, mode: str):
        if mode not in ("min", "max"):
            raise ValueError(f"{type(self).__name__}: mode must be 'min' or 'max', got {mode!r}")
        self.monitor, self.mode = monitor, mode

    def numbers(self, training: Training) -> list[float]:
        """The history of the number, so that smaller is better."""
        numbers = training.history.get(self.monitor)
        if not numbers:
            known = ", ".join(map(repr, training.history))
            raise ValueError(
                f"{type(self).__name__}: the history has no {self.monitor!r}; it has {known}"
            )
        sign = 1 if self.mode == "min" else -1
        return [math.inf if math.isnan(n) else sign * n for n in numbers]


class EarlyStopping(_Monitor):
    """End a run when a number in the history no longer improves.

    Args:
        monitor: its name, such as "validation_loss" or "validation_accuracy".
        mode: "min" if smaller is better, "max" if larger is.
        patience: the number of epochs without improvement after which the run ends.
        min_delta: the amount by which a number must beat the best before it to count as an
            improvement.

    Raises:
        ValueError: mode is unknown, patience is not a positive integer, min_delta is negative, or,
            in the run, the history has no such number.

    Example:
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> net = jaxnn.mlp((1, 1))
        >>> training = jaxnn.fit(
        ...     net, jaxnn.squared_error, net.init(jax.random.key(0)), (x, 2 * x), epochs=1000,
        ...     callbacks=jaxnn.EarlyStopping("loss", patience=3, min_delta=1e-6),
        ... )
        >>> training.epoch < 1000
        True
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        mode: str = "min",
        patience: int = 5,
        min_delta: float = 0.0,
    ):
        super().__init__(monitor, mode)
        if type(patience) is not int or patience < 1:
            raise ValueError(
                f"EarlyStopping: patience must be a positive integer, got {patience!r}"
            )
        if not min_delta >= 0:
            raise ValueError(f"EarlyStopping: min_delta must be at least 0, got {min_delta!r}")
        self.patience, self.min_delta = patience, min_delta

    def __call__(self, training: Training) -> bool:
        """Whether the run ends."""
        best, waited = math.inf, 0
        for number in self.numbers(training):
            improved = number < best - self.min_delta
            best, waited = (number, 0) if improved else (best, waited + 1)
        return waited >= self.patience


class KeepBest(_Monitor):
    """Keep the parameters of the epoch in which a number in the history was best.

    Args:
        path: the file that `save_params` writes them to.
        monitor: the name of the number, such as "validation_loss" or "validation_accuracy".
        mode: "min" if smaller is better, "max" if larger is.

    Raises:
        ValueError: mode is unknown, or, in the run, the history has no such number.

    Example:
        >>> import tempfile
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> net, best = jaxnn.mlp((1, 1)), tempfile.mkdtemp() + "/best.safetensors"
        >>> training = jaxnn.fit(
        ...     net, jaxnn.squared_error, net.init(jax.random.key(0)), (x, 2 * x),
        ...     callbacks=jaxnn.KeepBest(best, "loss"),
        ... )
        >>> params = jaxnn.load_params(best, like=training.params)
    """

    def __init__(
        self, path: str | os.PathLike, monitor: str = "validation_loss", *, mode: str = "min"
    ):
        super().__init__(monitor, mode)
        self.path = Path(path)

    def __call__(self, training: Training) -> None:
        """Write the parameters if the last epoch was the best."""
        *before, last = self.numbers(training)
        if last < min(before, default=math.inf) or not before:
            save_params(self.path, training.params)


class LogCSV:
    """Write the history to a CSV file, a line for each epoch.

    Args:
        path: the file; its folder is created if it does not exist.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> net = jaxnn.mlp((1, 1))
        >>> params = net.init(jax.random.key(0))
        >>> log = jaxnn.LogCSV(path)
        >>> training = jaxnn.fit(net, jaxnn.squared_error, params, (x, x), epochs=2, callbacks=log)
        >>> path.read_text().splitlines()[0]
        'epoch,loss,seconds'
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.written = 0

    def __call__(self, training: Training) -> None:
        """Append the last epoch, or start the file with all epochs so far."""
        names = ["epoch", *(name for name, numbers in training.history.items() if numbers)]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        first = self.written != training.epoch - 1 or self.written == 0
        if first:
            writer.writeheader()
        for row in _rows(training, 0 if first else self.written):
            writer.writerow(row)
        _write(self.path, text.getvalue(), anew=first)
        self.written = training.epoch


class LogJSONLines:
    """Write the history to a file of JSON lines, an object for each epoch.

    Args:
        path: the file; its folder is created if it does not exist.

    Example:
        >>> import json, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> net = jaxnn.mlp((1, 1))
        >>> params = net.init(jax.random.key(0))
        >>> log = jaxnn.LogJSONLines(path)
        >>> training = jaxnn.fit(net, jaxnn.squared_error, params, (x, x), epochs=2, callbacks=log)
        >>> [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        [1, 2]
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.written = 0

    def __call__(self, training: Training) -> None:
        """Append the last epoch, or start the file with all epochs so far."""
        first = self.written != training.epoch - 1 or self.written == 0
        rows = _rows(training, 0 if first else self.written)
        _write(self.path, "".join(json.dumps(row) + "\n" for row in rows), anew=first)
        self.written = training.epoch


class LogTensorBoard:
    """Write the history to event files that TensorBoard shows.

    It needs the extra `tensorboard`: `pip install 'jaxnn[tensorboard]'`.

    Args:
        folder: the folder of the event files. A run that resumes adds a file, which replaces the
            epochs of earlier files from its start on.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            import tensorboardX
        except ImportError:
            raise ImportError(
                "LogTensorBoard: tensorboardX is not installed: pip install 'jaxnn[tensorboard]'"
            ) from None
        self.folder = Path(folder)
        self._writer_class = tensorboardX.SummaryWriter
        self._writer: Any = None

    def __call__(self, training: Training) -> None:
        """Add the last epoch."""
        if self._writer is None:
            self._writer = self._writer_class(
                str(self.folder), purge_step=training.epoch, flush_secs=1
            )
        for name, numbers in training.history.items():
            if numbers:
                self._writer.add_scalar(name, numbers[-1], training.epoch)


def _rows(training: Training, start: int) -> list[dict]:
    """The epochs from `start` on, a dict each; shorter histories are aligned at their end."""
    rows = []
    for epoch in range(start, training.epoch):
        row: dict[str, float] = {"epoch": epoch + 1}
        for name, numbers in training.history.items():
            place = epoch - (training.epoch - len(numbers))
            if numbers and place >= 0:
                row[name] = numbers[place]
        rows.append(row)
    return rows


def _write(path: Path, text: str, anew: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w" if anew else "a", encoding="utf-8") as file:
        file.write(text)
