"""Every code block of the README runs or is what it says it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn
from experiments.__main__ import experiments

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


def test_one_page():
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 9000


def test_the_picture_is_made_by_an_experiment_and_small():
    (picture,) = map(Path, re.findall(r"!\[.+?\]\((.+?)\)", README))
    assert picture.stem in experiments()
    assert (ROOT / picture).stat().st_size <= 200_000


@pytest.mark.parametrize("link", re.findall(r"[^!]\[.+?\]\((?!http)(.+?)\)", README))
def test_links_name_files(link):
    assert (ROOT / link).is_file()


def test_the_figures_were_measured():
    """Each row of the table repeats figures of the benchmark's tables."""

    def figures(suite, row):
        (line,) = [line for line in table(suite).splitlines() if line.startswith(f"| {row}")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    def table(suite):
        return (ROOT / f"experiments/site/measured/{suite}.md").read_text()

    norms = figures("per_example", "MLP 784-512-512-10")
    assert f"{norms[2]} × the time of a step" in README
    times, memory = re.findall(r"\d+", norms[6])
    assert f"{times} × (`vmap(grad)`, with {memory} × the memory)" in README
    diagonal = figures("per_example", "diag_ggn")
    assert f"{float(diagonal[2]):g} × the time of a gradient" in README
    for op in ("linear_softmax_cross_entropy", "attention", "max_pool"):
        *_, mebibytes, of_autodiff = figures("ops", f"`{op}`")
        assert f"{float(mebibytes):.0f} MiB" in README
        assert f"{float(of_autodiff):.0f} MiB" in README
    for suite, row in (("ops", "`attention`"), ("ops", "`max_pool`"), ("training", "CNN")):
        ratio = figures(suite, row)[{"ops": 2, "training": 3}[suite]]
        assert f"{ratio} × the time" in README
