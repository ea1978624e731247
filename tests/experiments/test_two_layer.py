import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from experiments import two_layer

SETTINGS = ("--epochs", "3", "--hidden", "5", "--seed", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, readable):
    """A small run: the folder, and the results of each task."""
    folder = tmp_path_factory.mktemp("two_layer")
    only = ("--f", "sigmoid", "--g", "sigmoid", "--output", str(folder))
    with jax.enable_x64(False):
        two_layer.main([*SETTINGS, *only])
    networks = json.loads((folder / "result.json").read_text())["networks"]
    return folder, {network["task"]: network for network in networks}


@pytest.fixture
def networks():
    """Every network, with a batch for it, in float32."""
    with jax.enable_x64(False):
        made = []
        for task, losses in two_layer.LOSSES.items():
            data = two_layer.load(task)
            batch = [jnp.asarray(array[: two_layer.BATCH_SIZE]) for array in data[:2]]
            for f in two_layer.ACTIVATIONS:
                for g in losses:
                    sizes = data.x.shape[1], 5, 1
                    made.append((two_layer.build(task, f, g, sizes, seed=1), *batch))
        yield made


@pytest.mark.parametrize("task", two_layer.LOSSES)
def test_result(trained, task):
    result = trained[1][task]
    assert (result["f"], result["g"]) == ("sigmoid", "sigmoid")
    assert max(result["gradient_error"].values()) <= 1e-5
    assert result["next_loss"] < result["loss"]
    for losses in (result["train_loss"], result["test_loss"]):
        assert len(losses) == 3
        assert losses[-1] < losses[0]


def test_measures(trained):
    regression, classification = trained[1]["regression"], trained[1]["classification"]
    assert 0.5 < classification["accuracy"] <= 1
    data = two_layer.load("regression")
    mean_square = regression["test_loss"][-1]
    assert regression["rmse"] == pytest.approx(data.unit * mean_square**0.5, rel=1e-5)
    assert regression["r_squared"] == pytest.approx(1 - mean_square / data.test_y.var(), rel=1e-4)


@pytest.mark.parametrize("name", ["learning_curves", "gradients"])
def test_pictures(trained, name):
    data = (trained[0] / f"{name}.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


def test_every_network(networks):
    assert len(networks) == 15


def test_the_gradients_are_those_of_autodiff(networks):
    for network, x, y in networks:
        errors = two_layer.gradient_errors(network, x, y)
        assert list(errors) == ["W¹", "b¹", "W²", "b²"]
        assert max(errors.values()) <= 1e-5, (network.f, network.g)


def test_a_wrong_gradient_is_seen(networks, with_wrong_bias):
    network, x, y = networks[1]
    net = with_wrong_bias(network.net, 2)
    errors = two_layer.gradient_errors(network._replace(net=net), x, y)
    assert errors.pop("b²") == pytest.approx(0.01, rel=1e-3)
    assert max(errors.values()) <= 1e-5


def test_the_formulas_of_the_tables_give_the_gradients(networks):
    """Every formula as it is printed, worked out by NumPy in float64."""
    for network, *batch in networks:
        x, y = (np.asarray(array, np.float64) for array in batch)
        first, _, second, _ = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64), network.params
        )
        f, g = two_layer.ACTIVATIONS[network.f], two_layer.ACTIVATIONS[network.g]
        known = {"x": x, "y": y, "N": len(x), "z1": x @ first["w"] + first["b"]}
        known["z2"] = worked_out(f.value.format(z="z₁"), known)
        known["z3"] = known["z2"] @ second["w"] + second["b"]
        known["ŷ"] = worked_out(g.value.format(z="z₃"), known)
        loss = worked_out(network.loss.value, known).sum()
        delta2 = worked_out(network.loss.slope + g.slope.format(z="z₃", y="ŷ"), known)
        through = {"Δ": delta2 @ second["w"].T}
        delta1 = worked_out("Δ" + f.slope.format(z="z₁", y="z₂"), known | through)
        expected = (x.T @ delta1, delta1.sum(0), known["z2"].T @ delta2, delta2.sum(0))

        value, grads = jaxnn.value_and_grad(network.net, network.loss.op)(network.params, *batch)
        assert value == pytest.approx(loss, rel=1e-5)
        for found, right in zip(two_layer.by_name(grads).values(), expected, strict=True):
            assert np.linalg.norm(found - right) <= 1e-5 * np.linalg.norm(right)


