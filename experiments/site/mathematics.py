"""LaTeX, for MathJax, of the Unicode mathematics in the docstrings.

`latex` reads one formula: a tokenizer, which tells names from English words, then a parser with
two levels. A sequence has relations, signs, commas and words between its terms; a term is a
product or quotient of factors, which groups from the left. A slash becomes a fraction outside all
brackets and stays a slash inside them, with the brackets of the source. `display` reads a block
of lines, whose columns and relations it aligns, and `summary_formula` finds the formula in the
first line of a docstring.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

_TABLE = r"""
    ≠ \ne  ≤ \le  ≥ \ge  ≈ \approx  ∝ \propto  ∈ \in  ← \leftarrow  → \to  ↦ \mapsto
    − -  ± \pm  ∓ \mp  ⊕ \oplus  · \cdot  × \times  ⊙ \odot  ⊗ \otimes  Σ \sum  Π \prod
    ∂ \partial  ∇ \nabla  √ \surd  ∞ \infty  … \dots  ℓ \ell  ℝ \mathbb{R}  : \colon
    | \mid  ‖ \parallel  ε \varepsilon  φ \varphi
    ⟨ \langle  ⟩ \rangle  ⌊ \lfloor  ⌋ \rfloor  ⌈ \lceil  ⌉ \rceil
    # \#  $ \$  % \%  & \&  _ \_  { \{  } \}  ^ \hat{}  ~ \sim  \ \backslash
