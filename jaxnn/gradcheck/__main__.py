"""Check every hand-written backward in a file."""

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jaxnn.gradcheck.files.arguments import arguments
from jaxnn.gradcheck.files.discovery import Target, targets
from jaxnn.gradcheck.files.guessing import check_at_guesses
from jaxnn.gradcheck.files.loading import File, Unusable, loaded
from jaxnn.gradcheck.report import RANKS, Report, broken, in_one_line

PROGRAM = "python -m jaxnn.gradcheck"
EPILOG = """\
It checks pairs of functions, such as NAME_forward and NAME_backward, NAME_fwd and NAME_bwd, or NAME
and NAME_prime; classes with forward and backward, fprop and bprop, and so on; functions that return
a loss and its gradients; jax.custom_vjp functions; and jaxnn ops and layers. This includes targets
that the file imports from the author's other files. It runs the imports and definitions of the
file, without a sandbox, but not the training. Arguments come from the function

    def examples():
        return {"NAME": (x, w), "OTHER": ((x,), {"option": 0.5}), "Class": (Class(…), x)}

in the file or in the one given by --examples, or from jaxtyping annotations such as
Float[Array, "N I"]. Without either, the usual shapes are tried until the code runs, and the report
states which ones were used.

exit status: 0 everything that could be checked is right; 1 something is wrong, was not tested or
does not run with the given arguments; 2 nothing could be checked
"""


def main(argv: list[str] | None = None) -> int:
    """Check the file given on the command line, print the reports and return the exit status."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="the Python file to check")
    parser.add_argument("--examples", type=Path, help="a Python file that defines examples()")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(argv)
    try:
        with _prints_to_stderr(), loaded(options.file, options.examples) as file:
            found = targets(file)
            reports, failed, unknown = _check(found, file, options.seed, _command(options))
            remarks = [*file.remarks, *_remarks(found, file, unknown, options.file)]
    except Unusable as error:
        reports, failed, remarks = [], False, [str(error)]
    print(_json(reports, remarks, failed) if options.json else _text(reports), end="")
    for remark in remarks:
        print(f"{PROGRAM}: {remark}", file=sys.stderr)
    return _status(reports, failed)


def _command(options) -> str:
    """The command that repeats the check."""
    examples = ["--examples", str(options.examples)] if options.examples is not None else []
    given = shlex.join([str(options.file), *examples, "--seed", str(options.seed)])
    return f"{PROGRAM} {given}"


def _check(found, file, seed, again) -> tuple[list[Report], bool, list[str]]:
    """The reports, whether any of them failed, and the names of the targets without arguments."""
    reports, failed, unknown = [], False, []
    for target in found:
        given = arguments(target, file.examples, seed)
        try:
            if given is None:
                report = check_at_guesses(target, file, seed)
            else:
                report = target.check(*given[0], seed=seed, **given[1])
        except (Exception, SystemExit) as error:
            report = _not_run(target, in_one_line(error), seed)
        if report is None:
            unknown.append(target.name)
            continue
        reports.append(replace(report, name=target.name, reproduce=again))
        failed |= not report.ok and (given is not None or report.verdict != "could not be run")
    return reports, failed, unknown


def _not_run(target: Target, message: str, seed: int) -> Report:
    """The report of a check that raised."""
    return Report(target.name, [], [broken("runs", message)], laws=["runs"], seed=seed)


def _remarks(found, file: File, unknown, path) -> Iterator[str]:
    """Remarks on what was not checked."""
    if not found:
        yield f"nothing in {path} has both a forward and a backward"
    for key in file.examples:
        if not any(key in target.keys for target in found):
            yield f"examples() names {key}, but {path} defines nothing of that name to check"
    if unknown:
        *others, last = unknown
        names = f"{', '.join(others)} and {last}" if others else last
        yield (
            f"no arguments are known for {names}: write a function examples() that returns "
            f"{{{last!r}: (its arguments, …)}}, or annotate the parameters with jaxtyping"
        )


def _status(reports, failed) -> int:
    if failed:
        return 1
    return 0 if any(report.ok for report in reports) else 2


def _text(reports) -> str:
    """One line for each right backward, the full report for each other one, and a summary line."""
    lines = [
        "\n".join([f"{report.name}: right", *report.notes]) if report.ok else f"{report}\n"
        for report in reports
    ]
    counts = Counter(report.verdict for report in reports)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in RANKS if counts[verdict])
    return "".join(f"{line}\n" for line in [*lines, summary] if line)


def _json(reports, remarks, failed) -> str:
    """The reports as JSON, with null for NaN."""
    found = {
        "ok": _status(reports, failed) == 0,
        "reports": [report.to_dict() for report in reports],
        "remarks": remarks,
    }
    plain = json.loads(json.dumps(found, default=str), parse_constant=lambda name: None)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send the output of the author's code to stderr, even if it writes to the file descriptor."""
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            stdout = os.dup(1)
            os.dup2(2, 1)
        except OSError:  # no file descriptor
            yield
            return
        try:
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)


if __name__ == "__main__":
    sys.exit(main())
