"""Mixed precision: dtypes, gradients, the loss scale, and updates of the master parameters."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn

THOROUGH = pytest.mark.thorough
KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(1), (7, 6), jnp.float32)
DY = jax.random.normal(jax.random.key(2), (7, 3), jnp.float32)
MLP = jaxnn.mlp((6, 5, 3), jaxnn.tanh)


def in_float32(params):
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


PARAMS = in_float32(MLP.init(KEY))


def true_gradients(dy):
    """Those of Σ dy·y in float64, by autodiff of the formula."""
    (first, _, second, _), x = jax.tree.map(lambda a: a.astype(jnp.float64), (PARAMS, X))

    def total(first, second, x):
        hidden = jnp.tanh(x @ first["w"] + first["b"][None])
        return jnp.sum(dy.astype(jnp.float64) * (hidden @ second["w"] + second["b"][None]))

    first, second, dx = jax.grad(total, (0, 1, 2))(first, second, x)
    return (first, (), second, ()), dx


def relative_errors(found, truth):
    return [
        np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True)
    ]


def gradients(dtype, dy, **options):
    net = jaxnn.mixed(MLP, dtype, **options)
    return jax.jit(lambda dy: net.bwd(net.fwd(PARAMS, X)[1], dy))(dy)


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2.5e-3)])
def test_gradients_are_those_of_float32_within_the_rounding(dtype, tolerance):
    found = gradients(dtype, DY)
    assert max(relative_errors(found, true_gradients(DY))) < tolerance
    assert dtypes(found) == {"float32"}
    assert max(relative_errors(found, true_gradients(DY))) > 1e-5  # it did compute in the dtype


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=THOROUGH)])
def test_the_two_halves_are_the_whole(dtype):
    net = jaxnn.mixed(MLP, dtype)
    y, residuals = net.fwd(PARAMS, X)
    assert dtypes(y) == {"float32"}
    assert dtypes(residuals.saved) == {dtype}
    deltas, dx = net.bwd_input(residuals, DY)
    halves = net.bwd_params(residuals, deltas), dx
    jax.tree.map(np.testing.assert_array_equal, halves, net.bwd(residuals, DY))


def test_small_gradients_survive_in_float16():
    dy = 1e-9 * DY
    assert max(relative_errors(gradients("float16", dy), true_gradients(dy))) < 2.5e-3
    without = gradients("float16", dy, loss_scale=False)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(without))


STEEP = jaxnn.layer(
    init=lambda key: (),
    apply=lambda params, x: x,
    fwd=lambda params, x, key: (x, ()),
    bwd=lambda residuals, dy: ((), dy * 10_000),  # beyond 65,504 for every |dy| above 6.6
)


@pytest.mark.parametrize("size", [1e-9, pytest.param(1e9, marks=THOROUGH)])
def test_an_overflow_inside_costs_no_step(size):
    net = jaxnn.mixed(jaxnn.serial(STEEP, MLP, STEEP), "float16")
    dy = size * DY
    found = jax.jit(lambda dy: net.bwd(net.fwd(((), PARAMS, ()), X)[1], dy))(dy)
    (_, dparams, _), dx = found
    true_params, true_dx = true_gradients(dy)
    truth = jax.tree.map(lambda g: 1e4 * g, true_params), 1e8 * true_dx
    assert max(relative_errors((dparams, dx), truth)) < 2.5e-3


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_infinite_stays_infinite_and_ends(value):
    dparams, dx = gradients("float16", DY.at[2, 1].set(value))
    assert not np.isfinite(dparams[0]["w"]).all()
    assert not np.isfinite(dx[2]).any()
    assert np.isfinite(dx[0]).all()


def test_an_overflow_of_the_forward_ends():
    net = jaxnn.mixed(MLP, "float16")
    _, residuals = net.fwd(PARAMS, 1e6 * X)
    dparams, _ = net.bwd(residuals, DY)
    assert not np.isfinite(dparams[0]["w"]).all()


def test_zero_and_nothing():
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients("float16", 0 * DY)))
    net = jaxnn.mixed(MLP, "float16")
    dparams, dx = net.bwd(net.fwd(PARAMS, X[:0])[1], DY[:0])
    assert dx.shape == (0, 6)
    assert (dparams[0]["w"] == 0).all()


def test_each_example_has_its_own_scale_under_vmap():
    net = jaxnn.mixed(MLP, "float16")
    sizes = jnp.logspace(-9, 9, 7, dtype=jnp.float32)[:, None]

    def of_example(x, dy):
        return net.bwd(net.fwd(PARAMS, x)[1], dy)[1]

    dx = jax.vmap(of_example)(X, DY * sizes)
    truth = np.asarray(true_gradients(DY)[1])
    errors = np.linalg.norm(np.asarray(dx, np.float64) / np.asarray(sizes) - truth, axis=1)
    assert (errors < 2.5e-3 * np.linalg.norm(truth, axis=1)).all()


def test_updates_too_small_for_bfloat16_arrive():
    """1 + 1e-4 is 1 in bfloat16."""
    net = jaxnn.mixed(jaxnn.Linear(1, 1, use_bias=False), "bfloat16")
    step = jaxnn.train_step(net, jaxnn.squared_error, optax.sgd(0.5))
    x, target = jnp.ones((1, 1), jnp.float32), jnp.ones((1, 1), jnp.float32)

    def trained(dtype):
        params = {"w": jnp.ones((1, 1), dtype)}
        opt_state = optax.sgd(0.5).init(params)
        for _ in range(100):
            w = net.apply(params, x)
            params, opt_state, _ = step(params, opt_state, x, w + target * 1e-4)
        return float(params["w"][0, 0])

    assert trained(jnp.float32) == pytest.approx(1.01, rel=1e-3)
    assert trained(jnp.bfloat16) == 1


def test_the_state_stays_in_float32():
    net = jaxnn.serial(jaxnn.Linear(6, 3), jaxnn.BatchNorm(3), jaxnn.Dropout(0.2))
    params, state = in_float32(net.init(KEY)), in_float32(net.init_state())
    narrow = jaxnn.mixed(net, jnp.bfloat16)
    assert narrow.stateful
    after = narrow.update_state(state, narrow.fwd(params, X, KEY)[1])
    expected = net.update_state(state, net.fwd(params, X, KEY)[1])
    assert dtypes(after) == {"float32"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), after, expected)
    y = narrow.apply(params, X, after)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, net.apply(params, X, after), atol=3e-2)


def test_keys_reach_random_layers():
    net = jaxnn.mixed(jaxnn.Dropout(0.5), "bfloat16")
    np.testing.assert_array_equal(
        net.fwd((), X, KEY)[0] == 0, jaxnn.Dropout(0.5).fwd((), X, KEY)[0] == 0
    )


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=THOROUGH), "float16"])
def test_trees_lengths_and_integers(dtype):
    """dx has the dtype of each entry of x, and `None` for integers."""
    inner = jaxnn.each(jaxnn.Embedding(5, 4), jaxnn.Linear(3, 4), jaxnn.tanh)
    net = jaxnn.mixed(inner, dtype)
    params = in_float32(inner.init(KEY))
    x = (
        jnp.array([[1, 2], [4, 0]]),
        jaxnn.Padded(jnp.ones((2, 2, 3), jnp.float32), jnp.array([2, 1])),
        jnp.ones((2, 2, 4), jnp.bfloat16),
    )
    y, residuals = net.fwd(params, x)
    assert y[1].lengths is x[1].lengths
    dparams, dx = net.bwd(residuals, (y[0], y[1].values, y[2]))
    assert dx[0] is None
    assert [d.dtype.name for d in dx[1:]] == ["float32", "bfloat16"]
    assert dtypes(dparams) == {"float32"}


@THOROUGH
def test_a_block_extends_position_by_position():
    block = jaxnn.TransformerBlock(6, 2, causal=True)
    net, params = jaxnn.mixed(block, "bfloat16"), in_float32(block.init(KEY))
    x = jnp.stack([X, -X])
    cache = net.init_cache(2, 7)
    assert "bfloat16" in dtypes(cache)
    first, cache = net.extend(params, x[:, :4], cache)
    second, _ = net.extend(params, x[:, 4:], cache)
    found = jnp.concatenate([first, second], 1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, net.apply(params, x), atol=4e-2)


def test_it_prints_compares_and_pickles():
    net = jaxnn.mixed(MLP, jnp.bfloat16)
    assert repr(net) == f"Mixed({MLP!r}, bfloat16)"
    assert repr(jaxnn.mixed(MLP, "float16", loss_scale=False)).endswith(
        "float16, loss_scale=False)"
    )
    assert net == jaxnn.mixed(MLP, "bfloat16") == pickle.loads(pickle.dumps(net))
    assert jaxnn.mixed(jaxnn.relu, jnp.float16).position_wise


@pytest.mark.parametrize("dtype", ["int32", None, "half precision", jnp.float64, 16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype must be one of bfloat16, float16, float32, got"):
        jaxnn.mixed(MLP, dtype)


@pytest.mark.usefixtures("unannotated")
def test_a_loss_scale_that_is_no_boolean_is_refused():
    with pytest.raises(TypeError, match="loss_scale must be True or False, got 1024"):
        jaxnn.mixed(MLP, "float16", loss_scale=1024)


def digits_accuracy(net, seed, data):
    """The test accuracy after 20 epochs of Adam."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        training = jaxnn.fit(
            net,
            jaxnn.softmax_cross_entropy,
            net.init(jax.random.key(seed)),
            (data.x, data.labels),
            epochs=20,
            batch_size=64,
            optimizer=optax.adam(1e-3),
            seed=seed,
            progress=False,
        )
        prediction = jaxnn.predict(net, training, data.test_x)
        return float(np.mean(np.argmax(prediction, 1) == data.test_labels))


@THOROUGH
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_digits_end_as_well_as_in_float32(dtype):
    digits = pytest.importorskip("experiments.digits")
    data, plain = digits.load("digits"), jaxnn.mlp((64, 64, 10))
    accuracies = [digits_accuracy(net, 0, data) for net in (plain, jaxnn.mixed(plain, dtype))]
    assert abs(accuracies[0] - accuracies[1]) <= 0.005
