"""A run that is killed at random moments ends with the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def life(folder: Path, cache: Path) -> subprocess.Popen:
    """A process that begins the run, or goes on with it."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.killed", str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def killed_and_compared(signals, tmp_path) -> Counter:
    """Send each signal at a random moment; whenever a run comes to its end, compare it.

    Returns:
        How many processes each signal ended, and how many runs came to their end.
    """
    chance, counts, left = random.Random(1), Counter(), list(signals)
    alone = tmp_path / "alone"
    alone.mkdir()
    with life(alone, tmp_path / "cache") as process:
        process.stdout.readline()
        begun = time.perf_counter()
        assert process.wait(120) == 0
    span = time.perf_counter() - begun
    with np.load(alone / "result.npz") as found:
        expected = dict(found)
    folder = None
    while left or folder is not None:
        if folder is None:
            folder = tmp_path / f"run {counts['runs']}"
            folder.mkdir()
        with life(folder, tmp_path / "cache") as process:
            process.stdout.readline()
            try:
                process.wait(chance.uniform(0, span) if left else 120)
            except subprocess.TimeoutExpired:
                process.send_signal(left[-1])
                if process.wait(60) != 0:  # it did not come too late
                    counts[left.pop()] += 1
            else:
                assert process.returncode == 0, "it ended by itself, with an error"
        if process.returncode == 0:
            with np.load(folder / "result.npz") as found:
                assert set(found) == set(expected)
                for name, array in expected.items():
                    np.testing.assert_array_equal(found[name], array, err_msg=name)
            counts["runs"] += 1
            folder = None
    return counts


@pytest.mark.thorough
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGKILL] * 100, [signal.SIGTERM, signal.SIGINT] * 50],
    ids=["kill -9", "SIGTERM and Ctrl-C"],
)
def test_a_hundred(signals, tmp_path):
    counts = killed_and_compared(signals, tmp_path)
    print(counts)
    assert sum(counts[number] for number in set(signals)) == 100
    assert counts["runs"] >= 5


def test_one_of_each(tmp_path):
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    counts = killed_and_compared(signals, tmp_path)
    assert [counts[number] for number in signals] == [1, 1, 1]
    assert counts["runs"] >= 1
