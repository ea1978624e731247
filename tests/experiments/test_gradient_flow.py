import json

import jax
import numpy as np
import pytest

import jaxnn
from experiments import gradient_flow

SETTINGS = {"depth": 6, "width": 32, "batch-size": 40, "train-depth": 1, "epochs": 1}


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("gradient_flow")
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    with jax.enable_x64(False):
        gradient_flow.main([*settings, "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_no_activation_passes_back_more_than_its_largest_slope(result):
    for case in result["cases"].values():
        assert 0 < case["factors"]["activation"] <= case["factors"]["largest"]
        assert case["factors"]["largest"] <= case["largest_slope"]


def test_the_factor_of_a_layer_is_that_of_its_ends(result):
    for case in result["cases"].values():
        delta = case["deepest"]["delta"]
        assert len(delta) == SETTINGS["depth"]
        whole = (delta[0] / delta[-1]) ** (1 / (len(delta) - 1))
        assert case["factors"]["layer"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("sigmoid, Xavier", 0.24), ("tanh, Xavier", 0.9), ("ReLU, Xavier", 0.5**0.5), ("ReLU, He", 1)],
)
def test_the_factor_is_what_theory_says(result, name, factor):
    assert result["cases"][name]["factors"]["layer"] == pytest.approx(factor, rel=0.2)


def test_the_sigmoid_starves_the_first_layer_and_he_feeds_it(result):
    assert result["depths"] == [2, 3, 4, 5, 6]
    sigmoid = np.array(result["cases"]["sigmoid, Xavier"]["first_layer_weight_gradient"])
    relu = np.array(result["cases"]["ReLU, He"]["first_layer_weight_gradient"])
    assert all(sigmoid[1:] < 0.5 * sigmoid[:-1])
    assert relu[-1] > 0.3 * relu[0]


def test_the_norms_are_those_of_autodiff():
    case = gradient_flow.CASES["sigmoid, Xavier"]
    rng = np.random.default_rng(0)
    x, labels = rng.random((40, 64), np.float32), np.arange(40, dtype=np.int32) % 10
    flow = gradient_flow.measure(case, x, labels, 32, 3, seed=4)
    net = gradient_flow.network(case, 64, 32, 3)
    params = net.init(jax.random.key(4))
    autodiff = gradient_flow.common.autodiff(net, jaxnn.softmax_cross_entropy)
    _, grads = autodiff(params, x.astype(np.float64), labels)
    expected = [np.linalg.norm(layer["w"]) for layer in grads if layer]
    np.testing.assert_allclose(flow.dw, expected[:-1], rtol=1e-10)


def test_a_hundred_layers_do_not_underflow():
    case = gradient_flow.CASES["sigmoid, Xavier"]
    x, labels = np.ones((40, 64), np.float32), np.zeros(40, np.int32)
    flow = gradient_flow.measure(case, x, labels, 32, 100, seed=0)
    assert 0 < flow.delta[0] < 1e-50


def test_the_titles_name_the_ends_of_the_curves():
    flow = gradient_flow.Flow(delta=[1e-3, 0.1, 1.0], after=[0.1, 1.0, 1.0], dw=[2e-6, 1.0, 1.0])
    flows = dict.fromkeys(gradient_flow.CASES, flow)
    first_dw = {name: [1.0, 2e-6] for name in gradient_flow.CASES}
    figure = gradient_flow.draw_flow(flows, first_dw, [2, 3])
    back, first = (axes.get_title() for axes in figure.axes)
    assert "× 0.001 with the sigmoid" in back
    assert "first of 3 layers:\n2e−06 with the sigmoid" in first
    gradient_flow.plt.close(figure)


def test_pictures(output):
    for name in ("flow", "training"):
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--depth", 1),
        ("--depth", 101),
        ("--width", 31),
        ("--batch-size", 1438),
        ("--train-depth", 0),
        ("--epochs", 0),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(gradient_flow.main, "--output", tmp_path, option, value)
    assert option in line
    assert str(value) in line
