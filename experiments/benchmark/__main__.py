"""Command line of the benchmarks.

python -m experiments.benchmark SUITE
"""

import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import jax
from tqdm import tqdm

import experiments.benchmark
from experiments import common
from experiments.benchmark import (
    attention,
    ops,
    peers,
    per_example,
    report,
    scaling,
    startup,
    training,
)
from experiments.benchmark.processes import NotInstalled
from experiments.benchmark.timing import Row, compile_all, platforms

SUITES = {
    suite.__name__.rpartition(".")[2]: suite
    for suite in (ops, training, attention, per_example, peers, scaling, startup)
}


def run(args: Namespace, suite: ModuleType) -> bool:
    """Measure the rows asked for on every platform, print the table and write everything.

    The results are written after each row, so that a run that ends early keeps what it has.

    Returns:
        Whether every row was measured, those aside whose libraries are not installed.
    """
    rows = {name: row for name, row in suite.rows(args.seed).items() if args.only in name}
    compile_all([row for row in rows.values() if isinstance(row, Row)], args.platform)
    measured, skipped, failed = {}, {}, {}
    for name, measure in rows.items():
        try:
            measured[name] = {p: measure(p, args.pairs) for p in args.platform}
        except NotInstalled as reason:
            skipped[name] = str(reason)
            tqdm.write(f"skipped: {name}: {reason}")
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            tqdm.write(f"failed: {name}: {failed[name]}", file=sys.stderr)
        result = {"rows": measured, "skipped": skipped, "failed": failed}
        record = common.write_result(args.output, args, result)
        if measured:
            text = _text(suite, measured, record)
            (args.output / "table.md").write_text(text)
    if measured:
        print(text, end="")
        _draw(args, suite, measured)
    return not failed


def _draw(args, suite, measured):
    found = dict.fromkeys(platform for row in measured.values() for platform in row)
    common.save_pictures(
        args.output,
        **{
            f"{args.suite}_{platform}": suite.draw(
                {name: row[platform] for name, row in measured.items()}
            )
            for platform in found
        },
    )


def _text(suite: ModuleType, measured: report.Measured, record: dict) -> str:
    """The title, the machine, the versions and the commit, the table, and its legend."""
    machine, commit = record["machine"], record["commit"] or "unknown"
    return (
        f"## {suite.__doc__.splitlines()[0].rstrip('.')}\n\n"
        f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}, "
        f"JAX {jax.__version__}; medians and quartiles of {record['settings']['pairs']} pairs; "
        f"commit {commit[:9]}, {record['date'][:10]}\n\n"
        f"{report.table(measured, suite.HEADERS, suite.cells)}\n\n{suite.LEGEND}\n"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("benchmark", experiments.benchmark.__doc__.splitlines()[0])
    parser.set_defaults(output=Path("results", "benchmark", "SUITE"))
    parser.add_argument("suite", metavar="SUITE", choices=SUITES, help=", ".join(SUITES))
    parser.add_argument(
        "--pairs",
        type=common.integer(15),
        default=15,
        metavar="N",
        help="measurements of both sides, at least 15 (default: %(default)s)",
    )
    parser.add_argument(
        "--platform",
        nargs="+",
        choices=platforms(),
        default=platforms(),
        help="the platforms to measure on (default: %(default)s)",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows with this in the name")
    args = parser.parse_args(arguments)
    if args.output == parser.get_default("output"):
        args.output = args.output.with_name(args.suite)
    parser.make_folder(args.output)
    suite = SUITES[args.suite]
    if not any(args.only in name for name in suite.rows(args.seed)):
        parser.error(f"no row of {args.suite} has {args.only!r} in its name")
    if not parser.run(run, args, suite):
        sys.exit(1)


if __name__ == "__main__":
    main()
