"""The scripts of the site's gallery, each run as the build of the site runs it."""

import re
import runpy
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parents[2] / "experiments/site/examples"
PRINTED = {
    "plot_causal_attention": "after 'abracadabr' the second head predicts 'a'",
    "plot_finite_difference_step": r"relative error of the backward pass: \d\.\de-1[67]",
    "plot_kinks": r"relu: slopes around \+0 are \[0\. 0\. 1\.\]",
    "plot_mislabelled_digits": r"the 180 largest norms include 1[5-7]\d of 179 wrong labels",
    "plot_softmax_jacobian": r"sums of the rows: \[(-?0\. ?){5}\]",
    "plot_vanishing_gradient": "",
    "plot_wrong_gradient": "d_x treats the root mean square as a constant",
}


def test_every_script_is_run():
    assert {path.stem for path in FOLDER.glob("plot_*.py")} == set(PRINTED)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "pattern"), PRINTED.items())
def test_a_script(name, pattern, readable, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    with plt.rc_context(), jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        plt.rcdefaults()
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        (figure,) = shown
        readable(name, figure)
        plt.close(figure)
    assert re.search(pattern, capsys.readouterr().out)
