import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def python():
    """Run Python from the root of the repository, with JAX as a user has it."""

    def run(*arguments):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def leaves_with_one_line(capsys):
    """A program's `main` leaves with status 2 and says why in one line."""

    def check(main, *arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return check
