import inspect
import json

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from experiments import backprop_graph
from jaxnn.ops.activations import piecewise

SMALL = ("--hidden", "7", "6", "--batch-size", "5")


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("backprop_graph")
    with jax.enable_x64(False):
        backprop_graph.main([*SMALL, "--epochs", "2", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_the_gradients_are_those_of_autodiff(result):
    for moment in ("before", "after"):
        assert 0 < result[moment]["gradient_error"] < 1e-5
    assert result["after"]["loss"] < result["before"]["loss"]


def test_the_boxes(result):
    boxes = {box["title"]: box for box in result["before"]["boxes"]}
    assert list(boxes) == [
        *("Input", "Linear 1", "ReLU 1", "Linear 2", "ReLU 2", "Linear 3", "Softmax cross-entropy")
    ]
    assert [box["shape"] for box in boxes.values()] == [
        *([5, 64], [5, 7], [5, 7], [5, 6], [5, 6], [5, 10], [5])
    ]
    for title, box in boxes.items():
        assert box["low"] < box["high"]
        if title in ("Input", "Softmax cross-entropy"):
            assert box["delta"] is None
        else:
            assert box["delta"]["shape"] == box["shape"]
    assert boxes["ReLU 1"]["low"] == 0
    assert boxes["ReLU 1"]["delta"]["norm"] > boxes["Linear 1"]["delta"]["norm"]
    assert {name: g["shape"] for name, g in boxes["Linear 2"]["grads"].items()} == {
        "w": [7, 6],
        "b": [6],
    }


def test_an_array_that_two_boxes_keep_is_counted_once(result):
    kept = {
        (box["title"], array["name"]): array
        for box in result["before"]["boxes"]
        for array in box["kept"]
    }
    shared = {key for key, array in kept.items() if array["shared"]}
    assert shared == {("Linear 2", "x"), ("Linear 3", "x")}
    n_params = 64 * 7 + 7 + 7 * 6 + 6 + 6 * 10 + 10
    n_values = 5 * (64 + 7 + 6 + 10 + 3)
    assert result["before"]["kept_bytes"] == 4 * (n_params + n_values + 5)


def test_pictures(output):
    for name in ("before", "after"):
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_a_wrong_delta_is_seen():
    wrong_relu = jaxnn.op(inspect.unwrap(jaxnn.relu))
    wrong_relu.forward(piecewise.relu_fwd)
    wrong_relu.backward(lambda residuals, dy: (1.01 * jnp.where(residuals.y > 0, dy, 0),))
    net = jaxnn.serial(jaxnn.Linear(4, 3), wrong_relu)
    params = net.init(jax.random.key(0))
    x, labels = jax.random.normal(jax.random.key(1), (5, 4)), jnp.array([0, 1, 2, 0, 1])
    boxes = backprop_graph.boxes(net, jaxnn.softmax_cross_entropy, params, x, labels)
    _, linear, relu, _ = boxes
    assert relu.delta.error < 1e-12
    assert linear.delta.error == pytest.approx(0.01)
    assert linear.grads["b"].error == pytest.approx(0.01)
    assert backprop_graph.worst_error(boxes) == pytest.approx(0.01)


def test_size():
    assert backprop_graph.size(1023) == "1023 B"
    assert backprop_graph.size(1536) == "1.5 KiB"
    assert backprop_graph.size(5 * 2**20) == "5.0 MiB"


def test_without_training_there_is_one_picture(tmp_path):
    with jax.enable_x64(False):
        backprop_graph.main([*SMALL, "--epochs", "0", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.glob("*.png")} == {"before.png"}


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--hidden", (0,)),
        ("--hidden", (1, 2, 3, 4, 5)),
        ("--batch-size", (1438,)),
        ("--epochs", (-1,)),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, values):
    line = leaves_with_one_line(backprop_graph.main, "--output", tmp_path, option, *values)
    assert option in line
