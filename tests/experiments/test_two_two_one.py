import json

import jax
import numpy as np
import pytest

import jaxnn
from experiments import two_two_one

GOLDEN = {
    "b0": 0.013367920422887463,
    "b1": 0.014996075488896856,
    "b2": 0.13849856162855698,
    "w0": 0.0006683960211443732,
    "w1": 0.0013367920422887463,
    "w2": 0.0007498037744448428,
    "w3": 0.0014996075488896857,
    "w4": 0.08216704056423078,
    "w5": 0.08266762784753326,
}
ASYMMETRIC = ("--x", "-1.5", "0.7", "--y", "0.2", "--biases", "0.3", "-0.4", "0.1")
OTHER_WEIGHTS = ("--weights", "0.5", "-0.8", "1.1", "0.9", "-0.6", "1.3")


@pytest.fixture(scope="module")
def train(tmp_path_factory, readable):
    def run(*arguments):
        folder = tmp_path_factory.mktemp("two_two_one")
        two_two_one.main(["--steps", "20", "--output", str(folder), *arguments])
        return folder, json.loads((folder / "result.json").read_text())

    return run


@pytest.fixture(scope="module")
def published(train):
    return train()


@pytest.fixture(scope="module")
def other(train):
    return train(*ASYMMETRIC, *OTHER_WEIGHTS)


def test_the_published_values(published):
    values = published[1]["values"]
    for name, value in (("a0", 0.593269992), ("a1", 0.596884378), ("a2", 0.751365070)):
        assert values[name] == pytest.approx(value, abs=5e-10)
    assert values["L"] == pytest.approx(0.274811083, abs=5e-10)


@pytest.mark.parametrize("way", ["chain rule", "bwd", "jax.grad"])
def test_the_gradient_to_every_digit(published, way):
    assert published[1]["partials"][way] == pytest.approx(GOLDEN, rel=4e-15)


def test_all_four_ways_agree_where_no_two_numbers_are_alike(other):
    partials, relative = other[1]["partials"], other[1]["relative_difference_to_bwd"]
    assert len({round(partial, 6) for partial in partials["bwd"].values()}) == 9
    for way, largest in (("chain rule", 1e-13), ("jax.grad", 1e-13), ("differences", 1e-8)):
        assert max(relative[way].values()) <= largest
        assert partials[way] == pytest.approx(partials["bwd"], rel=2 * largest)


def test_the_gradient_of_everything_between(other):
    """The library's, against autodiff of the same network, its inputs and its target."""
    p, gradients = other[1]["values"], other[1]["gradients"]
    names = ("x0", "x1", "y")
    expected = jax.grad(lambda q: two_two_one.forward(p | q)["L"])({k: p[k] for k in names})
    assert {k: gradients[k] for k in names} == pytest.approx(jax.tree.map(float, expected))
    deltas, _ = two_two_one.chain_rule(p)
    for n in "012":
        slope = p[f"a{n}"] * (1 - p[f"a{n}"])
        assert gradients[f"z{n}"] == pytest.approx(float(deltas[f"δ{n}"]))
        assert gradients[f"a{n}"] == pytest.approx(gradients[f"z{n}"] / slope)


def test_the_first_step_lowers_the_loss_as_the_gradient_promises(train):
    _, result = train("--learning-rate", "1e-4", "--steps", "2")
    first, second, _ = result["loss"]
    assert first == pytest.approx(result["values"]["L"])
    promised = 1e-4 * sum(partial**2 for partial in GOLDEN.values())
    assert first - second == pytest.approx(promised, rel=1e-3)


def test_the_loss_falls_at_every_step(published, other):
    for _, result in (published, other):
        assert len(result["loss"]) == 21
        assert (np.diff(result["loss"]) < 0).all()


def test_the_tree_of_parameters():
    p = {name: float(i) for i, name in enumerate(two_two_one.FORMULAS)}
    params = two_two_one.to_params(p)
    assert two_two_one.from_params(params) == p
    net = jaxnn.mlp((2, 2, 1), activation=jaxnn.sigmoid, output=jaxnn.sigmoid)
    x = np.array([[0.3, -0.2]])
    values = two_two_one.forward(p | {"x0": 0.3, "x1": -0.2, "y": 0.0})
    assert net.apply(params, x).item() == pytest.approx(float(values["a2"]), rel=1e-15)


def test_without_x64_the_numbers_are_the_same(published, tmp_path):
    with jax.enable_x64(False):
        two_two_one.main(["--steps", "20", "--output", str(tmp_path)])
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["partials"] == published[1]["partials"]
    assert again["loss"] == published[1]["loss"]


def test_every_value_and_gradient_is_on_the_graph(other):
    values, gradients = other[1]["values"], other[1]["gradients"]
    figure = two_two_one.draw_graph(values, gradients)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert len(values) == len(gradients) == 19
    for name, value in values.items():
        assert f"{name} = {value:.5g}".replace("-", "−") in texts
        assert f"∂L/∂{name} = {gradients[name]:#.4g}".replace("-", "−") in texts
    assert {"a0 = σ(z0)", "a1 = σ(z1)", "a2 = σ(z2)"} < texts
    two_two_one.plt.close(figure)


@pytest.mark.parametrize("name", ["graph", "descent"])
def test_pictures(published, name):
    data = (published[0] / f"{name}.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


def test_a_gradient_of_zero(train):
    """Saturated units: a0 = a1 = 1 to the last bit, so that their derivatives are exactly 0."""
    _, result = train("--x", "100", "100", "--weights", *("1", "2", "3", "4", "0.1", "-0.2"))
    for way in result["partials"].values():
        assert [way[name] for name in ("w0", "w3", "b1")] == [0, 0, 0]
    assert max(result["relative_difference_to_bwd"]["chain rule"].values()) <= 1e-13


def test_a_step_that_leaves_the_numbers_takes_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        two_two_one.main(["--learning-rate", "1e308", "--y", "100", "--output", str(tmp_path)])
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "non-finite" in line


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--x", ["1"]),
        ("--x", ["1", "nan"]),
        ("--y", ["inf"]),
        ("--y", ["one"]),
        ("--weights", ["1", "2", "3", "4", "5"]),
        ("--biases", ["0", "0", "101"]),
        ("--learning-rate", ["-1"]),
        ("--steps", ["0"]),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, values):
    line = leaves_with_one_line(two_two_one.main, "--output", tmp_path, option, *values)
    assert option in line
