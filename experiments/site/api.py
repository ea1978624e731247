"""The pages of the API: every public name that is not an op."""

import inspect
import re
from pathlib import Path

from experiments.site import docstrings
from experiments.site.references import Name, link, names, signature
from jaxnn.layer import Layer
from jaxnn.op import Op

WITH_METHODS = (Layer, Op)  # classes whose methods are the contract


def write(folder: Path) -> None:
    """Write a page for each group of names, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Name]] = {}
    for name in names().values():
        groups.setdefault(name.group, []).append(name)
    del groups["Ops"]  # each has a page
    for title, group in groups.items():
        described = [describe(name) for name in sorted(group, key=lambda name: name.full)]
        (folder / f"{_file(title)}.md").write_text("\n\n".join([f"# {title}", *described]) + "\n")
    listed = "\n".join(_file(title) for title in groups)
    (folder / "index.md").write_text(
        "# API\n\nEvery public name. The ops have [pages of their own](../ops/index.md).\n\n"
        f"```{{toctree}}\n:maxdepth: 2\n\n{listed}\n```\n"
    )


def _file(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower())


def describe(name: Name) -> str:
    """A name with its signature, its docstring and, of a contract, its methods."""
    thing = name.thing
    if inspect.isclass(thing):
        parts = [docstrings.described(inspect.getdoc(thing), link)]
        parts += _methods(thing) if thing in WITH_METHODS else []
        return _directive("py:class", name.full + signature(thing), "\n\n".join(parts), 5)
    if callable(thing):
        return _directive(
            "py:function",
            name.full + signature(thing),
            docstrings.described(inspect.getdoc(thing), link),
            4,
        )
    text = f"{type(thing).__name__} of {len(thing)}: {', '.join(f'`{key}`' for key in thing)}."
    return _directive("py:data", name.full, text, 4)


def _methods(thing) -> list[str]:
    made = []
    for name, method in vars(thing).items():
        if name.startswith("_") or not inspect.getdoc(method):
            continue
        if inspect.isfunction(method):
            parameters = re.sub(r"\(self(, )?", "(", signature(method))
            text = docstrings.described(inspect.getdoc(method), link)
            made.append(_directive("py:method", name + parameters, text, 4))
        elif isinstance(method, property):
            text = docstrings.described(inspect.getdoc(method), link)
            made.append(_directive("py:property", name, text, 4))
    return made


def _directive(kind: str, head: str, text: str, fence: int) -> str:
    return f"{'`' * fence}{{{kind}}} {head}\n\n{text}\n{'`' * fence}"
