import json
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxnn
from experiments import activations


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
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
    assert result["leaky_relu"]["kinks"] == [{"x": 0, "left": 0.1, "right": 1, "convention": 0.1}]
    assert [(kink["x"], kink["convention"]) for kink in result["relu6"]["kinks"]] == [
        (0, 0),
        (6, 0),
    ]
    assert [(k["x"], k["convention"]) for k in result["hard_swish"]["kinks"]] == [(-3, 0), (3, 1)]
    for name in ("identity", "sigmoid", "tanh", "elu", "softplus", "silu", "gelu", "mish", "celu"):
        assert result[name]["kinks"] == []


SELU = {"λ": 1.0507009873554805, "α": 1.6732632423543772}


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


@pytest.mark.parametrize("op", activations.OPS, ids=lambda op: op.__name__)
def test_the_formulas_give_the_curves(op):
    curve = activations.measure(op)
    y, derivative = activations.FORMULAS[op.__name__]
    y, _, auxiliary = y.partition(",  ")
    symbols = {activations.SYMBOLS.get(name, name): value for name, value in op.options.items()}
    known = SELU | symbols | {"x": activations.X}
    if auxiliary:
        name, _, formula = auxiliary.partition(" = ")
        known[name] = worked_out(formula, known)
    known["y"] = worked_out(y, known)
    np.testing.assert_allclose(known["y"], curve.y, atol=1e-12)
    found = worked_out(derivative, known) * np.ones_like(activations.X)
    np.testing.assert_allclose(found, curve.derivative, atol=1e-12)


def worked_out(formula, known):
    """The value of a formula of the picture, by NumPy."""
    formula = re.sub(r"(\S+) ([<≤]) x ([<≤]) ([^,\s]+)", r"(\1 \2 x) & (x \3 \4)", formula)
    formula = re.sub("(.+) where (.+), else (.+)", r"where(\2, \1, \3)", formula)
    signs = {"·": "*", "−": "-", "²": "**2", "√": "sqrt", "≤": "<=", "|x|": "abs(x)"}
    powers = {"e⁻ˣ": "exp(-x)", "eˣ": "exp(x)", "e^": "exp", "1[": "(", "]": ")"}
    for printed, python in (signs | powers).items():
        formula = formula.replace(printed, python)
    functions = {"max": np.maximum, "min": np.minimum, "Φ": norm.cdf, "φ": norm.pdf}
    functions |= {"σ": lambda z: 1 / (1 + np.exp(-z))}
    functions |= {
        name: getattr(np, name) for name in ("where", "exp", "log", "sqrt", "tanh", "sign")
    }
    return eval(formula, functions | known)


def test_every_panel_shows_the_kinks(result):
    """The dots lie inside the axes."""
    curves = {op: activations.measure(op) for op in activations.OPS}
    figure = activations.draw(curves)
    for axes, curve in zip(figure.axes, curves.values(), strict=False):
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        for kink in curve.kinks:
            assert left < kink.x < right
            assert all(low < value < high for value in kink[1:])
    activations.plt.close(figure)


def test_picture(output):
    data = (output / "activations.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 500_000


def test_the_dots_stand_at_the_kink():
    curve = activations.measure(jaxnn.leaky_relu)
    figure = activations.draw({jaxnn.leaky_relu: curve})
    (axes,) = (axes for axes in figure.axes if axes.lines)
    _, line, limits, dot = axes.lines
    assert np.isnan(line.get_ydata()[activations.X == 0])
    assert list(limits.get_ydata()) == [0.01, 1]
    assert limits.get_markerfacecolor() == "white"
    assert dot.get_xydata().tolist() == [[0, 0.01]]
    activations.plt.close(figure)
