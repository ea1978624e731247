"""Contestants measured in turn, and the ratio of the first to each of the others."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from tqdm import tqdm

LEAST_SECONDS, MOST_RUNS = 0.05, 100  # one measurement repeats a run until it has one of them

Measurement = TypeVar("Measurement")


class Contestant(NamedTuple):
    """A compiled program.

    Attributes:
        run: runs it once and waits for its end.
        costs: what the compiler says that it takes.
    """

    run: Callable[[], None]
    costs: dict[str, float]


class Row:
    """A row of a suite whose programs can be compiled before any of the suite is measured.

    Args:
        compiled: `platform -> programs`.
        measured: `(programs, rounds) -> figures`.
    """

    def __init__(
        self,
        compiled: Callable[[str], Any],
        measured: Callable[[Any, int], dict[str, Any]],
    ):
        self._compiled, self._measured = compiled, measured
        self._programs: dict[str, Any] = {}

    def compile(self, platform: str) -> None:
        """Compile the programs and keep them until they are measured."""
        with on(platform):
            self._programs[platform] = self._compiled(platform)

    def __call__(self, platform: str, rounds: int) -> dict[str, Any]:
        """The figures on a platform."""
        if platform not in self._programs:
            self.compile(platform)
        with on(platform):
            return self._measured(self._programs.pop(platform), rounds)


def compile_all(rows: Iterable[Row], platforms: list[str]) -> None:
    """Compile the programs of these rows, as many at a time as there are processors.

    A row that does not compile raises its error when it is measured.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        compiling = [pool.submit(row.compile, platform) for row in rows for platform in platforms]
        done = as_completed(compiling)
        list(tqdm(done, "compiling", len(compiling), unit="row", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)  # of an interrupted run


def compiled(function: Callable, *args) -> Contestant:
    """A function of these arguments, compiled."""
    return with_arguments(jax.jit(function).lower(*args).compile(), *args)


def with_arguments(program: jax.stages.Compiled, *args) -> Contestant:
    """A compiled program and its arguments."""
    return Contestant(lambda: jax.block_until_ready(program(*args)), costs(program))


def costs(program: jax.stages.Compiled) -> dict[str, float]:
    """Operations, bytes read and written, and temporary memory of a compiled program."""
    analysis = program.cost_analysis() or {}
    return {
        "flops": analysis.get("flops", 0.0),
        "bytes": analysis.get("bytes accessed", 0.0),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


def contest(contestants: dict[str, Contestant], rounds: int, name: str) -> dict[str, Any]:
    """The figures of compiled programs that are measured in turn.

    Args:
        contestants: the programs, that of jaxnn first.
        rounds: how often each is measured.
        name: what the progress bar says.

    Returns:
        The median seconds of each, the quartiles of the ratio of the first to each of the others,
        taken round by round, and the costs of each.
    """
    for contestant in contestants.values():
        contestant.run()
    slowest = max(_seconds(contestant, 1) for contestant in contestants.values())
    repeats = min(math.ceil(LEAST_SECONDS / slowest), MOST_RUNS)

    def measurement(contestant):
        return lambda: _seconds(contestant, repeats)

    seconds = by_turns({n: measurement(c) for n, c in contestants.items()}, rounds, name)
    return {
        **compared(seconds),
        "costs": {name: contestant.costs for name, contestant in contestants.items()},
    }


def by_turns(
    measurements: dict[str, Callable[[], Measurement]], rounds: int, name: str
) -> dict[str, list[Measurement]]:
    """Each measurement once in each round.

    The order is turned round after every round, so that whatever else the machine does weighs on
    all of them.
    """
    measured = {name: [] for name in measurements}
    order = list(measurements)
    for _ in tqdm(range(rounds), desc=name, unit="round", disable=None):
        for which in order:
            measured[which].append(measurements[which]())
        order.reverse()
    return measured


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The median seconds of each, and the ratio of the first to each of the others."""
    first, *others = seconds
    return {
        "seconds": {name: float(np.median(measured)) for name, measured in seconds.items()},
        "ratio": {other: quartiles(np.divide(seconds[first], seconds[other])) for other in others},
    }


def quartiles(numbers: np.ndarray) -> dict[str, float]:
    """The median of numbers, and the quartiles below and above it."""
    q1, median, q3 = np.percentile(numbers, [25, 50, 75])
    return {"q1": float(q1), "median": float(median), "q3": float(q3)}


def platforms() -> list[str]:
    """The processor, and the accelerator that JAX finds."""
    found = []
    for platform in dict.fromkeys(("cpu", jax.default_backend())):
        try:
            jax.devices(platform)
        except RuntimeError:
            continue
        found.append(platform)
    return found


@contextmanager
def on(platform: str) -> Iterator[None]:
    """A context in which arrays are made, and programs run, on the first device of a platform."""
    with jax.default_device(jax.devices(platform)[0]):
        yield


def _seconds(contestant, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        contestant.run()
    return (time.perf_counter() - start) / repeats