"""
COMMANDS = dict(re.findall(r"(\S) (\S+)", _TABLE))
GREEK = {"alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "iota", "kappa", "lambda"}
GREEK |= {"mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "chi", "psi", "omega"}
GREEK |= {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Upsilon", "Phi", "Psi", "Omega"}
ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot", "˙": "dot"}
BRACKETS = {"(": ")]", "[": ")]", "{": "}", "⟨": "⟩", "⌊": "⌋", "⌈": "⌉", "|": "|", "‖": "‖"}
CLOSERS = set(")]}⟩⌋⌉")
BARS = {"|": (r"\lvert", r"\rvert"), "‖": (r"\lVert", r"\rVert")}
RELATIONS = set("=≠≤≥<>≈∝∈←→↦")
PRODUCTS = set("·×⊙⊗*")
OPERANDS = {*BRACKETS, *"ΣΠ∂∇√ℓℝ∞…½⅓⅔¼¾"}

MACROS = {"cos", "cosh", "det", "exp", "log", "max", "min", "sin", "sinh", "tan", "tanh"}
FUNCTIONS = {"argmax", "diag", "erf", "gelu", "logsumexp", "mean", "relu", "sigmoid", "sign"}
FUNCTIONS |= {"silu", "softmax", "softplus", "sparsemax", "trace", "var", "vec", "KL"} | MACROS
NAMES = {"base", "bias", "count", "gate", "high", "ids", "idx", "low", "mean", "rate", "scale"}
NAMES |= {"sink", "slope", "var", "variance"}
ARTICLES = {"a", "an", "each", "no", "the"}
CONNECTIVES = {"and", "at", "for", "in", "is", "or", "over", "so", "to", "where", "with"}

_SUBSCRIPTS, _SUPERSCRIPTS = (
    "".join(c for c in map(chr, range(0x80, 0x2E80)) if unicodedata.decomposition(c).startswith(k))
    for k in ("<sub>", "<super>")
)
_LETTER = r"(?:[A-Za-z][\u0300-\u036f˙]*)"
_TOKEN = re.compile(
    rf"""(?P<code>`[^`]+` | (?<![\w)'"])"[^"]+")
    |(?P<text>(?<=\w)'s(?!\w) | {_LETTER}{{2,}}(?:-{_LETTER}{{2,}})+)
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<word>(?!d[A-Za-z]_)[A-Za-z]{{2,}}\d*(?:_[a-z]{{3,}})+ | [A-Za-z]{{3,}}\d+
        | d?(?![ΣΠ])[\u0370-\u03ff][\u0300-\u036f˙]* | {_LETTER}+)
    |(?P<sub>[{_SUBSCRIPTS}]+)
    |(?P<sup>[{_SUPERSCRIPTS}]+)
    |(?P<prime>['"]+)
    |(?P<symbol>\S)""",
    re.VERBOSE,
)


def latex(text: str, inline: bool = False) -> str:
    """The LaTeX of one formula; within a line of text, its quotients keep their slashes."""
    formula = _Parser(text).sequence()
    return formula.flat if inline else formula.tall


class Token(NamedTuple):
    """A token of a formula.

    Attributes:
        kind: "code", "text", "number", "word" (a name), "sub", "sup", "prime" or "symbol".
        text: its characters, with the accents apart from their letters.
        gap: whether a space precedes it.
        start: its place in the formula.
    """

    kind: str
    text: str
    gap: bool
    start: int

    @property
    def name(self) -> str:
        """A word without its accents."""
        return "".join(c for c in self.text if c not in ACCENTS)

    @property
    def differential(self) -> bool:
        """Whether a word is d and the name of a quantity."""
        quantity = self.name[1:]
        return self.name.startswith("d") and (len(quantity) == 1 or quantity in NAMES)


END = Token("end", "", True, 0)


def _decomposed(text: str) -> str:
    """Text with the accents apart from their letters; "≠" and the like stay as they are."""
    return "".join(unicodedata.normalize("NFD", c) if c.isalpha() else c for c in text)


def _tokens(text: str) -> list[Token]:
    """The tokens of a decomposed text, the English words marked as text, and an end at each end."""
    found = [END]
    for match in _TOKEN.finditer(text):
        gap = text[match.start() - 1 : match.start()] == " "
        found.append(Token(str(match.lastgroup), match[0], gap, match.start()))
    found += [END] * 3
    return [END] + [
        found[i]._replace(kind="text") if _is_english(*found[i - 1 : i + 3]) else found[i]
        for i in range(1, len(found) - 2)
    ]


def _is_english(before: Token, token: Token, after: Token, further: Token) -> bool:
    """Whether a word is English, from its neighbours."""
    if token.kind != "word" or token.name != token.text or not token.text[0].isascii():
        return False
    if before.text in ("_", "^") and not token.gap:
        return False
    if token.text in ("a", "A"):  # an article before a noun
        return after.gap and after.text[1:].isalpha() and after.text not in CONNECTIVES
    if len(token.text) == 1:
        return False
    if not after.gap and (after.kind in ("sub", "sup", "prime") or after.text in tuple("([_^")):
        return False
    if before.text in PRODUCTS | {"/"} or after.text in PRODUCTS | {"/"}:
        return False
    if after.text == "." and further.kind == "word" and not further.gap:  # net.bwd
        return False
    if token.differential:
        return token.text == "do"
    return token.text not in FUNCTIONS | NAMES or before.text in ARTICLES


class Piece(NamedTuple):
    """Parsed mathematics.

    Attributes:
        tall: its LaTeX, with fractions.
        flat: its LaTeX, with slashes.
        inner: the contents of a bracket that a fraction bar can replace.
        fraction: whether it is one quotient and no more.
    """

    tall: str
    flat: str
    inner: str = ""
    fraction: bool = False


class _Parser:
    def __init__(self, text: str):
        self.tokens = _tokens(_decomposed(text.strip()))
        self.i = 1

    def at(self, offset: int = 0) -> Token:
        """The token at an offset from the next one."""
        return self.tokens[min(self.i + offset, len(self.tokens) - 1)]

    def next(self) -> Token:
        self.i += 1
        return self.at(-1)

    def sequence(self, closers: str = "") -> Piece:
        """Terms, and the relations, signs, commas and words between them, up to a closer."""
        pieces: list[Piece] = []
        operand = False  # whether the last piece can be the left side of a sign or a bar
        while self.at() != END:
            token, last = self.at(), self.at(-1)
            is_bar = token.text in BARS
            if operand and token.text in closers if is_bar else closers and token.text in CLOSERS:
                break
            if token.kind in ("text", "code"):
                pieces.append(self.words(space=bool(pieces) and last.text not in RELATIONS))
                operand = False
            elif self.starts_factor() and not (operand and is_bar):
                pieces.append(self.term())
                operand = True
            else:
                self.next()
                made = _symbol(token.text)
                after_words = last.kind in ("text", "code") or last.text in (",", ";")
                if token.text in "+−-±∓" and after_words:
                    made = f"{{{made}}}"  # a sign, not a difference
                if token.text in ",;" and not closers and self.at().kind not in ("text", "end"):
                    made += r"\ "
                pieces.append(_same(made))
                operand = token.text in "·…∞" or token.text in CLOSERS
        return pieces[0] if len(pieces) == 1 else _row(pieces)

    def words(self, space: bool) -> Piece:
        """A run of English words, with the code and punctuation in it."""
        made, text = "", ""
        while self.at().kind in ("text", "code") or (
            made + text and self.at().text in tuple(",;:.") and not self.at().gap
        ):
            token = self.next()
            text += " " if token.gap and space else ""
            space = True
            if token.kind == "code":
                made += _literal(text, "text") + _literal(token.text.strip("`"), "texttt")
                text = ""
            else:
                text += token.text
        if self.at() != END and self.at().gap and self.at().text not in RELATIONS:
            text += " "
        return _same(made + _literal(text, "text"))

    def term(self, spaced_slash: bool = True) -> Piece:
        """Factors and the operators between them."""
        product = self.factor()
        while True:
            token = self.at()
            if token.text == "/" and self.starts_factor(1) and (spaced_slash or not token.gap):
                self.next()
                product = _quotient(product, self.factor(), token.gap)
            elif token.text in PRODUCTS and self.starts_factor(1):
                self.next()
                product = _row([product, _same(_symbol(token.text)), self.factor()])
            elif self.starts_factor() and token.text not in BARS:
                product = _row([product, _same(r"\," if token.gap else ""), self.factor()])
            else:
                return product

    def starts_factor(self, offset: int = 0) -> bool:
        """Whether a factor starts at a token."""
        token = self.at(offset)
        return token.kind in ("word", "number") or token.text in OPERANDS

    def factor(self) -> Piece:
        """A number, a name, a bracket, a sum, or an operator with its argument."""
        token = self.next()
        if token.text in BRACKETS:
            return self.attached(self.bracket(token.text))
        if token.text == "√" and self.starts_factor():
            radicand = self.bracket(self.next().text) if self.at().text == "(" else self.factor()
            return self.attached(_same(rf"\sqrt{{{radicand.inner or radicand.flat}}}"))
        is_sum = token.text in ("Σ", "Π")
        is_function = token.name in FUNCTIONS and (
            self.starts_factor() or self.at().kind in ("sub", "sup", "prime")
        )
        head = rf"\operatorname{{{token.name}}}" if is_function else _atom(token)
        if is_function and token.name in MACROS:
            head = rf"\{token.name}"
        made = self.attached(_same(head), big=is_sum or is_function)
        follower = self.at()
        if not self.starts_factor():
            return made
        if is_sum:
            return _row([made, self.term(spaced_slash=False)])
        if is_function:
            has_argument = self.at(-1).text not in CLOSERS
        else:
            prefixes = token.text == "d" if follower.text in BARS else token.kind == "number"
            has_argument = (token.text in "∂∇" or prefixes) and not follower.gap
        return _row([made, self.factor()]) if has_argument else made

    def bracket(self, opening: str) -> Piece:
        """A bracket just opened, up to its closer; where there is none, only the character."""
        start = self.i
        inner = self.sequence(BRACKETS[opening])
        closing = self.at().text
        if closing not in tuple(BRACKETS[opening]):
            self.i = start
            return _same(_symbol(opening))
        self.next()
        left, right = BARS.get(opening, (_symbol(opening), _symbol(closing)))
        space = " " if left[-1:].isalpha() else ""
        flat = f"{left}{space}{inner.flat}{space}{right}"
        if opening + closing != "()":
            return _same(flat)
        contents = self.tokens[start : self.i - 1]
        is_tuple = any(contents[i].text in (",", ";") for i in _top_level(contents))
        return Piece(inner.tall if inner.fraction else flat, flat, "" if is_tuple else inner.flat)

    def attached(self, base: Piece, big: bool = False) -> Piece:
        """A factor with all that is attached to it: primes, indices, exponents and calls."""
        start, made = self.i, base.flat
        below: list[str] = []
        above = ""

        def scripted() -> str:
            sub = f"_{{{(', ' if big else ' ').join(below)}}}" if below else ""
            return made + sub + (f"^{{{above}}}" if above else "")

        while not self.at().gap:
            token, after = self.at(), self.at(1)
            if token.kind == "prime":
                made += self.next().text.replace('"', "''")
            elif token.kind == "sub":
                below += _indices(self.next().text, big)
            elif token.text == "_" and not after.gap:
                self.next()
                below.append(self.index())
            elif big and below and token.text in RELATIONS and not after.gap:
                self.next()  # the condition of a sum, as in Σⱼ≠ᵢ
                index = self.next()
                right = _indices(index.text, False)[0] if index.kind == "sub" else _atom(index)
                below[-1] += f" {_symbol(token.text)} {right}"
            elif (token.kind == "sup" or (token.text == "^" and not after.gap)) and not above:
                self.next()
                above = _indices(token.text, False)[0] if token.kind == "sup" else self.exponent()
            elif token.text in ("(", "["):
                self.next()
                made, below, above = scripted() + self.bracket(token.text).flat, [], ""
            elif token.text == "." and after.kind == "word" and not after.gap:
                self.next()
                made, below, above = f"{scripted()}{{.}}{_atom(self.next())}", [], ""
            else:
                break
        return base if self.i == start else _same(scripted())

    def index(self) -> str:
        """The index behind "_": two letters are two indices, more are a name."""
        token = self.at()
        if token.kind == "word" and len(token.text) == 2:
            return " ".join(self.next().text)
        return self.exponent() if token.text in ("(", "{") else _atom(self.next())

    def exponent(self) -> str:
        """The exponent behind "^": a bracket's contents, or one name with its indices."""
        token = self.next()
        if token.text not in ("(", "{"):
            return self.attached(_same(_atom(token))).flat
        inner = self.sequence(BRACKETS[token.text]).flat
        self.next()
        return inner


