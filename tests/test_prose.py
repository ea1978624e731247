"""The check of the prose finds the habits that it lists, with their lines."""

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / ".ci" / "prose"


def checked(*files):
    return subprocess.run([CHECK, *files], capture_output=True, text=True)


def test_all_prose_is_free_of_them():
    assert checked().stdout == "no habit found\n"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "One.\n\nWhat is left\nout becomes 0.\n", 3),
        ("code.py", 'x = 1\n\n\ndef f():\n    """A loss of one\'s own."""\n', 5),
        ("code.py", "left_out = 1\n# the axis that was\nx = 2  # left out here\n", 3),
        ("code.py", 'raise ValueError(f"{x} is\\n left out")\n', 1),
    ],
)
def test_a_habit_is_found_at_its_line(tmp_path, name, text, line):
    file = tmp_path / name
    file.write_text(text)
    found = checked(file)
    assert found.returncode == 1
    assert f"{name}:{line}: " in found.stdout


def test_names_are_not_prose(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("left_out = proves = 1\n")
    assert checked(file).returncode == 0
