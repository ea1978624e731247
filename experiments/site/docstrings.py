"""Docstrings as MyST Markdown.

A docstring of jaxnn is a summary of one line, then paragraphs, indented blocks and sections. A
block is mathematics, a drawing or code; a section is a heading with a colon and indented entries.
"""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

from experiments.site import inline, mathematics

FIELDS = {  # sections of entries, and the field of Sphinx that each entry becomes
    "Args": "param {}",
    "Attributes": "ivar {}",
    "Raises": "raises {}",
}
TEXTS = ("Returns", "Yields", "Shapes", "Example", "Implementation notes", "Reference")
LINK = Callable[[str], str | None]  # from the code in backticks to the full name of what it names


class Section(NamedTuple):
    """A part of a docstring.

    Attributes:
        name: its heading; empty for the paragraphs and blocks between the sections.
        lines: its lines, without the common indentation.
    """

    name: str
    lines: list[str]


def sections(docstring: str) -> list[Section]:
    """The summary as a separate section, then the others in the order of the docstring."""
    summary, _, rest = inspect.cleandoc(docstring).partition("\n")
    found = [Section("Summary", [summary]), Section("", [])]
    for line in rest.splitlines():
        heading = re.match(rf"({'|'.join([*FIELDS, *TEXTS])}):(?: +(.*))?$", line)
        if heading:
            found.append(Section(heading[1], [heading[2] or ""]))
        elif found[-1].name and _is_behind(line, found[-1]):
            found.append(Section("", [line]))
        else:
            found[-1].lines.append(line)
    dedented = (Section(name, _dedented(lines)) for name, lines in found)
    return [section for section in dedented if section.lines]


def _is_behind(line: str, section: Section) -> bool:
    """Whether a line no longer belongs to a section, whose text is indented or one paragraph."""
    if not line or line.startswith(" "):
        return False
    return section.name != "Reference" or not section.lines[-1]


def _dedented(lines: list[str]) -> list[str]:
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    width = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[width:] for line in lines]


def prose(text: str, link: LINK) -> str:
    """A paragraph: formulas typeset, code as links, and the rest as it is."""
    parts = re.split(r"(`+[^`]+`+)", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = "".join(
                f"${mathematics.latex(' '.join(piece.split()), inline=True)}$"
                if is_formula
                else _plain(piece)
                for is_formula, piece in inline.typeset(part)
            )
        else:
            code = part.strip("`")
            target = link(code)
            parts[i] = f"{{py:obj}}`{code} <{target}>`" if target else f"`{code}`"
    return "".join(parts)


def _plain(text: str) -> str:
    """Text with everything escaped that Markdown would read."""
    text = re.sub(r"([\\*_\[\]<>#|$~^{}&!])", r"\\\1", text)
    return re.sub(r"^(?:(\d+)([.)])|([-+=]))", lambda m: f"{m[1] or ''}\\{m[2] or m[3]}", text)


def blocks(lines: list[str], link: LINK) -> str:
    """Paragraphs, lists and indented blocks."""
    made: list[str] = []
    for chunk in _chunks(lines):
        if chunk[0].startswith((" ", "\t")):
            made.append(_block(_dedented(chunk), link))
        elif chunk[0].startswith(("* ", "- ")):
            made.append(_list(chunk, link))
        else:
            made.append(prose("\n".join(chunk), link))
    return "\n\n".join(made)


def _chunks(lines: list[str]) -> list[list[str]]:
    """Runs of lines that are a paragraph, a list or an indented block."""
    chunks: list[list[str]] = []
    blank = True
    for line in lines:
        if not line.strip():
            if chunks and _is_open(chunks[-1]):
                chunks[-1].append("")
            blank = True
            continue
        last = chunks[-1] if chunks else [""]
        indented, item = line.startswith(" "), line.startswith(("* ", "- "))
        in_list = last[0].startswith(("* ", "- "))
        if in_list and (indented or item):
            last.append(line)
        elif blank or item or indented != last[0].startswith(" "):
            if indented and last[0].startswith(" ") and not in_list:
                last.append(line)  # a block goes on after a blank line
            else:
                chunks.append([line])
        else:
            last.append(line)
        blank = False
    return chunks


def _is_open(chunk: list[str]) -> bool:
    """Whether a blank line may be within a chunk: in an indented block or a list."""
    return chunk[0].startswith((" ", "* ", "- "))


def _list(lines: list[str], link: LINK) -> str:
    items: list[list[str]] = []
    for line in lines:
        if line.startswith(("* ", "- ")):
            items.append([line[2:]])
        else:
            items[-1].append(line[2:] if line.startswith("  ") else line)
    made = []
    for item in items:
        body = blocks(item, link).replace("\n", "\n  ")
        made.append(f"- {body}")
    return "\n".join(made)


def _block(lines: list[str], link: LINK) -> str:
    """An indented block: a list, code as it is, or formulas, typeset."""
    if lines[0].startswith(("* ", "- ")):
        return _list(lines, link)
    text = "\n".join(lines)
    if lines[0].startswith(">>>"):
        return fenced("pycon", text)
    if not is_mathematics(text):
        return fenced("text", text)
    displays = re.split(r"\n\s*\n", text)
    return "\n\n".join(f"$$\n{mathematics.display(d.splitlines())}\n$$" for d in displays)


def is_mathematics(text: str) -> bool:
    """Whether an indented block is formulas, and not code or a drawing."""
    if re.search(r"\w\.\w+\(|[a-z_]{4,}\([a-z_]+, |│|(?<!\w)\"|:=", text):
        return False
    return bool(re.search(r"[^\x00-\x7f]|\^|\b\w'|\bd\w(_\w+)? =", text))


def fenced(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def entries(lines: list[str]) -> list[tuple[str, list[str]]]:
    """The entries `name: text` of a section, with the lines of each text."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        entry = re.match(r"([*\w.`, ]+): +(.*)", line)
        if entry and not line.startswith(" "):
            found.append((entry[1], [entry[2]]))
        elif found:
            found[-1][1].append(line)
    return found


def fields(section: Section, link: LINK) -> str:
    """A section of entries as the fields of a Sphinx description."""
    made = []
    for name, lines in entries(section.lines):
        body = prose(" ".join(line.strip() for line in lines), link)
        joined = re.sub(r"[*\s]", "", name)  # Sphinx reads "a, b" as a type and a name
        made.append(f":{FIELDS[section.name].format(joined)}: {body}")
    return "\n".join(made)


def section(part: Section, link: LINK) -> str:
    """Any section, its heading aside."""
    if part.name in FIELDS:
        return fields(part, link)
    if part.name in ("Shapes",):
        return fenced("text", "\n".join(part.lines))
    if part.name == "Example":
        return fenced("pycon", "\n".join(part.lines))
    return blocks(part.lines, link)


def described(docstring: str, link: LINK) -> str:
    """A whole docstring, as the body of a Sphinx description."""
    made = []
    for part in sections(docstring):
        if part.name in ("Returns", "Yields"):
            text = prose(" ".join(line.strip() for line in part.lines), link)
            made.append(f":{part.name.lower()}: {text}")
            continue
        heading = "" if part.name in ("Summary", "", *FIELDS) else f"**{part.name}**\n\n"
        made.append(heading + section(part, link))
    return "\n\n".join(made)