def _same(made: str) -> Piece:
    return Piece(made, made)


def _row(pieces: Iterable[Piece]) -> Piece:
    tall, flat = zip(*(piece[:2] for piece in pieces), strict=True) if pieces else ((), ())
    return Piece(_spaced(tall), _spaced(flat))


def _spaced(parts: Iterable[str]) -> str:
    return re.sub(r" (?=[,;])", "", " ".join(filter(None, parts)))


def _quotient(top: Piece, bottom: Piece, spaced: bool) -> Piece:
    over, under = top.inner or top.flat, bottom.inner or bottom.flat
    slash = r" \;/\; " if spaced else "/"
    return Piece(rf"\frac{{{over}}}{{{under}}}", f"{top.flat}{slash}{bottom.flat}", fraction=True)


def _indices(run: str, apart: bool) -> list[str]:
    """The indices in a run of subscripts or superscripts; those of a sum stand apart.

    A comma precedes an index that is a sum: hₙₜ₋₁ has the indices n and t − 1.
    """
    plain = "".join(chr(int(unicodedata.decomposition(c).split()[1], 16)) for c in run)
    plain = plain.replace("−", "-").replace("T", r"\top")
    if apart and plain.isalpha():
        return list(plain)
    if re.fullmatch(r"[a-z]{2,}[-+]\d+", plain):
        plain = ", ".join(re.findall(r"[a-z](?:[-+]\d+)?", plain))
    return [plain]


