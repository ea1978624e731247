"""The README's tables, written again from the code and from measurements.

python -m experiments.readme [--measured SUITE=FOLDER ...]

A block `<!-- generated: NAME --> … <!-- end -->` of the README is made of the code: the ops, the
layers, the experiments. A block `<!-- measured: NAME --> … <!-- end -->` is the table that the
benchmark wrote to a folder, and changes only when that folder is named.
"""

import argparse
import inspect
import re
from pathlib import Path

import jaxnn
from experiments.__main__ import experiments
from jaxnn.catalogue import ENTRIES

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- (generated|measured): ([\w-]+) -->\n\n)(.*?)(\n\n<!-- end -->)", re.S)


def ops() -> str:
    """A row for each op, with the first line of its docstring."""
    rows = [
        (f"`{entry.op.__name__}({', '.join(entry.op.arguments)})`", entry.op.__doc__)
        for entry in ENTRIES
    ]
    return _table("op", rows)


def layers() -> str:
    """A row for each layer and combinator, with what it must be given."""
    made = [getattr(jaxnn, name) for name in jaxnn.__all__]
    return _table("layer", [(_call(thing), thing.__doc__) for thing in made if _is_layer(thing)])


def programs() -> str:
    """A row for each experiment, with the first line of its docstring."""
    rows = [(f"`{name}`", line.partition(": ")[2]) for name, line in experiments().items()]
    return _table("`python -m experiments.NAME`", rows)


GENERATED = {"ops": ops, "layers": layers, "experiments": programs}


def rewritten(text: str, measured: dict[str, str] | None = None) -> str:
    """The README with its blocks made again.

    Args:
        text: the README.
        measured: tables of figures, by the names of their blocks.
    """

    def made(block):
        head, kind, name, content, end = block.groups()
        if kind == "generated":
            content = GENERATED[name]()
        elif name in (measured or {}):
            content = measured[name]
        return head + content + end

    return BLOCK.sub(made, text)


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head} | what it is |", "|---|---|"]
    for name, docstring in rows:
        first = docstring.splitlines()[0].replace("|", "\\|")
        lines.append(f"| {name} | {first} |")
    return "\n".join(lines)


def _is_layer(thing) -> bool:
    if inspect.isclass(thing):
        return issubclass(thing, jaxnn.Layer) and thing is not jaxnn.Layer
    made = inspect.signature(thing).return_annotation if inspect.isfunction(thing) else None
    return inspect.isclass(made) and issubclass(made, jaxnn.Layer) and thing is not jaxnn.as_layer


def _call(thing) -> str:
    parameters = inspect.signature(thing).parameters.values()
    given = [
        ("*" if parameter.kind is parameter.VAR_POSITIONAL else "") + parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    return f"`{thing.__name__}({', '.join(given)})`"


def _compact(line: str) -> str:
    """A line of a table without what only aligns its columns."""
    return re.sub(" {2,}", " ", re.sub("-{4,}", "---", line)).replace("| |", "|  |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.readme", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--measured",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="the block of the README, and the folder that the benchmark wrote",
    )
    measured = {}
    for argument in parser.parse_args(arguments).measured:
        name, _, folder = argument.partition("=")
        lines = (Path(folder) / "table.md").read_text().splitlines()
        measured[name] = "\n".join(_compact(line) for line in lines if line.startswith("|"))
    README.write_text(rewritten(README.read_text(), measured))


if __name__ == "__main__":
    main()
