import json

import jax
import numpy as np
import pytest

import jaxnn
from experiments import line_fit

PICTURES = ("lines", "surface", "taylor")


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("line_fit")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        line_fit.main(["--seed", "3", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_the_closed_form_is_that_of_numpy(result):
    x, y = line_fit.load()
    slope, intercept = np.polyfit(x.ravel(), y.ravel(), 1)
    residuals = y - slope * x - intercept
    assert result["closed_form"] == pytest.approx(
        {
            "w": slope,
            "b": intercept,
            "sse": np.sum(residuals**2),
            "r2": np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2,
        },
        rel=1e-10,
    )


def test_sgd_reaches_the_closed_form(result):
    for leaf in "wb":
        error = abs(result["sgd"][leaf] / result["closed_form"][leaf] - 1)
        assert 0 < error <= 1e-4
        assert result["relative_error"][leaf] == pytest.approx(error)
    assert result["sgd"]["sse"] >= result["closed_form"]["sse"]


def test_the_order_of_the_taylor_remainder(result):
    right, wrong = result["taylor_order"].values()
    assert right == pytest.approx(2, abs=0.005)
    assert wrong == pytest.approx(1, abs=0.1)


def test_a_gradient_that_is_slightly_wrong_has_order_1():
    x, y = map(line_fit.standardise, line_fit.load())
    gradient = jax.jit(jaxnn.value_and_grad(jaxnn.Linear(1, 1), jaxnn.squared_error))

    def wrong(params):
        value, grads = gradient(params, x, y)
        return value, grads | {"b": 1.01 * grads["b"]}

    assert line_fit.order(line_fit.taylor_remainders(wrong, 0)["bwd"]) < 1.5


def test_the_units_of_the_data():
    x, y = line_fit.load()
    w, b = line_fit.in_units_of_data(0.4, 0.2, x, y)
    standardised = 0.4 * line_fit.standardise(x) + 0.2
    np.testing.assert_allclose(w * x + b, y.mean() + y.std() * standardised, rtol=1e-12)


@pytest.mark.parametrize(("b", "sign"), [(-1.5, "−"), (1.5, "+")])
def test_the_sign_of_the_intercept(b, sign):
    x, y = line_fit.load()
    line = {"w": 2, "b": b, "r2": 0.1}
    figure = line_fit.draw_lines(x, y, {"closed form": line, "SGD": line}, 1e-3)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[1] == f"closed form: ŷ = 2.000·x {sign} 1.50"
    line_fit.plt.close(figure)


def test_pictures(output):
    for name in PICTURES:
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_a_loss_that_overflows_is_reported_in_one_line(tmp_path, capsys, standard_promotion):
    with pytest.raises(SystemExit) as left:
        line_fit.main(["--learning-rate", "1e30", "--epochs", "1", "--output", str(tmp_path)])
    assert left.value.code == 1
    assert "non-finite" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", 0),
        ("--batch-size", 0),
        ("--batch-size", 443),
        ("--learning-rate", "nan"),
        ("--seed", -1),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(line_fit.main, "--output", tmp_path, option, value)
    assert option in line
    assert str(value) in line
