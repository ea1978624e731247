"""The result of a check, as text and as data."""

import sysconfig
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from pathlib import PurePath
from typing import Any, NamedTuple

RANKS = ("right", "WRONG", "not tested", "could not be run")
_FOREIGN = (  # the folders of jaxnn, of installed packages and of Python
    str(PurePath(__file__).parent.parent),
    *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")),
)
HEADER = ("argument", "array", "error", "verdict")
CELL = "text-align: left; padding: 2px 16px 2px 0"
COLOURS = {"right": "#137333", "WRONG": "#b3261e"}


class GradientMismatch(AssertionError):
    """A wrong backward; the message is the report."""


class Finding(NamedTuple):
    """A broken law.

    Attributes:
        law: the name of the law.
        leaf: the path of the array at fault, such as `params['w']`; "" if several are affected.
        error: the relative error, or `nan` if there is none to measure.
        message: a sentence.
    """

    law: str
    leaf: str
    error: float
    message: str


def broken(law: str, message: str) -> Finding:
    """A finding that concerns no single array."""
    return Finding(law, "", float("nan"), message)


def broken_at(law: str, path: str, message: str, error: float = float("nan")) -> Finding:
    """A finding about the gradient of one array."""
    return Finding(law, path, error, f"d_{path} {message}")


class Row(NamedTuple):
    """One array of the arguments.

    Attributes:
        leaf: its path, such as `params['w']`.
        array: its dtype and shape.
        error: ‖gradient − truth‖/‖truth‖, or `nan` if there is none.
        verdict: "right", "WRONG", "not tested" (both are zero) or "no gradient" (not floating).
    """

    leaf: str
    array: str
    error: float
    verdict: str


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        name: the name of the op, layer or function.
        rows: a row for each array of the arguments.
        findings: the broken laws; empty if all hold.
        notes: remarks, such as one on a point where the function is not smooth.
        laws: the laws that were tried.
        seed: the seed of the cotangents.
        reproduce: the line that repeats the check.
        search: the function that finds the repairs.
    """

    name: str
    rows: list[Row]
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)
    laws: list[str] = field(default_factory=list)
    seed: int = 0
    reproduce: str = ""
    search: Callable[[], list[str]] = field(default=list, repr=False, compare=False)

    @cached_property
    def repairs(self) -> list[str]:
        """For each mistake whose line is known, a sentence with the line and its repair.

        The first access starts the search, which takes a few seconds.
        """
        return [] if self.ok else self.search()

    @property
    def ok(self) -> bool:
        """Whether no law is broken and at least one gradient is right and nonzero."""
        return not self.findings and any(row.verdict == "right" for row in self.rows)

    @property
    def verdict(self) -> str:
        """One of `RANKS`: "right", "WRONG", "not tested" and "could not be run".

        "not tested": every gradient is zero, as it should be, so a mistake could not show.
        "could not be run": the code, as called, gives no gradient to compare.
        """
        if self.ok:
            return "right"
        if not self.findings:
            return "not tested"
        could_run = any(finding.law != "runs" for finding in self.findings)
        return "WRONG" if could_run else "could not be run"

    def raise_if_failed(self) -> None:
        """Raise `GradientMismatch` with the report unless the verdict is "right"."""
        __tracebackhide__ = True  # pytest then shows the line of the test
        if not self.ok:
            raise GradientMismatch(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "search"}
        return (
            {"ok": self.ok, "verdict": self.verdict}
            | plain
            | {
                "rows": [row._asdict() for row in self.rows],
                "findings": [finding._asdict() for finding in self.findings],
                "repairs": self.repairs,
            }
        )

    def __str__(self) -> str:
        parts = [table([HEADER, *map(_cells, self.rows)])] if self.rows else []
        parts += ["\n".join(sentences) for sentences in self._paragraphs()]
        return "\n\n".join([f"{self.name}: {self.verdict}", *parts])

    def _repr_html_(self) -> str:
        """The report as HTML, for notebooks."""
        head = f"{escape(self.name)}: {_coloured(self.verdict)}"
        parts = [f"<p><b>{head}</b></p>"]
        if self.rows:
            rows = [_html_row("th", map(escape, HEADER))]
            for row in self.rows:
                *cells, verdict = _cells(row)
                rows.append(_html_row("td", [*map(escape, cells), _coloured(verdict)]))
            parts.append(f"<table>{''.join(rows)}</table>")
        parts += [f"<p>{'<br>'.join(map(escape, lines))}</p>" for lines in self._paragraphs()]
        return "\n".join(parts)

    def _paragraphs(self) -> list[list[str]]:
        """The sentences below the table: findings, repairs, notes, and how to repeat the check."""
        messages = _messages(self.findings)
        again = [] if self.ok or not self.reproduce else [f"again: {self.reproduce}"]
        return [lines for lines in (messages, self.repairs, self.notes, again) if lines]


def _messages(findings: list[Finding]) -> list[str]:
    """The sentences of the findings; one that holds for several arrays appears once."""
    said: dict[str, list[Finding]] = {}
    for finding in findings:
        said.setdefault(finding.message.removeprefix(f"d_{finding.leaf} "), []).append(finding)
    messages = []
    for first, *others in said.values():
        names = list(dict.fromkeys(f"d_{f.leaf}" for f in others if f.leaf != first.leaf))
        named = " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])
        messages.append(f"{first.message}; the same holds for {named}" if names else first.message)
    return messages


def table(rows) -> str:
    """Rows of cells in aligned columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def in_one_line(error: BaseException) -> str:
    """The type of an exception, the first line of its message, and the author's line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}{_place_of(error)}"


def _place_of(error) -> str:
    """The last line of the author's own code in the traceback of an exception."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line and not frame.filename.startswith(_FOREIGN)
    ]
    if not frames:
        return ""
    return f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})"


def _cells(row) -> tuple[str, ...]:
    error = "" if row.error != row.error else f"{row.error:.1e}"
    return row.leaf, row.array, error, row.verdict


def _coloured(verdict: str) -> str:
    colour = COLOURS.get(verdict)
    return f'<span style="color: {colour}">{escape(verdict)}</span>' if colour else escape(verdict)


def _html_row(tag: str, cells: Iterable[str]) -> str:
    row = "".join(f'<{tag} style="{CELL}">{cell}</{tag}>' for cell in cells)
    return f"<tr>{row}</tr>"
