"""The code cells of every page about another library run, as they do when the site is built."""

import ast
import re
import sys
from pathlib import Path

import jax
import pytest

PAGES = Path(__file__).parent.parent / "experiments/site/pages/integrations"
NOTEBOOKS = sorted(page for page in PAGES.glob("*.md") if page.stem != "index")
NEEDED_UNSEEN = {"export": {"flatbuffers"}}  # what a library imports when it is used


def code_of(page):
    """The code cells, each on the lines that it has in the page, for tracebacks."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence and not re.match(r":[\w-]+:", line) else "")
        inside = line.startswith("```{code-cell}") if fence else inside
    return "\n".join(lines)


def libraries_of(code):
    """The libraries that the code imports, without Python's own and jaxnn."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"jaxnn"}


@pytest.mark.usefixtures("unannotated")  # a symbolic size is no `int`
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_the_page_runs(page, tmp_path, monkeypatch):
    code = code_of(page)
    for library in libraries_of(code) | NEEDED_UNSEEN.get(page.stem, set()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(compile(code, page, "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_the_page_checks_what_it_shows(page):
    nodes = list(ast.walk(ast.parse(code_of(page))))
    assert any(isinstance(node, ast.Assert) for node in nodes)


def test_the_index_lists_every_page():
    index = (PAGES / "index.md").read_text()
    stems = [page.stem for page in NOTEBOOKS]
    assert sorted(re.findall(r"^\|.*\]\((\w+)\.md\) \|$", index, flags=re.M)) == stems
    (toctree,) = re.findall(r"```{toctree}\n(.*?)```", index, flags=re.S)
    assert sorted(re.findall(r"^\w+$", toctree, flags=re.M)) == stems
