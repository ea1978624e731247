"""Check every hand-written backward in a file."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxnn.gradcheck import discovery
from jaxnn.gradcheck.discovery import Unusable
from jaxnn.gradcheck.report import in_one_line

EPILOG = """\
It checks pairs NAME_fwd, NAME_bwd against NAME_definition or NAME; pairs NAME_forward,
NAME_backward written with NumPy; jax.custom_vjp functions; jaxnn ops and layers; and classes with
forward and backward. Arguments come from the file's function

    def examples():
        return {"NAME": (x, w), "OTHER": ((x,), {"option": 0.5}), "Class": (Class(…), x)}

or from jaxtyping's annotations, such as Float[Array, "N I"].

exit status: 0 everything is right; 1 something is wrong or was not tested; 2 something cannot be
checked: no such file, the file raises, nothing in it has a backward, no arguments are known
"""


def main(argv: list[str] | None = None) -> int:
    """Run the checks of the command line, print the reports, and give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxnn.gradcheck",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a Python file")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        module = discovery.load(options.file)
        targets = discovery.targets(module)
        if not targets:
            raise Unusable(f"nothing in {options.file} has a forward and a backward")
        examples = discovery.examples(module)
    except Unusable as error:
        parser.exit(2, f"{parser.prog}: {error}\n")

    reports, unusable = [], []
    for target in targets:
        try:
            reports.append(_report(target, examples, options.seed))
        except Unusable as error:
            unusable.append(str(error))
    if options.json:
        print(_json(reports, unusable))
    else:
        _print(reports)
    for message in unusable:
        print(f"{parser.prog}: {message}", file=sys.stderr)
    if not all(report.ok for report in reports):
        return 1
    return 2 if unusable else 0


def _report(target, examples, seed):
    args, options = discovery.arguments(target, examples, seed)
    try:
        return replace(target.check(*args, seed=seed, **options), name=target.name)
    except Exception as error:
        raise Unusable(f"{target.name}: {in_one_line(error)}") from error


def _print(reports) -> None:
    """One line for each right backward, the full report for the others, and a summary line."""
    for report in reports:
        print("\n".join([f"{report.name}: right", *report.notes]) if report.ok else f"{report}\n")
    verdicts = Counter(
        "right" if report.ok else "WRONG" if report.findings else "not tested" for report in reports
    )
    print(", ".join(f"{verdicts[v]} {v}" for v in ("right", "WRONG", "not tested") if verdicts[v]))


def _json(reports, unusable) -> str:
    """The reports as JSON, in which a number that is none is null."""
    found = {
        "ok": not unusable and all(report.ok for report in reports),
        "reports": [report.to_dict() for report in reports],
        "unusable": unusable,
    }
    plain = json.loads(json.dumps(found), parse_constant=lambda name: None)
    return json.dumps(plain, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
