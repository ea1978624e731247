import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from experiments import activations


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    activations.main(["--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())["activations"]


def test_every_activation_agrees_with_autodiff(result):
    assert {"identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu"} <= set(result)
    for name, row in result.items():
        assert row["difference_from_autodiff"] < 1e-12, name


@pytest.mark.parametrize(
    ("name", "at_0", "largest"),
    [("identity", 1, 1), ("sigmoid", 0.25, 0.25), ("tanh", 1, 1), ("relu", 0, 1), ("elu", 1, 1)],
)
def test_derivatives(result, name, at_0, largest):
    assert result[name]["derivative_at_0"] == at_0
    assert result[name]["largest_derivative"] == largest


def test_ranges(result):
    assert result["relu"]["range"] == [0, 10]
    assert result["tanh"]["range"] == pytest.approx([-1, 1], abs=1e-8)
    assert result["silu"]["range"][0] == pytest.approx(-0.2784645, abs=1e-4)


def test_kinks(result):
    assert result["relu"]["kinks"] == [{"x": 0, "left": 0, "right": 1, "convention": 0}]
    assert result["leaky_relu"]["kinks"] == [{"x": 0, "left": 0.01, "right": 1, "convention": 0.01}]
    assert [(kink["x"], kink["convention"]) for kink in result["relu6"]["kinks"]] == [
        (0, 0),
        (6, 0),
    ]
    assert [(k["x"], k["convention"]) for k in result["hard_swish"]["kinks"]] == [(-3, 0), (3, 1)]
    for name in ("identity", "sigmoid", "tanh", "elu", "softplus", "silu", "gelu", "mish", "celu"):
        assert result[name]["kinks"] == []


class Input(NamedTuple):
    """The input."""

    x: jax.Array


def op(definition, derivative):
    made = jaxnn.op(lambda x: definition(x))
    made.forward(lambda x: (definition(x), Input(x)))
    made.backward(lambda residuals, dy: (derivative(residuals.x) * dy,))
    return made


def test_kinks_away_from_0():
    hard_tanh = op(lambda x: jnp.clip(x, -1, 1), lambda x: jnp.where(abs(x) < 1, 1.0, 0.0))
    below, above = activations.measure(hard_tanh).kinks
    assert below == (-1, 0, 1, 0)
    assert above == (1, 1, 0, 0)


def test_a_wrong_derivative_is_seen():
    wrong = op(jnp.sin, lambda x: 1.001 * jnp.cos(x))
    assert activations.measure(wrong).difference == pytest.approx(0.001)


def test_picture(output):
    data = (output / "activations.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 300_000


def test_the_dots_stand_at_the_kink():
    curve = activations.measure(jaxnn.leaky_relu)
    figure = activations.draw({jaxnn.leaky_relu: curve})
    _, below = (axes for axes in figure.axes if axes.lines)
    line, limits, dot = below.lines
    assert np.isnan(line.get_ydata()[activations.X == 0])
    assert list(limits.get_ydata()) == [0.01, 1]
    assert limits.get_markerfacecolor() == "white"
    assert dot.get_xydata().tolist() == [[0, 0.01]]
    activations.plt.close(figure)
