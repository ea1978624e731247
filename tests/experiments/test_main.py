"""`python -m experiments`: the list, and a program by its name."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as command_line

ROOT = Path(__file__).parents[2]


def test_a_new_program_is_found_and_a_helper_is_not(tmp_path):
    path = shutil.copy(command_line.__file__, tmp_path)
    (tmp_path / "apple.py").write_text('"""Apple: a program.\n\nMore."""\ndef main(): ...')
    (tmp_path / "helper.py").write_text('"""No program."""')
    for name in ("pears", "pictures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('"""Pears: a folder."""')
    (tmp_path / "pears" / "__main__.py").touch()
    spec = importlib.util.spec_from_file_location("copy", path)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.experiments() == {"apple": "Apple: a program.", "pears": "Pears: a folder."}


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_list(capsys, arguments):
    command_line.main(arguments)
    listed = capsys.readouterr().out
    for name, line in command_line.experiments().items():
        assert f"\n{name} " in listed
        assert line in listed


@pytest.mark.parametrize("name", ["two_two_one", "benchmark", "site"])
def test_a_program_by_its_name(python, name):
    finished = python("-m", "experiments", name, "--help")
    assert finished.returncode == 0, finished.stderr
    assert f"usage: python -m experiments.{name} " in finished.stdout


def test_options_reach_the_program(python):
    finished = python("-m", "experiments", "find_the_bug", "--list")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == python("-m", "experiments.find_the_bug", "--list").stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digts", "did you mean digits?"),
        ("benchmarks", "did you mean benchmark?"),
        ("xyz", "python -m experiments lists all"),
        ("common", "python -m experiments lists all"),
    ],
)
def test_an_unknown_name(leaves_with_one_line, name, hint):
    line = leaves_with_one_line(command_line.main, name, "--epochs", 2)
    assert line == f"python -m experiments: error: no experiment {name!r}; {hint}"


@pytest.mark.parametrize("arguments", [("experiments.activations",), ("experiments", "cnn")])
def test_ctrl_c_while_modules_load(tmp_path, arguments):
    (tmp_path / "optax.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
    )
    finished = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 130
    assert finished.stderr == "interrupted\n"


def test_importing_the_experiments_leaves_ctrl_c_alone(python):
    finished = python(
        "-c",
        "import signal, experiments.__main__;"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler",
    )
    assert finished.returncode == 0, finished.stderr
