import json

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from experiments import per_example
from jaxnn.per_example import value_and_clipped_grad

PICTURES = ("images", "noise_scale", "clipping", "privacy")
EPOCHS, RUNS = 2, 2


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("per_example")
    settings = ["--epochs", str(EPOCHS), "--runs", str(RUNS), "--hidden", "8"]
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        per_example.main([*settings, "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_result(result):
    assert 0 < result["fraction_of_images_with_half_of_the_norms"] < 0.5
    assert len(result["noise_scale"]) == EPOCHS
    assert result["train_loss"][1] < result["train_loss"][0]
    accuracies = [way["test_accuracy"] for way in result["clipping"].values()]
    accuracies += [noise["test_accuracy"] for noise in result["private"].values()]
    assert np.shape(accuracies) == (7, RUNS, EPOCHS)


def test_more_noise_buys_a_smaller_epsilon(result):
    none, *epsilons = (noise["epsilon"] for noise in result["private"].values())
    assert none is None
    assert epsilons == sorted(epsilons, reverse=True)


def test_pictures(output):
    for name in PICTURES:
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_half_of_the_sum():
    assert per_example.fraction_of_half(np.array([1.0, 5.0, 1.0, 2.0])) == 0.25
    assert per_example.fraction_of_half(np.ones(10)) == 0.5


def test_a_tenth_of_the_labels_is_replaced_by_others():
    labels = np.arange(50) % 10
    wrong, rows = per_example.replace_labels(labels, seed=3)
    assert sorted(rows) == np.flatnonzero(wrong != labels).tolist()
    assert len(rows) == 5
    assert set(wrong) <= set(range(10))


def test_the_noise_has_the_stated_standard_deviation_and_is_new_in_each_step(standard_promotion):
    noise_multiplier, clip, batch_size = 2.0, 0.3, 5
    noise = per_example.noisy_mean(noise_multiplier, clip, batch_size, jax.random.key(0))
    grads = {"w": jnp.full((100, 500), 7.0), "b": jnp.full(50_000, 7.0)}
    first, state = noise.update(grads, noise.init(grads))
    second, _ = noise.update(grads, state)
    draws = [leaf.ravel() * batch_size for tree in (first, second) for leaf in tree.values()]
    for draw in draws:
        np.testing.assert_allclose(draw.std(), noise_multiplier * clip, rtol=0.02)
        np.testing.assert_allclose(draw.mean(), 7.0, rtol=0.002)
    assert abs(np.corrcoef(draws) - np.eye(4)).max() < 0.02


def test_a_weight_of_0_leaves_an_image_out():
    net = jaxnn.mlp((4, 6, 3))
    gradient = value_and_clipped_grad(net, per_example.LOSS, 0.5, reduction="sum")
    params = net.init(jax.random.key(0))
    x, labels = jax.random.normal(jax.random.key(1), (8, 4)), jnp.arange(8) % 3
    drawn = np.array([1, 0, 0, 1, 1, 0, 1, 0])
    found = gradient(params, x, labels, None, jnp.asarray(drawn, x.dtype))
    expected = gradient(params, x[drawn == 1], labels[drawn == 1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_each_step_draws_the_stated_fraction_of_the_images(standard_promotion):
    """With a loss of 1 nat for each image, the value of an epoch is the images drawn over n."""
    net = jaxnn.Linear(1, 10)
    n, steps = 1440, 10
    assert per_example.sampling(n) == (0.1, steps)
    params = {"w": jnp.zeros((1, 10)), "b": jnp.zeros(10)}
    optimizer = per_example.private_optimizer(jax.random.key(0), 0.0, 1e-6)
    epoch = per_example.private_epoch(net, 1e-6, n)
    x, labels = jnp.zeros((n, 1)), jnp.arange(n) % 10
    drawn = [
        epoch(params, optimizer.init(params), x, labels, jax.random.key(seed), 0.0)[2] / np.log(10)
        for seed in range(20)
    ]
    deviation = np.sqrt(0.1 * 0.9 / (n * steps)) * steps
    np.testing.assert_allclose(np.mean(drawn), 1.0, atol=4 * deviation / np.sqrt(20))
    np.testing.assert_allclose(np.std(drawn), deviation, rtol=0.6)


@pytest.mark.parametrize(("noise_multiplier", "expected"), [(1.0, 9.12), (2.0, 3.05)])
def test_epsilon(noise_multiplier, expected):
    event = dp_accounting.PoissonSampledDpEvent(
        0.05, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    accountant = dp_accounting.rdp.RdpAccountant().compose(event, 600)
    found = per_example.epsilon(noise_multiplier, 0.05, 600)
    assert found == accountant.get_epsilon(1e-5)
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("option", "value"), [("--epochs", 0), ("--runs", 0), ("--clip", 0), ("--clip", 1e-30)]
)
def test_a_bad_option(leaves_with_one_line, tmp_path, option, value):
    line = leaves_with_one_line(per_example.main, "--output", tmp_path, option, value)
    assert option in line
    assert str(value) in line
