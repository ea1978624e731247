"""The closed form of the linear model, against NumPy's least squares and against the ops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn import least_squares


def data(n_examples=50, n_inputs=3, n_outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_examples, n_inputs))
    w = rng.normal(size=(n_inputs, n_outputs))
    return x, x @ w + 0.1 * rng.normal(size=(n_examples, n_outputs)) + 1


def numpy_solution(x, y):
    """In float64, with a column of ones; each column at length 1, which costs `lstsq` no digits."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    lengths = np.linalg.norm(x - x.mean(axis=0), axis=0)
    design = np.hstack([np.ones((len(x), 1)), (x - x.mean(axis=0)) / lengths])
    solution = np.linalg.lstsq(design, y, rcond=0)[0]
    w = solution[1:] / lengths[:, None]
    return {"w": w, "b": solution[0] - x.mean(axis=0) @ w}


def assert_close(params, expected, tolerance):
    for name in ("w", "b"):
        found, wanted = np.asarray(params[name], np.float64), np.asarray(expected[name])
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < tolerance, name


def test_the_line_of_four_points():
    x, y = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([[3.0], [5.0], [7.0], [10.0]])
    params = least_squares(x, y)
    assert params["w"].item() == pytest.approx(2.3, rel=1e-15)
    assert params["b"].item() == pytest.approx(0.5, rel=1e-14)
    net = jaxnn.Linear(1, 1)
    value, grads = jaxnn.value_and_grad(net, jaxnn.squared_error, "sum")(params, x, y)
    assert value == pytest.approx(0.3, rel=1e-14)
    assert all(abs(g).max() < 1e-13 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(1, 1), (1, 3), (5, 1), (2, 3)])
def test_it_is_the_minimum(n_inputs, n_outputs):
    x, y = data(40, n_inputs, n_outputs)
    params = least_squares(x, y)
    net = jaxnn.Linear(n_inputs, n_outputs)
    wanted = jax.eval_shape(net.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, wanted)
    gradient = jaxnn.value_and_grad(net, jaxnn.squared_error, "sum")
    _, grads = gradient(params, jnp.asarray(x), jnp.asarray(y))
    assert all(abs(g).max() < 1e-12 for g in jax.tree.leaves(grads))
    assert_close(params, numpy_solution(x, y), 1e-13)


def test_as_many_examples_as_numbers_to_find_are_fitted_exactly():
    x, y = data(4, 3, 2)
    params = least_squares(x, y)
    np.testing.assert_allclose(jaxnn.linear(params, jnp.asarray(x)), y, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-3)])
@pytest.mark.parametrize("n_inputs", [1, 3])
def test_an_offset_of_ten_thousand(n_inputs, dtype, tolerance):
    x, y = data(50, n_inputs, 2)
    x, y = (x + 1e4).astype(dtype), y.astype(dtype)
    params = least_squares(x, y)
    assert params["w"].dtype == params["b"].dtype == dtype
    assert_close(params, numpy_solution(x, y), tolerance)


def test_nearly_dependent_columns_with_an_offset():
    x, y = data(50, 3, 2)
    x[:, 2] = x[:, 0] + 1e-4 * x[:, 2]
    x += 1e4
    params = least_squares(x, y)
    assert_close(params, numpy_solution(x, y), 1e-7)
    # The normal equations as they are printed have no digit left here.
    design = np.hstack([np.ones((50, 1)), x])
    naive = np.linalg.solve(design.T @ design, design.T @ y)
    assert np.linalg.norm(naive[1:] - params["w"]) > 1e-2 * np.linalg.norm(params["w"])


