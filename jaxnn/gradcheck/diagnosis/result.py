"""The result of `diagnose`, as text and as data."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jaxnn.gradcheck.report import GradientMismatch, table


class LeafVerdict(NamedTuple):
    """One array of the gradients.

    Attributes:
        path: its path in the tree, such as `[0]['w']`.
        shape: the shape of the gradient; `None` if it is missing.
        expected: the shape of the parameter.
        error: ‖mine − truth‖/‖truth‖; infinite for a wrong shape or a number that is not finite.
        ok: whether it is right.
    """

    path: str
    shape: tuple[int, ...] | None
    expected: tuple[int, ...]
    error: float
    ok: bool


class NamedMistake(NamedTuple):
    """A mistake that explains wrong gradients.

    Attributes:
        id: the id of the mistake in `MISTAKES`.
        name: a short description.
        leaves: the paths of the affected leaves.
        explanation: its effect on these leaves and its meaning.
        fix: the way to correct it.
    """

    id: str
    name: str
    leaves: list[str]
    explanation: str
    fix: str


@dataclass(frozen=True)
class Diagnosis:
    """The wrong gradients of a network and their causes.

    Attributes:
        leaves: every array of the gradients.
        mistakes: the mistakes that explain the wrong leaves; all candidates if several fit equally.
        where: a sentence that names the wrong part of the backward pass.
        equivalent: whether several explanations fit, each of them sufficient.
    """

    leaves: list[LeafVerdict]
    mistakes: list[NamedMistake]
    where: str
    equivalent: bool = False

    @property
    def ok(self) -> bool:
        """Whether every leaf is right."""
        return all(leaf.ok for leaf in self.leaves)

    @property
    def unknown(self) -> bool:
        """Whether a leaf is wrong and no known mistake gives these numbers."""
        return not self.ok and not self.mistakes

    def raise_if_failed(self) -> None:
        """Raise `GradientMismatch` with the diagnosis if a leaf is wrong."""
        if not self.ok:
            raise GradientMismatch(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data, for JSON."""
        plain = asdict(self) | {
            "leaves": [leaf._asdict() for leaf in self.leaves],
            "mistakes": [mistake._asdict() for mistake in self.mistakes],
        }
        return {"ok": self.ok, "unknown": self.unknown} | plain

    def __str__(self) -> str:
        rows = [("leaf", "shape", "error", "")]
        for leaf in self.leaves:
            shape = "missing" if leaf.shape is None else str(leaf.shape)
            if leaf.shape != leaf.expected:
                shape += f", not {leaf.expected}"
            verdict = "right" if leaf.ok else "WRONG"
            rows.append((f"params{leaf.path}", shape, f"{leaf.error:.1e}", verdict))
        lines = [table(rows), "", self.where]
        if self.unknown:
            lines.append("No known mistake gives these numbers.")
        if self.equivalent:
            lines.append("More than one explanation gives exactly these numbers:")
        for mistake in self.mistakes:
            lines += ["", f"{mistake.id}, {mistake.name}: {mistake.explanation}", mistake.fix]
        return "\n".join(lines)
