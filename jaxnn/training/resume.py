"""A run of training saved in a folder, from which it resumes automatically."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnn.training.checkpoint import load_metadata, load_params, save_params
from jaxnn.training.state import Training

FILE = "training.safetensors"
ARRAYS = ("params", "opt_state", "state", "key", "partial_loss")


class Checkpoint:
    """The file of a run.

    Args:
        folder: the folder of the file; created if it does not exist.
        seconds: the time between two saves.
        settings: the settings that must be the same when the run resumes within an epoch.
    """

    def __init__(self, folder: str | os.PathLike, seconds: float, settings: dict[str, Any]):
        self.folder, self.seconds, self.settings = Path(folder), seconds, settings
        self.folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            for left_by_a_crash in self.folder.glob(f".{FILE}.*.partial"):
                left_by_a_crash.unlink(missing_ok=True)
        _wait_for_all_processes()
        self.saved_at = time.monotonic()

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE

    @property
    def is_due(self) -> bool:
        """Whether the last save was long enough ago."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, training: Training, complete: bool = False) -> None:
        """Write the run, whole or not at all."""
        facts = {
            "epoch": training.epoch,
            "step": training.step,
            "history": training.history,
            "settings": self.settings,
            "complete": complete,
        }
        arrays = {name: getattr(training, name) for name in ARRAYS}
        save_params(self.path, arrays, metadata={"training": json.dumps(facts)})
        _wait_for_all_processes()
        self.saved_at = time.monotonic()

    def load(self, start: Training) -> tuple[Training, bool]:
        """The run in the file, and whether a callback had ended it; without a file, its start.

        Raises:
            ValueError: the file is of another run.
        """
        if not self.path.is_file():
            return start, False
        facts = load_metadata(self.path).get("training")
        if facts is None:
            raise ValueError(f"fit: {self.path} is not a checkpoint of fit")
        facts = json.loads(facts)
        like = {name: getattr(start, name) for name in ARRAYS}
        try:
            arrays = load_params(self.path, like)
        except ValueError as error:
            raise ValueError(
                f"fit: the checkpoint does not fit this network and this optimizer: {error}"
            ) from error
        begun, now = map(jax.random.key_data, (arrays["key"], start.key))
        if not np.array_equal(begun, now):
            raise ValueError(f"fit: the run in {self.path} was started with another seed")
        for name, now in self.settings.items():
            before = facts["settings"][name]
            if facts["step"] and before != now:
                raise ValueError(
                    f"fit: the run in {self.path} stopped within an epoch with {name} {before}, "
                    f"so it cannot resume with {name} {now}"
                )
        training = replace(
            start, **arrays, epoch=facts["epoch"], step=facts["step"], history=facts["history"]
        )
        return training, facts["complete"]


def _wait_for_all_processes() -> None:
    """Process 0 writes: no other one reads before it has, or writes while they read."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxnn.fit")
