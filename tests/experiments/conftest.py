import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn

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


@pytest.fixture
def with_wrong_bias():
    """A network whose bias of one layer has a gradient that is 1 % too large."""

    def planted(net, layer=0):
        def bwd(residuals, dy):
            dparams, dx = net.bwd(residuals, dy)
            dparams[layer]["b"] = 1.01 * dparams[layer]["b"]
            return dparams, dx

        return jaxnn.layer(net.init, net.apply, net.fwd, bwd)

    return planted
