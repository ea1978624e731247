"""Programs measured in processes of their own, where nothing else fights for the processor."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class NotInstalled(Exception):
    """A library that a row needs is missing."""


def measured_process(platform: str, *arguments: str) -> dict[str, Any]:
    """Run Python and return the figures that it prints as JSON in its last line.

    It may write bytecode, so that a module of this repository is no longer in loading, after the
    first time, than those of installed libraries.

    The process prints `finished_at`, of the clock `time.monotonic`, which all processes share; it
    comes back as `seconds_from_start`.

    Args:
        platform: "cpu" hides every accelerator from the process.
        *arguments: of Python.

    Raises:
        RuntimeError: the process failed; the message is its error output.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if platform == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    started_at = time.monotonic()
    process = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{process.stderr}")
    figures = json.loads(process.stdout.splitlines()[-1])
    return figures | {"seconds_from_start": figures.pop("finished_at") - started_at}
