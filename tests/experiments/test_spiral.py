import json
from itertools import pairwise

import jax
import numpy as np
import pytest
from PIL import Image

import jaxnn
from experiments import spiral

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("spiral")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        spiral.main(["--frames", "4", "--epochs", "60", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_only_the_relu_network_parts_the_arms(result):
    assert 0.2 < result["test_accuracy"]["linear model"] < 0.4
    assert result["test_accuracy"]["ReLU network"] > 0.95


def test_accuracy_by_epoch_ends_at_the_stated_one(result):
    for name, accuracies in result["test_accuracy_by_epoch"].items():
        assert len(accuracies) == 60
        assert accuracies[-1] == result["test_accuracy"][name]


def test_pictures(output):
    for name in ("spiral", "accuracy"):
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_animation(output):
    assert (output / "spiral.gif").stat().st_size < 2_000_000
    with Image.open(output / "spiral.gif") as animation:
        assert animation.format == "GIF"
        assert animation.n_frames == 4
        frames = []
        for number in range(4):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
    assert all((a != b).any() for a, b in pairwise(frames))


def test_points():
    x, arms = spiral.spiral(np.random.default_rng(0), n_arms=3, n_points=50, noise=1e-9)
    radius, angle = np.hypot(*x.T), np.arctan2(*x.T[::-1])
    assert np.bincount(arms).tolist() == [50, 50, 50]
    np.testing.assert_allclose(radius[arms == 1], np.linspace(0.05, 1, 50), rtol=1e-6)
    for arm in (1, 2):
        turned = (angle[arms == arm] - angle[arms == 0]) % (2 * np.pi)
        np.testing.assert_allclose(turned, arm * 2 * np.pi / 3, rtol=1e-5)


def test_borders():
    regions = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    expected = [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert spiral.is_border(regions).tolist() == np.array(expected, bool).tolist()


def test_regions_are_the_network_s_predictions(tmp_path):
    net = jaxnn.mlp((2, 3))
    points = spiral.spiral(np.random.default_rng(0), n_arms=3, n_points=5, noise=0.1)
    lower_right = np.array([spiral.EDGE, -spiral.EDGE], np.float32)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        learned = spiral.learn(net, points, points, epochs=2, shown={1}, seed=0, folder=tmp_path)
        arm = int(net.apply(net.init(jax.random.key(0)), lower_right).argmax())
    assert set(learned.regions) == {0, 1}
    assert learned.n_params == 9
    assert learned.regions[0][0, -1] == arm


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--arms", 1),
        ("--arms", 7),
        ("--points", 0),
        ("--noise", 0),
        ("--noise", 4),
        ("--hidden", 0),
        ("--epochs", 0),
        ("--frames", 1),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(spiral.main, "--output", tmp_path, option, value)
    assert option in line
    assert str(value) in line