def _atom(token: Token) -> str:
    """A name with its accents, a number or a symbol."""
    if token.kind != "word":
        return _symbol(token.text)
    name = token.name[1:] if token.differential else token.name
    made = _symbol(name) if len(name) == 1 else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"
    for mark in (c for c in token.text if c in ACCENTS):
        made = rf"\{ACCENTS[mark]}{{{made}}}"
    return f"d{made}" if token.differential else made


def _symbol(text: str) -> str:
    """A number or one character."""
    if text in COMMANDS:
        return COMMANDS[text]
    if text.isascii():
        return text
    kind, *digits = unicodedata.decomposition(text).split() or [""]
    if kind == "<fraction>":
        top, bottom = "".join(chr(int(digit, 16)) for digit in digits).split("⁄")
        return rf"\tfrac{{{top}}}{{{bottom}}}"
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(text, ""))
    if greek:
        letter = greek[2].lower().replace("lamda", "lambda")
        letter = letter if greek[1] == "SMALL" else letter.capitalize()
        if letter in GREEK:
            return rf"\{letter}"
    return rf"\text{{{text}}}"


def _literal(text: str, command: str) -> str:
    r"""English or code, with its special characters outside: MathJax has no \_ in a \text."""
    parts = re.split(r"([#$%&_{}^~\\])", unicodedata.normalize("NFC", text))
    return "".join(
        COMMANDS[part] if i % 2 else rf"\{command}{{{part}}}"
        for i, part in enumerate(parts)
        if part
    )


class Cell(NamedTuple):
    """A part of a line: where it starts and ends, where its first "=" or "←" is, and its text."""

    start: int
    end: int
    relation: int | None
    text: str


def display(lines: list[str]) -> str:
    """The LaTeX of a block of lines, without a common indentation.

    Two spaces or more end a cell. The first relations of consecutive lines, and the starts of
    their cells, are aligned if they are in the source. A line that is indented deeper continues
    the one before, under the cell where it starts.
    """
    groups: list[list[list[Cell]]] = []
    head: list[Cell] = []  # the last line that is not a continuation
    for line in lines:
        cells = _cells(line)
        if groups and (line.startswith(" ") or _are_aligned(head, cells)):
            groups[-1].append(cells)
        else:
            groups.append([cells])
        head = head if line.startswith(" ") else cells
    rows = [_group(group) for group in groups]
    return rows[0] if len(rows) == 1 else _aligned([["", row] for row in rows])


