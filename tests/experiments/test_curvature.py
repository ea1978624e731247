import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import curvature
from jaxnn.curvature import Kronecker


def spd(seed, n):
    root = np.random.default_rng(seed).normal(size=(n, n))
    return jnp.asarray(root @ root.T / n)


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("curvature")
    settings = ["--hidden", "8", "--epochs", "2", "--steps", "4"]
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        curvature.main([*settings, "--output", str(folder)])
    return folder


def test_result(output):
    result = json.loads((output / "result.json").read_text())
    assert result["prior_precision"] > 0
    assert len(result["calibration"]) == 3
    assert list(result["descent"]) == list(curvature.OPTIMIZERS)
    for of in result["descent"].values():
        assert len(of["train_loss"]) == 5
        assert of["train_loss"][-1] < of["train_loss"][0]
        assert of["steps_to_target"] is None


def test_pictures(output):
    for name in ("reliability", "descent"):
        data = (output / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_the_picture_names_who_reaches_the_target_first(readable):
    def descent(seconds_per_step, *losses):
        return [curvature.Descent(0.1, np.array([0, 10, 20]), np.array(losses), seconds_per_step)]

    descents = {
        "SGD with momentum": descent(0.001, 2.0, 1.0, 0.5),
        "Adam": descent(0.002, 2.0, 1.0, 0.001),
        "natural gradient": descent(0.1, 2.0, 0.001, 0.001),
    }
    for names, titles in (
        (list(descents), ["Fewest steps: natural gradient, 10", "Fewest milliseconds: Adam, 40"]),
        (["SGD with momentum"], ["Fewest steps: not reached", "Fewest milliseconds: not reached"]),
    ):
        figure = curvature.draw_descents({name: descents[name] for name in names})
        readable("descent", figure)
        assert [axes.get_title() for axes in figure.axes] == titles
        curvature.plt.close(figure)


def test_calibration_error():
    """Two images at confidence 0.9, one of them right, and two at 0.6, both right."""
    confidence = np.array([0.9, 0.9, 0.6, 0.6])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    bins = curvature.reliability(probabilities, np.array([0, 1, 0, 0]))
    assert bins.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert bins.accuracy[[5, 8]].tolist() == [1.0, 0.5]
    assert bins.calibration_error == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


@pytest.mark.parametrize("shape", [(4, 3), (3,)])
def test_the_preconditioner_solves_the_dense_system(shape, standard_promotion):
    rows, damping = (shape[0] if len(shape) == 2 else 1), 0.04
    factors = Kronecker(spd(0, rows), spd(1, 3))
    gradient = jnp.asarray(np.random.default_rng(2).normal(size=shape))
    damped = [factor + 0.2 * np.eye(len(factor)) for factor in factors]
    expected = np.linalg.solve(np.kron(*damped), gradient.ravel()).reshape(shape)

    optimizer = curvature.natural_gradient(damping, decay=0.9)
    state = optimizer.init({"p": gradient})
    for _ in range(3):  # the corrected average of equal factors is each of them
        updates, state = optimizer.update({"p": gradient}, state, factors={"p": factors})
        np.testing.assert_allclose(updates["p"], expected, rtol=1e-9)


def test_the_average_of_the_factors(standard_promotion):
    optimizer = curvature.natural_gradient(0.01, decay=0.9)
    g, first, second = jnp.ones((2, 3)), *(Kronecker(spd(i, 2), spd(i, 3)) for i in (0, 1))
    _, state = optimizer.update(g, optimizer.init(g), factors=first)
    updates, _ = optimizer.update(g, state, factors=second)
    mean = Kronecker(*((0.9 * a + b) / 1.9 for a, b in zip(first, second, strict=True)))
    np.testing.assert_allclose(updates, curvature.precondition(g, mean, 0.01), rtol=1e-9)


def test_the_draws_have_the_covariance_of_the_posterior():
    n, prior_precision, draws = 50, 2.0, 200_000
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}
    factors = {"w": Kronecker(spd(0, 2), spd(1, 3)), "b": Kronecker(jnp.ones((1, 1)), spd(2, 3))}
    drawn = curvature.draw_deviations(params, factors, n, prior_precision, jax.random.key(0), draws)
    for name, found in drawn.items():
        precision = n * np.kron(*factors[name])
        expected = np.linalg.inv(precision + prior_precision * np.eye(len(precision)))
        covariance = np.cov(found.reshape(draws, -1), rowvar=False)
        variances = np.diag(expected)
        # an entry's standard error is at most √(2·vᵢ·vⱼ/draws)
        error = np.sqrt(2 * np.outer(variances, variances) / draws)
        assert (abs(covariance - expected) < 5 * error).all()


@pytest.mark.parametrize(
    ("losses", "expected"), [([1, 0.001, 1, 0.001], 6.0), ([1, np.nan], np.inf), ([0, 0], 0.0)]
)
def test_the_steps_from_which_on_the_loss_stays_below_the_target(losses, expected):
    run = curvature.Descent(0.1, 2 * np.arange(len(losses)), np.array(losses), 1e-3)
    assert run.steps_to_target == expected


@pytest.mark.parametrize("option", ["--hidden", "--epochs", "--steps"])
def test_a_bad_option(leaves_with_one_line, tmp_path, option):
    line = leaves_with_one_line(curvature.main, "--output", tmp_path, option, 0)
    assert option in line
