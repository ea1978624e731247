"""What every experiment owes its user, whatever it shows."""

import importlib

import pytest

from experiments.__main__ import experiments

NAMES = list(experiments())


REQUIRED = {"benchmark": ["training"]}


def main_of(name):
    experiment = importlib.import_module(f"experiments.{name}")
    if hasattr(experiment, "__path__"):
        experiment = importlib.import_module(f"experiments.{name}.__main__")
    return experiment.main


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
