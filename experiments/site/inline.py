"""The formulas within a paragraph of a docstring.

Only runs that are surely formulas are found: what is missed stays as it is, in Unicode.
"""

import re
from itertools import accumulate

from experiments.site import mathematics

OPERATORS = {*mathematics.RELATIONS, *mathematics.PRODUCTS, "+", "−", "⊕", "/"}
SIGNS = re.compile(
    r"[\u0300-\u03ff\u1d62-\u1d6a\u1e00-\u1eff\u2070-\u209c\u2c7c²³¹ʰ-ˣ˙ᵀċġȧȯėżŷ]"
    r"|[∂√∞Σ⊙⊗⟨⟩‖·−]|\w\^|\w_\w{1,2}\b|\w_\("
)
PREFIX = re.compile(
    rf".*(?<![A-Za-z])({'|'.join(mathematics.MACROS)})|.*[ΣΠ][\u1d62-\u209c\u2c7c]*"
)
OPERAND = re.compile(r"[A-Za-z]['′]?|d[A-Za-z]|\d+(\.\d+)?|[A-Z]=[A-Z]")
PUNCTUATION = ".,;:"


def typeset(text: str) -> list[tuple[bool, str]]:
    """Text in pieces, each with whether it is a formula.

    A formula is a run of operands with operators between them, at least one of which has a
    mathematical sign, or an equation of single letters; a comma outside brackets ends it.
    """
    words = re.split(r"(\s+)", text)
    pieces: list[tuple[bool, str]] = []
    i = 0
    while i < len(words):
        n = _length(words[i::2]) if i % 2 == 0 else 0
        run = "".join(words[i : i + 2 * n - 1]) if n else ""
        formula = run.rstrip(PUNCTUATION)
        if formula and r"\text" not in mathematics.latex(formula):
            pieces += [(True, formula), (False, run[len(formula) :])]
            i += 2 * n - 1
        else:
            pieces.append((False, words[i]))
            i += 1
    return pieces


def _length(words: list[str]) -> int:
    """The number of words of the formula that begins here; 0 if none does."""
    best, depth, wants_operand, found = 0, 0, True, False
    for i, word in enumerate(words):
        core = word.rstrip(PUNCTUATION) if depth == 0 else word
        if not core or '"' in core:
            break
        opened = depth
        depths = list(accumulate((_turn(c) for c in core), initial=depth))
        depth = depths[-1]
        if min(depths) < 0 or (
            opened and re.fullmatch(r"[A-Za-z]{3,}[,;]?", core) and core not in _NAMES
        ):
            break
        operator = core in OPERATORS
        if opened == 0 and operator == wants_operand:
            break
        if opened == 0 and not operator and not _is_operand(core):
            break
        found = found or bool(SIGNS.search(core)) or core in ("=", "≠", "≤", "≥", "≈", "∈")
        wants_operand = operator or (depth == 0 and bool(PREFIX.fullmatch(core)))
        if depth == 0 and not wants_operand and found:
            best = i + 1
        if core != word and depth == 0:
            break
    return best


_NAMES = mathematics.FUNCTIONS | mathematics.NAMES


def _turn(character: str) -> int:
    """1 where a bracket opens, −1 where one closes."""
    return (character in "([⟨{") - (character in ")]⟩}")


def _is_operand(word: str) -> bool:
    """Whether a word is a name, a number, or a product or quotient of them, maybe in brackets."""
    if SIGNS.search(word):
        return True
    parts = [part for part in re.split(r"[()\[\]/,|]+", word) if part]
    return bool(parts) and all(OPERAND.fullmatch(part) or part in _NAMES for part in parts)