def worked_out(formula, known):
    """The value of a formula of the tables, without the sum over the examples."""
    signs = {"⊙": "*", "·": "*", "−": "-", "²": "**2", "1[": "(", "]": ")", "Σₙ": ""}
    names = {"z₁": "z1", "z₂": "z2", "z₃": "z3", "log ŷ": "log(ŷ)", "exp ŷ": "exp(ŷ)"}
    for printed, python in (signs | names).items():
        formula = formula.replace(printed, python)
    functions = {
        "max": np.maximum,
        "log": np.log,
        "exp": np.exp,
        "σ": lambda z: 1 / (1 + np.exp(-z)),
    }
    return eval(formula, functions | known)


def test_the_first_step(networks, capsys):
    steps = {}
    for network, x, y in networks:
        step = two_layer.first_step(network, x, y, 1e-3)
        steps[network.task, network.f, network.g] = step
        squared = sum(norm**2 for norm in step["gradient_norm"].values())
        assert step["next_loss"] == pytest.approx(step["loss"] - 1e-3 * squared, rel=2e-3)
        printed = capsys.readouterr().out
        for norm in step["gradient_norm"].values():
            assert f"{norm:.4g}" in printed
        for name in ("1 forward", "2 loss", "3 zero gradients", "4 backward", "5 update"):
            assert printed.count(name) == 1
        assert f"f = {network.f} " in printed
        assert f"g = {network.g} " in printed
    for f in two_layer.ACTIVATIONS:
        probability, logit = (steps["classification", f, g] for g in ("sigmoid", "identity"))
        assert probability["loss"] == pytest.approx(logit["loss"], rel=1e-5)
        assert probability["gradient_norm"] == pytest.approx(logit["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("task", two_layer.LOSSES)
def test_data(task):
    data = two_layer.load(task)
    assert len(data.x) % two_layer.BATCH_SIZE == 0
    assert len(data.x) == len(data.y) > 3 * len(data.test_x)
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x.std(axis=0), 1, atol=1e-5)
    assert (data.y.min(), data.y.max()) == (0, 1)


def test_a_dead_output_is_named(readable):
    norms = dict.fromkeys(two_layer.GRADIENTS, 0.0)
    dead = {"task": "regression", "f": "sigmoid", "g": "relu", "gradient_norm": norms}
    alive = {"task": "regression", "f": "sigmoid", "g": "identity"}
    alive["gradient_norm"] = dict.fromkeys(two_layer.GRADIENTS, 0.5)
    for results, title in (
        ([dead], "0.0 (sigmoid → relu), apart from 1 dead network"),
        ([dead, alive], "0.50 (sigmoid → identity), apart from 1 dead network"),
        ([alive], "0.50 (sigmoid → identity)"),
    ):
        figure = two_layer.draw_gradients(results)
        readable("gradients", figure)
        assert figure.get_suptitle().splitlines()[1] == title
        notes = [text.get_text() for text in figure.axes[0].texts]
        assert len(notes) == (dead in results)
        assert all(note.startswith("dead ReLU") for note in notes)
        two_layer.plt.close(figure)


def test_a_gradient_that_overflows_is_reported_in_one_line(tmp_path, capsys):
    only = ("--task", "regression", "--f", "identity", "--g", "identity")
    with jax.enable_x64(False), pytest.raises(SystemExit) as left:
        two_layer.main([*SETTINGS, *only, "--learning-rate", "1e30", "--output", str(tmp_path)])
    assert left.value.code == 1
    assert "non-finite" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--f", ["tanh"]),
        ("--g", ["softmax"]),
        ("--task", ["ranking"]),
        ("--hidden", ["0"]),
        ("--epochs", ["-1"]),
        ("--batch-size", ["353"]),
        ("--learning-rate", ["nan"]),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, values):
    line = leaves_with_one_line(two_layer.main, "--output", tmp_path, option, *values)
    assert option in line
    assert values[0] in line


def test_a_relu_does_not_classify(leaves_with_one_line, tmp_path):
    arguments = ("--task", "classification", "--g", "relu", "--output", tmp_path)
    assert "--g sigmoid or identity" in leaves_with_one_line(two_layer.main, *arguments)
