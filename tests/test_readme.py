"""Every code block of the README runs or is what it says it shows."""

import os
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import jaxnn
from experiments import readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)


def blocks(language):
    return [code for name, code in BLOCKS if name == language]


def test_every_block_is_of_a_kind_that_is_tested():
    assert {language for language, _ in BLOCKS} == {"sh", "python", "text"}


def without_errors(text):
    """The text with every figure like 1.4e-07 hidden: rounding differs between machines."""
    return re.sub(r"\d\.\de[-+]\d\d", "#", text)


def run(arguments, folder):
    """What a program prints."""
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.smoke
def test_python_blocks_run_in_order(tmp_path):
    code = [code for code in blocks("python") if not code.startswith("def ")]
    run(["-c", "\n".join(code)], tmp_path)


@pytest.mark.smoke
def test_a_wrong_backward_gets_the_report_that_is_shown(tmp_path):
    (code,) = [code for code in blocks("python") if "def dense_bwd" in code]
    (tmp_path / "dense.py").write_text(code)
    _, shown = blocks("text")
    assert without_errors(run(["dense.py"], tmp_path)) == without_errors(shown)


def test_the_derivation_and_the_code_beside_it_are_the_real_ones():
    source = (ROOT / "jaxnn/ops/activations/softmax.py").read_text()
    (code,) = [code for code in blocks("python") if code.startswith("def ")]
    assert code in source
    derivation, _ = blocks("text")
    lines = [line.strip() for line in derivation.splitlines()]
    assert [line for line in lines if line not in jaxnn.softmax.__doc__] == []


@pytest.mark.smoke
@pytest.mark.parametrize("command", blocks("sh"))
def test_commands_name_what_exists(command):
    """The commands themselves run in .ci/run; here their modules and extras are known."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"'\.\[(\w+)\]'", command):
        assert re.search(rf"^{extra} = \[", pyproject, flags=re.M)
    for module in re.findall(r"-m (experiments\.\w+)", command):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_the_generated_tables_are_those_of_the_code():
    """`python -m experiments.readme` writes them again."""
    assert readme.rewritten(README) == README
    blocks = re.findall(r"<!-- (generated|measured): (\w+) -->", README)
    assert [name for kind, name in blocks if kind == "generated"] == [
        "experiments",
        "ops",
        "layers",
    ]


def test_measured_tables_change_only_when_figures_are_given():
    new = readme.rewritten(README, {"training": "| network |\n|---|\n| none |"})
    assert "| none |" in new
    assert len(new) < len(README)
    assert readme.rewritten(new, {}) == new


def test_a_measured_row_is_of_an_op_that_exists():
    for name in re.findall(r"^\| `(\w+)` \S.*\| \d+\.\d\d \|", README, flags=re.M):
        assert isinstance(getattr(jaxnn, name), jaxnn.Op)


def test_the_pictures_are_made_by_experiments_and_small():
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert len(pictures) == 4
    for picture in map(Path, pictures):
        assert f"`python -m experiments.{picture.stem}" in README
        assert (ROOT / picture).stat().st_size <= 200_000


def test_the_table_of_the_notes_names_tests_and_functions_that_exist():
    rows = re.findall(r"^\|.*?\|.*?\| (.*) \| `(test_\w+\.py)::(test_\w+)` \|$", README, flags=re.M)
    assert len(rows) >= 25
    for functions, file, test in rows:
        assert f"def {test}(" in (ROOT / "tests/notes" / file).read_text()
        for name in re.findall(r"`([\w.]+)`", functions):
            owner = jaxnn if hasattr(jaxnn, name.split(".")[0]) else jaxnn.jacobians
            assert attrgetter(name)(owner)
