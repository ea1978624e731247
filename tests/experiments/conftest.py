import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

import jaxnn
from experiments import common

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


def check_texts(name, figure):
    """Fail if a text of the figure is cut by its edge or overlaps another text."""
    text_class = common.require("matplotlib.text").Text
    draw, places = text_class.draw, []

    def record(text, renderer):
        draw(text, renderer)
        if text.get_visible() and text.get_text().strip():
            places.append((text.get_text(), text.get_window_extent(renderer)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_class, "draw", record)
        figure.canvas.draw()
    assert places
    for text, place in places:
        inside = figure.bbox.containsx(place.x0) and figure.bbox.containsx(place.x1)
        inside &= figure.bbox.containsy(place.y0) and figure.bbox.containsy(place.y1)
        assert inside, f"{name}: {text!r} is cut"
    for (text, place), (other, beside) in combinations(places, 2):
        assert not place.padded(-1).overlaps(beside), f"{name}: {text!r} overlaps {other!r}"


@pytest.fixture(scope="module")
def readable():
    """`check_texts` of each picture that a program saves, and the function itself."""
    save = common.save_pictures

    def check_and_save(folder, **figures):
        for name, figure in figures.items():
            check_texts(name, figure)
        save(folder, **figures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_pictures", check_and_save)
        yield check_texts
