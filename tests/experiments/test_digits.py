import json
from urllib.error import URLError

import jax
import numpy as np
import pytest

import jaxnn
from experiments import common, digits

PICTURES = ("curves", "misread", "first_layer", "gradient_norms")


@pytest.fixture(scope="module")
def train(python):
    def run(output, *arguments):
        settings = ("--epochs", 2, "--seed", 3, "--output", output, *arguments)
        return python("-m", "experiments.digits", *settings)

    return run


@pytest.fixture(scope="module")
def output(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    finished = train(folder)
    assert finished.returncode == 0, finished.stderr
    return folder


def read_result(folder):
    return json.loads((folder / "result.json").read_text())


def assert_pictures(folder):
    for name in PICTURES:
        data = (folder / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 500_000


def test_result(output):
    result = read_result(output)
    assert 0 <= result["test_accuracy"] <= 1
    assert len(result["train_loss"]) == 2
    assert set(result["gradient_error"]) == {"layer 0, w", "layer 0, b", "layer 2, w", "layer 2, b"}
    assert all(0 < error <= 1e-5 for error in result["gradient_error"].values())
    assert result["seconds_per_epoch"] > 0
    assert result["settings"]["seed"] == 3


def test_pictures(output):
    assert_pictures(output)


def test_params_give_the_stated_accuracy(output):
    net = jaxnn.mlp((64, 128, 10))
    with jax.enable_x64(False):
        like = jax.eval_shape(net.init, jax.random.key(0))
        params = jaxnn.load_params(output / "params.safetensors", like)
        data = digits.load("digits")
        measured = jaxnn.evaluate(
            net,
            jaxnn.softmax_cross_entropy,
            params,
            (data.test_x, data.test_labels),
            metrics=jaxnn.accuracy,
        )
    assert measured["accuracy"] == read_result(output)["test_accuracy"]


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_losses(output, train, tmp_path):
    assert train(tmp_path).returncode == 0
    assert read_result(tmp_path)["train_loss"] == read_result(output)["train_loss"]


@pytest.mark.thorough
def test_a_gradient_that_overflows_is_reported_in_one_line(train, tmp_path):
    finished = train(tmp_path, "--learning-rate", 1e30)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert "non-finite" in line
    assert line.endswith("last_finite.safetensors")
    for layer in common.linear_layers(jaxnn.load_params(tmp_path / "last_finite.safetensors")):
        assert np.isfinite(layer["w"]).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", 0),
        ("--epochs", 1.5),
        ("--batch-size", -1),
        ("--batch-size", 1438),
        ("--hidden", 0),
        ("--learning-rate", 0),
        ("--learning-rate", "nan"),
        ("--seed", 2**32),
        ("--optimizer", "newton"),
        ("--dataset", "letters"),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(digits.main, "--output", tmp_path, option, value)
    assert option in line
    assert str(value) in line


@pytest.mark.thorough
def test_a_downloaded_dataset(monkeypatch, tmp_path, capsys):

    def fetch_openml(openml_name, **options):
        assert openml_name == "mnist_784"
        rng = np.random.default_rng(0)
        labels = np.arange(70) % 10
        return rng.integers(0, 256, (70, 784)), labels.astype(str).astype(object)

    monkeypatch.setattr(digits.datasets, "fetch_openml", fetch_openml)
    with jax.enable_x64(False):
        digits.main(
            ["--dataset", "mnist", "--epochs", "1", "--batch-size", "20", "--output", str(tmp_path)]
        )
    assert "60 images to train on, 10 to test on" in capsys.readouterr().out
    assert max(read_result(tmp_path)["gradient_error"].values()) <= 1e-5
    assert_pictures(tmp_path)


def test_a_dataset_that_cannot_be_downloaded(leaves_with_one_line, monkeypatch, tmp_path):
    def fetch_openml(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(digits.datasets, "fetch_openml", fetch_openml)
    line = leaves_with_one_line(digits.main, "--dataset", "mnist", "--output", tmp_path)
    assert "mnist" in line
    assert "no route to host" in line


@pytest.mark.parametrize(
    ("n_misread", "n_shown"), [(0, 0), (3, 3), (digits.MOST_MISREAD + 1, digits.MOST_MISREAD)]
)
def test_misread_images(readable, n_misread, n_shown):
    labels = np.zeros(40, np.int32)
    probabilities = np.tile([0.8, 0.2], (40, 1))
    probabilities[:n_misread] = [0.3, 0.7]
    probabilities[:2] = [0.05, 0.95] if n_misread else [0.8, 0.2]
    classes = ("ankle boot", "T-shirt")
    figure = digits.draw_misread(probabilities, np.zeros((40, 4)), labels, classes)
    readable("misread", figure)
    sure = min(n_misread, 2)
    words = f"Misread: {n_misread} of 40 test images, {sure} of them with a probability above 0.9"
    assert figure.get_suptitle().splitlines()[0] == words
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    expected = [f"ankle boot, read as\nT-shirt\np = {p}" for p in ("0.95", "0.70")]
    assert titles == [expected[0]] * sure + [expected[1]] * (n_shown - sure)
    digits.plt.close(figure)


@pytest.mark.parametrize("n_units", [1, digits.MOST_UNITS + 1])
def test_first_layer(readable, n_units):
    """Each row of pixels has one weight, the same in all units: r = 1."""
    w = np.repeat([1.0, -0.1, -0.5, 0.2], 4)[:, None] * np.linspace(2, 1, n_units)
    figure = digits.draw_first_layer(w)
    readable("first_layer", figure)
    assert "r = 1.00\n" in figure.get_suptitle()
    minuses = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(minuses, [[x, 2] for x in range(4)])
    digits.plt.close(figure)


def test_gradient_norms_of_a_deep_network(readable):
    leaf_norms = {"w": 3.0, "b": 4.0}
    before, after = [leaf_norms] * 4, [{"w": 0.0, "b": 1.0}] * 4
    figure = digits.draw_gradient_norms([before, after])
    readable("gradient_norms", figure)
    assert figure.get_suptitle().endswith("from 10 to 2")
    digits.plt.close(figure)
