import json

import jax
import numpy as np
import pytest

import jaxnn
from experiments import cnn, digits

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("cnn")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        settings = ("--channels", "8", "--epochs", "3", "--output", str(folder))
        cnn.main(list(settings))
    return folder


def test_result(output):
    result = json.loads((output / "result.json").read_text())
    for name in ("convolution", "plain"):
        assert result[name]["test_accuracy"] > 0.8
        assert all(error <= 1e-5 for error in result[name]["gradient_error"].values())
        assert result[name]["train_loss"][-1] < result[name]["train_loss"][0]
    assert len(result["convolution"]["gradient_error"]) == 8


def test_the_saved_state_gives_the_stated_accuracy(output):
    net = cnn.convolutional(8, 0.3)
    with jax.enable_x64(False):
        like = jax.eval_shape(
            lambda key: {"params": net.init(key), "state": net.init_state()}, jax.random.key(0)
        )
        saved = jaxnn.load_params(output / "convolution.safetensors", like)
        data = digits.load("digits")
        measured = jaxnn.evaluate(
            net,
            jaxnn.softmax_cross_entropy,
            saved["params"],
            (data.test_x, data.test_labels),
            state=saved["state"],
            metrics=jaxnn.accuracy,
        )
    result = json.loads((output / "result.json").read_text())
    assert measured["accuracy"] == result["convolution"]["test_accuracy"]


def test_pictures(output):
    for name in ("curves", "filters", "misread"):
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_kernels_are_sorted_by_the_sum_of_their_weights(readable):
    kernels = np.array([np.full(9, 1.0), np.eye(3).ravel() - 1 / 3, np.full(9, -2.0)])
    figure = cnn.draw_filters(kernels.T.reshape(3, 3, 1, 3))
    readable("filters", figure)
    assert figure.get_suptitle().splitlines()[0].endswith("respond to edges: 1 of 3")
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["−1.00", "+0.00", "+1.00"]
    cnn.plt.close(figure)


def test_an_error_of_0_is_shown(readable):
    histories = {name: {"validation_accuracy": [1.0, 1.0]} for name in ("convolution", "plain")}
    figure = cnn.draw_curves(histories)
    readable("curves", figure)
    (axes,) = figure.axes
    assert axes.get_ylim()[0] <= 0 < axes.get_ylim()[1]
    assert "misreads 0.0% of the test images" in axes.get_title()
    cnn.plt.close(figure)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--dropout", "1"), ("--dropout", "much"), ("--channels", "0"), ("--batch-size", "9999")],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(cnn.main, "--output", tmp_path, option, value)
    assert option in line
    assert value in line
