import json

import jax
import numpy as np
import pytest

import jaxnn
from experiments import batch_sizes
from experiments.digits import load

pytestmark = pytest.mark.thorough

EPOCHS = 6


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("batch_sizes")
    settings = ["--epochs", str(EPOCHS), "--hidden", "16", "--output", str(folder)]
    with jax.enable_x64(False):
        batch_sizes.main(settings)
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_updates(result):
    updates = {name: row["per_epoch"]["updates"] for name, row in result["batches"].items()}
    assert updates == {"full batch": 1, "minibatch of 32": 45, "single example": 1437}


def test_smaller_batches_learn_more_in_an_epoch(result):
    full, mini, single = (row["train_loss"] for row in result["batches"].values())
    assert len(full) == len(mini) == len(single) == EPOCHS
    assert full[0] > mini[0] > single[0]
    assert full[-1] > mini[-1] > single[-1]


def test_the_full_batch_never_climbs(result):
    assert (np.diff(result["batches"]["full batch"]["train_loss"]) < 0).all()


def test_every_batch_size_reaches_the_target_and_not_before(result):
    target = result["target_loss"]
    for row in result["batches"].values():
        epochs = row["to_target"]["epochs"]
        assert row["train_loss"][epochs - 1] <= target
        assert all(loss > target for loss in row["train_loss"][: epochs - 1])
        assert row["to_target"]["updates"] == epochs * row["per_epoch"]["updates"]
        assert row["to_target"]["seconds"] > 0
    assert result["batches"]["full batch"]["to_target"]["epochs"] == EPOCHS


def test_small_batches_read_most_test_images(result):
    _, *small = result["batches"].values()
    assert all(row["test_accuracy"][-1] > 0.9 for row in small)


def test_picture(output):
    data = (output / "batch_sizes.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


def test_the_full_batch_takes_the_steps_of_gradient_descent(tmp_path):
    data, net = load("digits"), jaxnn.mlp((64, 10))
    loss, seed = jaxnn.softmax_cross_entropy, 5
    with jax.enable_x64(False):
        curve = batch_sizes.learn(net, data, len(data.x), 0.3, 3, seed, tmp_path)
        params = net.init(jax.random.key(seed))
        gradient = jax.jit(jaxnn.value_and_grad(net, loss))
        losses = []
        x, labels = data.x, data.labels
        for _ in range(3):
            params = jaxnn.sgd_update(params, gradient(params, x, labels)[1], 0.3)
            losses.append(float(gradient(params, x, labels)[0]))
    np.testing.assert_allclose(curve.losses, losses, rtol=1e-5)


def test_titles_name_the_cheapest():
    def curve(seconds, losses):
        cost = {"epochs": 1, "updates": 10 * seconds, "seconds": seconds}
        return batch_sizes.Curve(1, 0.1, cost, np.array(losses), np.array([0.5, 0.5, 1.0]))

    curves = {"a": curve(1, [3, 2, 1]), "b": curve(2, [2, 1, 1]), "c": curve(4, [1, 1, 0.5])}
    figure = batch_sizes.draw(curves, target=1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["fewest epochs: c", "fewest updates: a", "fewest seconds: a"]
    assert "target of 1,\nthe highest of the three final losses (a)" in figure.get_suptitle()
    batch_sizes.plt.close(figure)


def test_a_gradient_that_overflows_is_reported_in_one_line(tmp_path, capsys):
    rates = ["--learning-rates", "1e30", "1", "1"]
    with jax.enable_x64(False), pytest.raises(SystemExit) as left:
        batch_sizes.main([*rates, "--hidden", "4", "--output", str(tmp_path)])
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "non-finite" in line


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--epochs", [1]),
        ("--batch-size", [0]),
        ("--batch-size", [1438]),
        ("--hidden", [0]),
        ("--learning-rates", [0.1, 0.1, 0]),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, values):
    line = leaves_with_one_line(batch_sizes.main, "--output", tmp_path, option, *values)
    assert option in line
    assert str(values[-1]) in line


def test_a_learning_rate_for_each_batch_size(leaves_with_one_line, tmp_path):
    arguments = ("--learning-rates", 0.1, "--output", tmp_path)
    assert "expected 3 arguments" in leaves_with_one_line(batch_sizes.main, *arguments)
