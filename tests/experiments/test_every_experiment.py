"""What every experiment owes its user, whatever it shows."""

import importlib

import jax
import pytest

from experiments.__main__ import experiments

NAMES = list(experiments())


REQUIRED = {"benchmark": ["training"]}
RUN = {"site": "build"}  # the function that does the work, where it is not `run`


def module_of(name):
    experiment = importlib.import_module(f"experiments.{name}")
    if hasattr(experiment, "__path__"):
        experiment = importlib.import_module(f"experiments.{name}.__main__")
    return experiment


def main_of(name):
    return module_of(name).main


def test_the_list_has_a_line_for_each(python):
    listed = python("-m", "experiments").stdout
    for name, line in experiments().items():
        assert f"{name} " in listed
        assert line.endswith(".")
        assert line in listed


@pytest.mark.parametrize("name", NAMES)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        main_of(name)(["--help"])
    assert left.value.code == 0
    assert "usage: python -m experiments." in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option(name, leaves_with_one_line):
    line = leaves_with_one_line(main_of(name), *REQUIRED.get(name, ()), "--no-such-option")
    assert "--no-such-option" in line


@pytest.mark.parametrize("name", [name for name in NAMES if name != "find_the_bug"])
def test_a_folder_that_cannot_be_written(name, leaves_with_one_line, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    line = leaves_with_one_line(main_of(name), *REQUIRED.get(name, ()), "--output", folder)
    assert "cannot write" in line


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt, 130, "interrupted"),
        (FloatingPointError("training diverged"), 1, "training diverged"),
    ],
    ids=["interrupted", "diverged"],
)
def test_a_run_that_fails(name, error, status, words, monkeypatch, capsys, tmp_path):
    """It ends with one line, and leaves no result that another run has written."""

    def fail(*arguments):
        raise error

    output = [] if name == "find_the_bug" else ["--output", str(tmp_path)]
    (tmp_path / "result.json").touch()
    monkeypatch.setattr(module_of(name), RUN.get(name, "run"), fail)
    with jax.enable_x64(False), pytest.raises(SystemExit) as left:
        main_of(name)([*REQUIRED.get(name, ()), *output])
    assert left.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m experiments.{name}: {words}")
    assert bool(output) != (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", ("--learning-rate", 1e9)),
        ("digits", ("--learning-rate", 1e9, "--optimizer", "adam")),
        ("line_fit", ("--learning-rate", 1e9)),
        ("char_lstm", ("--learning-rate", 1e9, "--steps", 40, "--hidden", 8)),
    ],
)
def test_a_run_that_diverges(name, options, capsys, tmp_path, standard_promotion):
    (tmp_path / "result.json").touch()
    with jax.enable_x64(False), pytest.raises(SystemExit) as left:
        main_of(name)([*map(str, options), "--output", str(tmp_path)])
    assert left.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"python -m experiments.{name}: ")
    assert not (tmp_path / "result.json").exists()