def test_float32_with_a_condition_of_a_thousand():
    x, y = data(50, 3, 2)
    x[:, 2] = x[:, 0] + 1e-3 * x[:, 2]
    x, y = x.astype("float32"), y.astype("float32")
    assert_close(least_squares(x, y), numpy_solution(x, y), 1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_low_precision_is_computed_in_float32(dtype):
    x, y = (jnp.asarray(a, dtype) for a in data(200, 3, 2))
    params = least_squares(x, y)
    assert params["w"].dtype == params["b"].dtype == dtype
    assert_close(params, numpy_solution(x, y), float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("n_inputs", [1, 3])
@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_the_unit_of_a_column_does_not_matter(n_inputs, unit):
    x, y = (a.astype("float32") for a in data(50, n_inputs, 2))
    units = np.array([unit, 1, 1][:n_inputs], "float32")
    params, scaled = least_squares(x, y), least_squares(x * units, y)
    np.testing.assert_allclose(scaled["w"] * units[:, None], params["w"], rtol=1e-4)
    np.testing.assert_allclose(scaled["b"], params["b"], rtol=1e-4)


@pytest.mark.parametrize("n_inputs", [1, 3])
def test_jit_vmap_and_grad(n_inputs):
    x, y = (jnp.asarray(a) for a in data(20, n_inputs, 2))
    params = least_squares(x, y)
    assert_close(jax.jit(least_squares)(x, y), params, 1e-13)
    both = jax.vmap(least_squares)(jnp.stack([x, 2 * x]), jnp.stack([y, y]))
    np.testing.assert_allclose(both["w"][1], params["w"] / 2, rtol=1e-12)
    step = 1e-6 * jax.random.normal(jax.random.key(0), x.shape)

    def norm(x):
        return jnp.sum(least_squares(x, y)["w"] ** 2)

    slope = jnp.sum(jax.jit(jax.grad(norm))(x) * step)
    difference = (norm(x + step) - norm(x - step)) / 2
    assert slope.item() == pytest.approx(difference.item(), rel=1e-6)


def constant(n_inputs):
    x, y = data(20, n_inputs, 1)
    x[:, -1] = 0.1
    return x, y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_examples", [4, 5000])
def test_the_same_temperature_in_two_units_is_found(n_examples, dtype):
    x, y = (a.astype(dtype) for a in data(n_examples, 3, 1))
    for offset in (0, 1, 100, 10_000):
        celsius = x + x.dtype.type(offset)
        celsius[:, 2] = celsius[:, 0] * x.dtype.type(1.8) + x.dtype.type(32)
        with pytest.raises(ValueError, match="columns of x are linearly dependent"):
            least_squares(celsius, y)


def test_under_jit_the_result_is_nan_where_it_is_not_unique():
    x, y = data(20, 3, 1)
    compiled = jax.jit(least_squares)
    assert all(jnp.isfinite(p).all() for p in compiled(x, y).values())
    dependent = x[:, [0, 1, 0]]
    for not_unique in (dependent, constant(3)[0]):
        assert all(jnp.isnan(p).all() for p in compiled(not_unique, y).values())
    assert all(jnp.isnan(p).all() for p in compiled(*constant(1)).values())


@pytest.mark.parametrize("repeated", [2, 3])
def test_too_few_different_examples(repeated):
    x, y = data(repeated, 3, 1)
    with pytest.raises(ValueError, match="linearly dependent"):
        least_squares(np.tile(x, (4, 1)), np.tile(y, (4, 1)))


def test_columns_that_are_not_dependent_are_not_refused():
    many = np.random.default_rng(0).normal(size=(100_000, 2)).astype("float32")
    many[:, 1] = many[:, 0] + 1e-3 * many[:, 1]
    params = least_squares(many, many[:, :1] + many[:, 1:])
    np.testing.assert_allclose(params["w"], 1, atol=1e-2)


@pytest.mark.parametrize(
    ("n_inputs", "words"), [(1, "all x are equal"), (3, "column 2 of x is the same")]
)
def test_a_constant_column(n_inputs, words):
    x, y = constant(n_inputs)
    with pytest.raises(ValueError, match=words):
        least_squares(x, y)


X, Y = (jnp.asarray(a) for a in data(5, 2, 1))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[:, 0], Y, r"x must have one row .* got shape \(5,\); x\[:, None\] makes one column"),
        (X, Y[:, 0], r"y must have one row .* got shape \(5,\); y\[:, None\] makes one column"),
        (X[None], Y, r"x must have one row .* got shape \(1, 5, 2\)$"),
        (X, Y[:4], "x has 5 examples and y has 4"),
        (X[:0], Y[:0], r"x is empty, float64\[0,2\]"),
        (X, Y[:, :0], r"y is empty, float64\[5,0\]"),
        (X[:2], Y[:2], "2 weights and a bias need at least 3 examples, got 2"),
        (X.at[3, 1].set(jnp.inf), Y, "x holds values that are not finite"),
        (X, Y.at[0].set(jnp.nan), "y holds values that are not finite"),
    ],
)
def test_bad_values(x, y, words):
    with pytest.raises(ValueError, match=f"^least_squares: {words}"):
        least_squares(x, y)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X, Y.astype("float32"), "x is float64, y is float32; convert them to one dtype"),
        (X.astype(int), Y, r"x must be floating point, got int64\[5,2\]"),
    ],
)
def test_bad_types(x, y, words):
    with pytest.raises(TypeError, match=f"^least_squares: {words}"):
        least_squares(x, y)


def test_too_few_examples_are_an_error_under_jit_too():
    with pytest.raises(ValueError, match="at least 3 examples, got 2"):
        jax.jit(least_squares)(X[:2], Y[:2])
