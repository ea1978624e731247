"""What a check found, for people to read and for programs to use."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class GradientMismatch(AssertionError):
    """A backward that is not right; the message is the report."""


class Finding(NamedTuple):
    """One way in which a law is broken.

    Attributes:
        law: the name of the law.
        leaf: the path of the array at fault, such as `params['w']`; "" where it is none of them.
        error: how far it is off, relative to the truth where there is one; else `nan`.
        message: a sentence.
    """

    law: str
    leaf: str
    error: float
    message: str


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
        name: what was checked.
        rows: a row for each array of the arguments.
        findings: what is wrong; empty if nothing is.
        notes: what to know besides, such as a point where the function is not smooth.
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
        """No law is broken, and at least one gradient was told apart from zero."""
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
    """Rows of cells in aligned columns, the first row the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(row) -> tuple[str, ...]:
    error = "" if row.error != row.error else f"{row.error:.1e}"
    return row.leaf, row.array, error, row.verdict
