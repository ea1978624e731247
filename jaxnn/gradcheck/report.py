"""The result of a check, for people to read and for programs to use."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class GradientMismatch(AssertionError):
    """A wrong backward; the message is the report."""


class Finding(NamedTuple):
    """One way in which a law is broken.

    Attributes:
        law: the name of the law.
        leaf: the path of the array at fault, such as `params['w']`; "" if it is no single one.
        error: the relative error, or `nan` where there is none to measure.
        message: a sentence.
    """

    law: str
    leaf: str
    error: float
    message: str


def broken(law: str, message: str) -> Finding:
    """A broken law for which no single array is at fault."""
    return Finding(law, "", float("nan"), message)


def broken_at(law: str, path: str, message: str, error: float = float("nan")) -> Finding:
    """A broken law with the array whose gradient is at fault."""
    return Finding(law, path, error, f"d_{path} {message}")


class Row(NamedTuple):
    """One array of the arguments.

    Attributes:
        leaf: its path, such as `params['w']`.
        array: its dtype and shape.
        error: ‖gradient − truth‖/‖truth‖, `nan` where there is none.
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
        name: of the op, layer or function.
        rows: a row for each array of the arguments.
        findings: the broken laws; empty if all hold.
        notes: remarks, such as one on a point where the function is not smooth.
        laws: the laws that were tried.
        seed: the seed of the cotangents.
        reproduce: the line that repeats the check.
    """

    name: str
    rows: list[Row]
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)
    laws: list[str] = field(default_factory=list)
    seed: int = 0
    reproduce: str = ""

    @property
    def ok(self) -> bool:
        """No law is broken, and at least one gradient is right and not zero."""
        return not self.findings and any(row.verdict == "right" for row in self.rows)

    def raise_if_failed(self) -> None:
        """Raise `GradientMismatch` with the report if something is wrong or nothing was tested."""
        if not self.ok:
            raise GradientMismatch(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return (
            {"ok": self.ok}
            | asdict(self)
            | {
                "rows": [row._asdict() for row in self.rows],
                "findings": [finding._asdict() for finding in self.findings],
            }
        )

    def __str__(self) -> str:
        verdict = "right" if self.ok else "WRONG" if self.findings else "not tested"
        lines = [f"{self.name}: {verdict}"]
        if self.rows:
            lines += [
                "",
                table([("argument", "array", "error", "verdict"), *map(_cells, self.rows)]),
            ]
        if self.findings:
            lines += ["", *dict.fromkeys(finding.message for finding in self.findings)]
        if self.notes:
            lines += ["", *self.notes]
        if not self.ok:
            lines += ["", f"again: {self.reproduce}"]
        return "\n".join(lines)


def table(rows) -> str:
    """Rows of cells in aligned columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def in_one_line(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _cells(row) -> tuple[str, ...]:
    error = "" if row.error != row.error else f"{row.error:.1e}"
    return row.leaf, row.array, error, row.verdict
