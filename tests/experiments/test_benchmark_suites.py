"""Each suite compares like with like."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from experiments.benchmark import (
    first_step,
    peer,
    peers,
    scaling,
    startup,
    timing,
    training,
)
from experiments.benchmark.natives import native
from experiments.benchmark.processes import measured_process
from experiments.digits import load
from jaxnn.catalogue import ENTRIES

pytestmark = pytest.mark.thorough

NATIVES = [entry for entry in ENTRIES if native(entry.op)]


@pytest.fixture
def as_users_have_it(monkeypatch):
    """Without the strictness of these tests, which not every library can stand; and quick."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 1e-9)
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def test_most_ops_have_a_counterpart():
    assert len(NATIVES) >= 40


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("entry", NATIVES, ids=lambda entry: entry.op.__name__)
def test_a_counterpart_computes_what_the_op_computes(entry):
    case = entry.benchmark
    args = case.arguments(0, jnp.float32)
    functions = native(entry.op), entry.op.definition
    if entry.op == jaxnn.dropout:  # the same share is left out, but not the same numbers
        zeros = [np.mean(np.asarray(f(*args, **case.options)) == 0) for f in functions]
        assert zeros == pytest.approx([case.options["rate"]] * 2, abs=1e-3)
        return
    found, expected = (jax.jit(lambda *a, f=f: f(*a, **case.options))(*args) for f in functions)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


def test_operations_of_products_and_convolutions():
    def products(x, w, image, kernel):
        def step(carry, _):
            return carry @ w, None

        y, _ = jax.lax.scan(step, x, length=4)
        z = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.jit(jnp.matmul)(y, w), z

    arrays = jnp.ones((5, 7)), jnp.ones((7, 7)), jnp.ones((2, 6, 8, 3)), jnp.ones((3, 4, 3, 9))
    jaxpr = jax.make_jaxpr(products)(*arrays).jaxpr
    assert training.product_flops(jaxpr) == 5 * (2 * 5 * 7 * 7) + 2 * (2 * 4 * 5 * 9) * (3 * 4 * 3)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", ["64-128-10", "CNN"])
def test_training(name):
    figures = training.rows(0)[name]("cpu", 2)
    costs = figures["costs"]
    assert costs["jaxnn"]["temporary_bytes"] <= costs["autodiff"]["temporary_bytes"]
    assert list(figures["ratio"]) == ["autodiff"]
    if name == "64-128-10":
        flops = 1437 * (6 * (64 * 128 + 128 * 10) - 2 * 64 * 128)
        assert figures["flops_per_second"] * figures["seconds"]["jaxnn"] == pytest.approx(flops)
    share = figures["share_of_product_rate"]
    assert 0 < share["q1"] <= share["median"] <= share["q3"]
    assert len(training.cells(name, figures)) == len(training.HEADERS)


def test_exponent():
    sizes = np.array([1, 2, 4, 8, 16])
    assert scaling.exponent(sizes, 3.0 * sizes**1.5) == pytest.approx(1.5)
    assert scaling.exponent(sizes, [9.0, 9.0, 4.0, 8.0, 16.0]) == pytest.approx(1)
    assert scaling.exponent(sizes, [1, 2, 4, 0, 0]) is None


@pytest.mark.usefixtures("as_users_have_it")
def test_scaling(monkeypatch):
    sweeps = {
        name: scaling.SWEEPS[name]._replace(sizes=sizes)
        for name, sizes in (
            ("depth", (1, 2, 3)),
            ("length", (8, 16, 24)),
            ("classes", (30, 60, 90)),
        )
    }
    monkeypatch.setattr(scaling, "SWEEPS", sweeps)
    measured = {name: measure("cpu", 2) for name, measure in scaling.rows(0).items()}
    for name, figures in measured.items():
        assert all(len(seconds) == 3 for seconds in figures["seconds"].values())
        assert len(scaling.cells(name, figures)) == len(scaling.HEADERS)
    assert len(scaling.draw(measured).axes) == 6


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "digits.npz"
    np.savez(path, **load("digits")._asdict())
    return path


@pytest.mark.parametrize("library", list(peer.LIBRARIES))
def test_a_library_trains(library, digits):
    if importlib.util.find_spec(peers.MODULES.get(library, "jaxnn")) is None:
        pytest.skip(f"{library} is not installed")
    settings = json.dumps(peers.SETTINGS | {"epochs": 4, "seed": 0})
    figures = measured_process(
        "cpu", "-m", "experiments.benchmark.peer", library, str(digits), settings
    )
    assert figures["accuracy"] > 0.85
    assert 0 < figures["seconds_per_epoch"] < figures["seconds_from_start"]
    assert figures["peak_bytes"] > 2**25


def test_seconds_per_epoch_leave_the_warm_up_out():
    laps = [5.0, 6.0, *(6 + 0.5 * np.arange(1, 19))]
    assert peer.seconds_per_epoch(0.0, laps, 20) == 0.5
    assert peer.seconds_per_epoch(1.0, [5.0], 20) == 0.2


def test_peers(monkeypatch):
    def trained(platform, *arguments):
        factor = 1 if "jaxnn" in arguments else 3
        return {
            "seconds_per_epoch": 0.1 * factor,
            "seconds_from_start": 2.0 * factor,
            "peak_bytes": 2**20 * factor,
            "accuracy": 0.9,
        }

    monkeypatch.setattr(peers, "measured_process", trained)
    measured = {"Equinox": peers.rows(0)["Equinox"]("cpu", 2)}
    figures = measured["Equinox"]
    assert figures["epoch"]["ratio"]["jaxnn"]["median"] == pytest.approx(3)
    assert figures["start_to_end"]["ratio"]["jaxnn"]["median"] == pytest.approx(3)
    line = peers.cells("Equinox", figures)
    assert line[:3] == ("Equinox", "300.00", "3.00")
    assert len(line) == len(peers.HEADERS)
    assert len(peers.draw(measured).axes) == 3


@pytest.mark.usefixtures("as_users_have_it")
def test_both_first_steps_are_the_same_step():
    key = jax.random.key(0)
    random = np.random.default_rng(0)
    x, labels = random.random((64, 64), np.float32), random.integers(0, 10, 64).astype(np.int32)
    step, params = first_step.with_jaxnn(key)
    plain_step, _ = first_step.plain(key)
    plain_params = [layer for layer in params if layer]
    updated, _, value = step(params, first_step.OPTIMIZER.init(params), x, labels)
    plain_updated, _, plain_value = plain_step(
        plain_params, first_step.OPTIMIZER.init(plain_params), x, labels
    )
    assert value == pytest.approx(float(plain_value))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        [layer for layer in updated if layer],
        plain_updated,
    )


def test_startup():
    measured = {name: measure("cpu", 1) for name, measure in startup.rows(0).items()}
    for name, figures in measured.items():
        assert figures["seconds"]["jaxnn"] > 0
        assert len(startup.cells(name, figures)) == len(startup.HEADERS)
    imports = measured["import"]
    assert imports["difference"]["median"] == pytest.approx(
        imports["seconds"]["jaxnn"] - imports["seconds"]["plain JAX"]
    )
    assert len(startup.draw(measured).axes) == 2