def _cells(line: str) -> list[Cell]:
    line = _decomposed(line)
    found = []
    for match in re.finditer(r"\S+(?: \S+| +[=←](?= )| {2}[+−](?= ))*", line):
        relation = _relation(match[0])
        places = (match.start(), match.end(), relation and match.start() + relation)
        found.append(Cell(*(p and _width(line[:p]) for p in places), match[0]))
    return found


def _width(text: str) -> int:
    return sum(not unicodedata.combining(c) for c in text)


def _relation(text: str) -> int | None:
    """The index of the first "=" or "←" outside all brackets, and not at the start."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{⟨") - (character in ")]}⟩")
        if character in "=←" and depth == 0 and i:
            return i
    return None


def _are_aligned(head: list[Cell], cells: list[Cell]) -> bool:
    """Whether two lines have the first relation or the start of a later cell in common."""
    relation = cells[0].relation is not None and cells[0].relation == head[0].relation
    return relation or not {c.start for c in head[1:]}.isdisjoint(c.start for c in cells[1:])


def _group(lines: list[list[Cell]]) -> str:
    """Lines that are aligned: pairs of columns, the second one starting at the relation."""
    if len(lines) == 1:
        return _joined(lines[0])
    starts = [cell.start for cells in lines for cell in cells if cell.start]
    crossed = {s for s in starts for cells in lines for c in cells if c.start < s < c.end}
    columns = [0, *sorted(s for s in set(starts) - crossed if starts.count(s) > 1)]
    rows: list[list[str]] = [[] for _ in lines]
    for start, end in pairwise([*columns, 10**6]):
        column = [[c for c in cells if start <= c.start < end] for cells in lines]
        heads = [cells[0] for cells in column if cells and cells[0].start == start]
        relations = {cell.relation for cell in heads}
        split = None not in relations and (start == 0 or len(relations) == 1)
        for row, cells in zip(rows, column, strict=True):
            if split and cells and cells[0].start == start:
                text = cells[0].text
                at = _relation(text)
                row += [latex(text[:at]), _joined([cells[0]._replace(text=text[at:]), *cells[1:]])]
            else:
                row += ["", _joined(cells)]
    return _aligned(rows)


def _joined(cells: list[Cell]) -> str:
    """Cells in one line, with the space between them that the source suggests."""
    made = "".join(latex(cell.text) for cell in cells[:1])
    for last, cell in pairwise(cells):
        made += r" \quad " if cell.start - last.end < 3 else r" \qquad "
        made += latex(cell.text)
    return made


def _aligned(rows: list[list[str]]) -> str:
    body = " \\\\\n".join(" & ".join(row).rstrip(" &") for row in rows)
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"


def summary_formula(summary: str) -> str | None:
    """The formula in the first line of a docstring: an equation with its cases, or its end."""
    text = _decomposed(summary.removesuffix("."))
    tokens = _tokens(text)
    top = _top_level(tokens)
    commas = [i for i in top if tokens[i].text in tuple(",:;")]
    equals = [i for i in top if tokens[i].text == "=" and tokens[i + 1].kind != "text"]
    if equals:
        first = last = equals[0]
        while first > 1 and first - 1 not in commas and tokens[first - 1].kind != "text":
            first -= 1
        while tokens[last + 1] != END and _goes_on(tokens, first, last + 1, last + 1 in commas):
            last += 1
    else:
        first, last = max(commas, default=0) + 1, len(tokens) - 2
        if any(token.kind in ("text", "code") for token in tokens[first:]):
            return None
    end = tokens[last].start + len(tokens[last].text)
    return unicodedata.normalize("NFC", text[tokens[first].start : end])


def _top_level(tokens: list[Token]) -> list[int]:
    """The positions of the tokens outside all brackets."""
    depth, found = 0, []
    for i, token in enumerate(tokens):
        depth -= token.text in CLOSERS
        if depth == 0:
            found.append(i)
        depth += token.text in BRACKETS and token.text not in BARS
    return found


def _goes_on(tokens: list[Token], first: int, i: int, comma: bool) -> bool:
    """Whether the equation that starts at `first` goes on at token i: in a formula or a case."""
    words = {token.text for token in tokens[first:i]}
    formula_follows = tokens[i + 1].kind != "text"
    if comma:
        return tokens[i + 1].text == "else" or ("where" in words and formula_follows)
    if tokens[i].kind != "text" or "else" in words:
        return True
    if tokens[i].text in ("where", "for"):
        return formula_follows
    return tokens[i].text in ("else", "over") or (
        "over" in words and tokens[i].text in ("the", "with")
    )
