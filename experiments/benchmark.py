"""Benchmarks: the hand-written gradients against autodiff, in time and memory.

python -m experiments.benchmark SUITE
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxnn
from experiments import common
from jaxnn.catalogue import ENTRIES

LEAST_SECONDS = 0.05  # one measurement repeats a run until it lasts so long


class Side(NamedTuple):
    """One side of a comparison: runs its compiled program once, and the memory that takes."""

    run: Callable[[], None]
    temporary_bytes: int


Sides = tuple[Side, Side]  # jaxnn's and autodiff's


def training(seed: int) -> dict[str, Callable[[], Sides]]:
    """An epoch of stochastic gradient descent on random data, of a small and a larger network."""
    shapes = (((64, 128, 10), 64, 1437), ((784, 512, 512, 10), 128, 3840))
    return {
        "-".join(map(str, sizes)): partial(_epochs, sizes, batch_size, n, jax.random.key(seed))
        for sizes, batch_size, n in shapes
    }


def ops(seed: int) -> dict[str, Callable[[], Sides]]:
    """Forward and backward of every op of the catalogue at its benchmark shape, in float32."""
    return {
        f"{entry.op.__name__} {entry.benchmark.name}": partial(
            _forward_and_backward, entry.op, entry.benchmark, seed
        )
        for entry in ENTRIES
    }


SUITES = {"ops": ops, "training": training}


def _forward_and_backward(op, case, seed) -> Sides:
    op = op.bind(**case.options)
    args = case.arguments(seed, jnp.float32)
    dy = jax.tree.map(
        lambda y: jax.random.normal(jax.random.key(seed), y.shape, y.dtype),
        jax.eval_shape(op.definition, *args),
    )

    def by_hand(args, dy):
        y, residuals = op.fwd(*args)
        return y, op.bwd(residuals, dy)

    def by_autodiff(args, dy):
        y, pullback = jax.vjp(op.definition, *args)
        return y, pullback(dy)

    def side(function):
        compiled = jax.jit(function).lower(args, dy).compile()
        temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
        return Side(lambda: jax.block_until_ready(compiled(args, dy)), temporary_bytes)

    return side(by_hand), side(by_autodiff)


def _epochs(sizes, batch_size, n, key) -> Sides:
    net = jaxnn.mlp(sizes)
    params_key, x_key, labels_key = jax.random.split(key, 3)
    params = net.init(params_key)
    x = 0.3 * jax.random.normal(x_key, (n, sizes[0]))  # the spread of MNIST's pixels
    labels = jax.random.randint(labels_key, (n,), 0, sizes[-1])

    ours, theirs = (
        _epoch(way(net, jaxnn.softmax_cross_entropy), batch_size, params, x, labels, key)
        for way in (jaxnn.value_and_grad, common.autodiff)
    )
    return ours, theirs


def _epoch(gradient, batch_size, params, x, labels, key) -> Side:
    optimizer = optax.sgd(0.1)
    state = [jax.tree.map(jnp.copy, params), optimizer.init(params)]
    epoch = jaxnn.epoch_of(gradient, optimizer, batch_size)
    compiled = epoch.lower(*state, x, labels, key).compile()

    def run():
        nonlocal state
        *state, value = compiled(*state, x, labels, key)
        jax.block_until_ready((state, value))

    return Side(run, compiled.memory_analysis().temp_size_in_bytes)


def measure(sides: Sides, pairs: int, name: str) -> np.ndarray:
    """The seconds of one run, shape (pairs, 2).

    The two sides are measured by turns, and take turns in going first, so that whatever else the
    machine does weighs on both.
    """
    for side in sides:
        side.run()
    repeats = math.ceil(LEAST_SECONDS / max(_seconds(side, 1) for side in sides))
    seconds = np.empty((pairs, 2))
    for pair in tqdm(range(pairs), desc=name, unit="pair", disable=None):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            seconds[pair, which] = _seconds(sides[which], repeats)
    return seconds


def _seconds(side, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        side.run()
    return (time.perf_counter() - start) / repeats


def summary(sides: Sides, seconds: np.ndarray) -> dict[str, Any]:
    """Median seconds and temporary memory of both sides; median and quartiles of their ratios."""
    q1, median, q3 = np.percentile(seconds[:, 0] / seconds[:, 1], [25, 50, 75])
    ours, autodiff = np.median(seconds, axis=0)
    return {
        "seconds": {"jaxnn": ours, "autodiff": autodiff},
        "ratio": {"q1": q1, "median": median, "q3": q3},
        "temporary_bytes": {
            "jaxnn": sides[0].temporary_bytes,
            "autodiff": sides[1].temporary_bytes,
        },
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """A table of summaries."""
    lines = [
        "| | jaxnn ms | autodiff ms | ratio [quartiles] | jaxnn KiB | autodiff KiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        times = [f"{1e3 * seconds:.2f}" for seconds in row["seconds"].values()]
        memory = [f"{size / 1024:.1f}" for size in row["temporary_bytes"].values()]
        ratio = "{median:.3f} [{q1:.3f}, {q3:.3f}]".format(**row["ratio"])
        lines.append(f"| {' | '.join([name, *times, ratio, *memory])} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("benchmark", __doc__.splitlines()[0])
    parser.set_defaults(output=Path("results", "benchmark", "SUITE"))
    parser.add_argument("suite", metavar="SUITE", choices=SUITES, help=", ".join(SUITES))
    parser.add_argument(
        "--pairs",
        type=common.integer(15),
        default=31,
        metavar="N",
        help="measurements of both sides, at least 15 (default: %(default)s)",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows with this in the name")
    args = parser.parse_args(arguments)
    if args.output == parser.get_default("output"):
        args.output = args.output.with_name(args.suite)
    parser.make_folder(args.output)
    comparisons = {
        name: build for name, build in SUITES[args.suite](args.seed).items() if args.only in name
    }
    if not comparisons:
        parser.error(f"no row of {args.suite} has {args.only!r} in its name")

    rows = {}
    for name, build in comparisons.items():
        sides = build()
        rows[name] = summary(sides, measure(sides, args.pairs, name))
    machine = common.machine()
    print(
        f"{SUITES[args.suite].__doc__}\n"
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}, "
        f"jax {jax.__version__}, {args.pairs} pairs; ratio: jaxnn to autodiff; KiB: temporary "
        f"memory\n\n{markdown(rows)}"
    )
    common.write_result(args.output, args, {"rows": rows})


if __name__ == "__main__":
    main()
