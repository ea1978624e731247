import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from experiments import finite_differences as fd


@pytest.fixture(scope="module")
def problem():
    return fd.make_problem(3)


@pytest.fixture(scope="module")
def output(tmp_path_factory, readable):
    folder = tmp_path_factory.mktemp("finite_differences")
    with jax.enable_x64(False):
        fd.main(["--seed", "3", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def result(output):
    return json.loads((output / "result.json").read_text())


def test_the_formula_is_the_network(problem):
    problem = fd.cast(problem, "float64")
    t = np.array([-0.3, 0.0, 0.7])
    np.testing.assert_allclose(fd.formula(problem, t), fd.on_lines(problem, t), rtol=1e-14)


def test_the_truth_is_autodiff(problem):
    problem = fd.cast(problem, "float64")

    def f(t, direction):
        moved = jax.tree.map(lambda p, d: p + t * d, problem.params, direction)
        with jaxnn.definitions():
            return jnp.mean(fd.LOSS(fd.NET.apply(moved, problem.x), problem.target))

    slopes = jax.jit(jax.vmap(jax.grad(f), (None, 0)))(0.0, problem.directions)
    assert fd.relative_error(np.asarray(slopes), fd.true_derivatives(problem)) < 1e-15


@pytest.mark.parametrize(
    ("dtype", "method", "order"),
    [
        ("float32", "forward", 1),
        ("float32", "central", 2),
        ("float64", "forward", 1),
        ("float64", "central", 2),
        ("float64", "five-point", 4),
        ("float64", fd.COMPLEX, 2),
    ],
)
def test_order(result, dtype, method, order):
    assert result[dtype][method]["order"] == pytest.approx(order, rel=0.03)


@pytest.mark.parametrize("dtype", fd.PRECISIONS)
def test_errors_come_in_the_order_of_the_methods(result, dtype):
    errors = [result[dtype][name]["error"] for name in fd.METHODS]
    assert errors == sorted(errors, reverse=True)
    epsilon, floor = np.finfo(dtype).eps, result[dtype]["bwd"]["error"]
    assert 0.01 * epsilon < floor < 4 * epsilon
    assert result[dtype][fd.COMPLEX]["error"] < 4 * epsilon
    assert errors[-1] > 10 * floor


@pytest.mark.parametrize("dtype", fd.PRECISIONS)
def test_the_best_step_is_near_that_of_theory(result, dtype):
    for name in (*fd.METHODS, fd.COMPLEX):
        summary = result[dtype][name]
        assert 1 / 5 < summary["best_step"] / summary["theory_step"] < 5


def test_the_complex_step_is_flat(problem):
    found = fd.by_complex_step(fd.cast(problem, "float64"), "float64")
    errors = fd.relative_error(found, fd.true_derivatives(problem))
    assert errors[fd.STEPS < 1e-8].max() < 1e-15


def test_a_wrong_gradient_is_seen(problem, monkeypatch, with_wrong_bias):
    truth = fd.true_derivatives(problem)
    assert fd.relative_error(fd.by_bwd(problem), truth) < 1e-6
    monkeypatch.setattr(fd, "NET", with_wrong_bias(fd.NET))
    assert fd.relative_error(fd.by_bwd(problem), truth) > 1e-4


def test_picture(output):
    data = (output / "errors.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


def test_a_bad_seed(leaves_with_one_line, tmp_path):
    line = leaves_with_one_line(fd.main, "--output", tmp_path, "--seed", -1)
    assert "--seed" in line
