"""Normalisation: the formulas in NumPy, a large mean, running statistics, layers, bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn.gradcheck import check
from jaxnn.layers.batch_norm import BatchNorm
from jaxnn.layers.normalisation import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.ops.normalisation import group_norm, instance_norm, layer_norm, rms_norm
from jaxnn.padded import Padded

KEY = jax.random.key(0)
X = 2 + jax.random.normal(KEY, (7, 5, 6))
AFFINE = {"scale": jnp.linspace(-1.0, 2.0, 6), "bias": jnp.linspace(3.0, 1.0, 6)}


def standardised(x, axis):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 0.1)


def in_groups(x):
    return standardised(x.reshape(7, 5, 3, 2), (1, 3)).reshape(x.shape)


FORMULAS = {
    layer_norm.bind(eps=0.1): lambda x: standardised(x, -1),
    group_norm.bind(eps=0.1, groups=3): in_groups,
    instance_norm.bind(eps=0.1): lambda x: standardised(x, 1),
    batch_norm.bind(eps=0.1): lambda x: standardised(x, (0, 1)),
}


@pytest.mark.parametrize(("op", "formula"), FORMULAS.items(), ids=map(str, FORMULAS))
def test_the_formula(op, formula):
    scale, bias = (np.asarray(p)[None, None] for p in AFFINE.values())
    expected = formula(np.asarray(X))
    np.testing.assert_allclose(op(AFFINE, X), scale * expected + bias, rtol=1e-12)
    np.testing.assert_allclose(op({}, X), expected, rtol=1e-12, atol=1e-14)


def test_the_formulas_without_a_mean_of_their_own():
    x, scale, bias = np.asarray(X), *(np.asarray(p)[None, None] for p in AFFINE.values())
    expected = scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(rms_norm({"scale": AFFINE["scale"]}, X), expected, rtol=1e-12)
    statistics = {"mean": jnp.arange(6.0), "var": jnp.arange(6.0)}
    mean, var = (np.arange(6.0)[None, None] for _ in range(2))
    expected = scale * (x - mean) / np.sqrt(var + 1e-5) + bias
    np.testing.assert_allclose(batch_norm_inference(AFFINE, statistics, X), expected, rtol=1e-12)


@pytest.mark.parametrize("op", FORMULAS, ids=str)
def test_a_large_mean_takes_no_digits(op):
    """In float32 two neighbours of 1e4 are 1e-3 apart: the spread of these numbers is 1e-2."""
    x = (1e4 + 0.01 * X).astype(jnp.float32)
    op, dy = op.bind(eps=1e-6), jax.random.normal(jax.random.key(1), X.shape)
    true, pullback = jax.vjp(lambda x: op.definition({}, x), x.astype(jnp.float64))
    y, residuals = op.fwd({}, x)
    np.testing.assert_allclose(y, true, atol=2e-6)
    _, dx, *_ = op.bwd(residuals, dy.astype(jnp.float32))
    (true,) = pullback(dy)
    np.testing.assert_allclose(dx, true, atol=2e-6 * np.abs(true).max())


@pytest.mark.parametrize("axis", [0, (0, 2), (2, -3), (0, 1, 2)], ids=str)
def test_any_axes(axis):
    axes = tuple(sorted(a % 3 for a in (axis if isinstance(axis, tuple) else (axis,))))
    sizes = [X.shape[a] for a in axes]
    shape = [size if a in axes else 1 for a, size in enumerate(X.shape)]
    scale, bias = (jax.random.normal(jax.random.key(k), sizes) for k in (1, 2))
    y = layer_norm({"scale": scale, "bias": bias}, X, axis=axis, eps=0.1)
    expected = scale.reshape(shape) * standardised(np.asarray(X), axes) + bias.reshape(shape)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)


def test_an_offset_on_the_scale():
    shifted = {"scale": AFFINE["scale"] - 1, "bias": AFFINE["bias"]}
    y = layer_norm(shifted, X, scale_offset=1.0)
    np.testing.assert_allclose(y, layer_norm(AFFINE, X), rtol=1e-12, atol=1e-14)
    scale = {"scale": AFFINE["scale"]}
    y = rms_norm({"scale": scale["scale"] - 1}, X, scale_offset=1.0)
    np.testing.assert_allclose(y, rms_norm(scale, X), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(rms_norm({}, X, scale_offset=1.0), rms_norm({}, X))


@pytest.mark.parametrize("op", [layer_norm, rms_norm, batch_norm], ids=str)
def test_what_a_mask_drops_may_hold_anything(op):
    """The selected entries are those of an array without the others; nothing else has an effect."""
    seen = np.random.default_rng(0).random((7, 6)) < 0.7
    x, dy = np.asarray(X[:, 0]), np.asarray(X[:, 1])
    spoilt = [np.where(seen, a, b) for a, b in ((x, np.nan), (dy, np.inf))]
    scale = {"scale": AFFINE["scale"]}

    @jax.jit
    def value_and_gradient(x, dy):
        y, residuals = op.fwd(scale, x, seen)
        return y, op.bwd(residuals, dy)

    found, clean = value_and_gradient(*spoilt), value_and_gradient(x, dy)
    jax.tree.map(np.testing.assert_array_equal, found, clean)
    y, (_, dx, dseen) = found
    assert dseen is None
    assert not y[~seen].any()
    assert not dx[~seen].any()
    for i in range(6 if op == batch_norm else 7):
        line, kept = ((slice(None), i), seen[:, i]) if op == batch_norm else (i, seen[i])
        row = x[line][kept]
        mean = 0 if op == rms_norm else row.mean()
        expected = (row - mean) / np.sqrt(((row - mean) ** 2).mean() + 1e-5)
        expected = expected * np.asarray(AFFINE["scale"])[i if op == batch_norm else kept]
        np.testing.assert_allclose(y[line][kept], expected, rtol=1e-10)


def test_the_mask_of_jax_nn_standardize_agrees_where_it_selects():
    seen = jax.random.bernoulli(KEY, 0.7, (7, 5, 1)) & jnp.ones((1, 1, 6), bool)
    theirs = jax.nn.standardize(X, axis=1, where=seen, epsilon=0.1)
    ours = layer_norm({}, X, seen, axis=1, eps=0.1)
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-10, atol=1e-14)


VANISHING = [
    (layer_norm, (1, 4)),
    (rms_norm, (1, 4)),
    (group_norm.bind(groups=2), (3, 4)),
    (instance_norm, (3, 5, 4)),
    (batch_norm, (3, 4)),
]


def test_an_eps_that_vanishes_makes_no_nan():
    """In float32 these are 0, and 0/0 was NaN."""

    def values_and_gradients(zero):
        for eps in (1e-50, 1e-40):
            for op, shape in VANISHING:
                x = zero + jnp.full(shape, 0 if op == rms_norm else 3, jnp.float32)
                dy = jax.random.normal(KEY, shape, jnp.float32)
                for function in (op.bind(eps=eps), op.bind(eps=eps).definition):
                    y, pullback = jax.vjp(lambda x, f=function: f({}, x), x)
                    yield y, pullback(dy)
            params = {"scale": jnp.full(4, 10, jnp.float32) + zero}
            statistics = {name: jnp.full(4, 3, jnp.float32) * zero for name in ("mean", "var")}
            op, x = batch_norm_inference.bind(eps=eps), jnp.zeros((3, 4), jnp.float32)
            y, residuals = op.fwd(params, statistics, x)
            yield y, op.bwd(residuals, y + 1)

    results = jax.jit(lambda zero: list(values_and_gradients(zero)))(jnp.float32(0))
    for y, gradients in results:
        assert not y.any()
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_what_does_not_vary_becomes_the_bias():
    constant = jnp.full((3, 6), 1e4)
    for op in (layer_norm, group_norm.bind(groups=3), batch_norm):
        np.testing.assert_array_equal(op(AFFINE, constant), np.tile(AFFINE["bias"], (3, 1)))
    np.testing.assert_array_equal(rms_norm({}, jnp.zeros((3, 6))), np.zeros((3, 6)))


def test_an_empty_batch_makes_no_nan_on_the_way():
    with jax.debug_nans(True):
        y, residuals = batch_norm.fwd(AFFINE, X[0, :0])
        dparams, dx = batch_norm.bwd(residuals, y)
    assert dx.shape == (0, 6)
    jax.tree.map(lambda d: np.testing.assert_array_equal(d, np.zeros(6)), dparams)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("op", [*FORMULAS, batch_norm_inference], ids=str)
def test_the_two_halves_are_the_backward(op, dtype):
    statistics = ({"mean": X[0, 0], "var": X[0, 1] ** 2},) if op == batch_norm_inference else ()
    args = jax.tree.map(lambda a: a.astype(dtype), (AFFINE, *statistics, X))
    y, residuals = op.fwd(*args)
    deltas, *gradients = op.bwd_input(residuals, y)
    halves = (op.bwd_params(residuals, deltas), *gradients)
    whole = op.bwd(residuals, y)
    if op == batch_norm_inference:  # whose halves sum over an example first, then over the batch
        rounding = 4 * float(jnp.finfo(dtype).eps)
        alike = partial(np.testing.assert_allclose, rtol=rounding, atol=rounding)
        jax.tree.map(alike, halves, whole)
    else:
        jax.tree.map(np.testing.assert_array_equal, halves, whole)


def test_one_group_of_a_row_is_a_layer_norm():
    np.testing.assert_allclose(group_norm(AFFINE, X[0], groups=1), layer_norm(AFFINE, X[0]))


def test_statistics_may_be_more_precise_than_the_input():
    statistics = {"mean": jnp.zeros(6, jnp.float32), "var": jnp.ones(6, jnp.float32)}
    params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (AFFINE, X))
    y, residuals = batch_norm_inference.fwd(params, statistics, x)
    grads = batch_norm_inference.bwd(residuals, y)
    dtypes = jax.tree.map(lambda a: a.dtype, grads)
    assert dtypes == jax.tree.map(lambda a: a.dtype, (params, statistics, x))


def test_layers():
    for layer in (LayerNorm(6), RMSNorm(6), GroupNorm(3, 6), InstanceNorm(6), BatchNorm(6)):
        params = layer.init(KEY)
        assert set(params) <= {"scale", "bias"}
        assert jnp.array_equal(params["scale"], jnp.ones(6))
        y, residuals = layer.fwd(params, X)
        dparams, dx = layer.bwd(residuals, y)
        assert jax.tree.map(jnp.shape, (dparams, dx)) == jax.tree.map(jnp.shape, (params, X))


def test_layers_over_several_axes_and_with_an_offset():
    layer = LayerNorm((5, 6), scale_offset=1.0, scale_init=jax.nn.initializers.zeros)
    params = layer.init(KEY)
    assert jax.tree.map(jnp.shape, params) == {"scale": (5, 6), "bias": (5, 6)}
    np.testing.assert_allclose(layer.apply(params, X), layer_norm({}, X, axis=(1, 2)), rtol=1e-12)
    assert RMSNorm((5, 6)).init(KEY)["scale"].shape == (5, 6)


def test_batch_norm_is_checked_in_its_training_form():
    check(BatchNorm(6), AFFINE, X, laws=("value", "gradient")).raise_if_failed()


def test_scale_and_bias_are_optional_and_have_initialisers():
    assert LayerNorm(6, use_scale=False, use_bias=False).init(KEY) == {}
    params = GroupNorm(3, 6, use_scale=False, bias_init=jax.nn.initializers.ones).init(KEY)
    assert jax.tree.map(jnp.sum, params) == {"bias": 6}


class TestRunningStatistics:
    """The state of `BatchNorm`."""

    layer = BatchNorm(6, momentum=0.75)

    def state_after(self, x):
        _, residuals = self.layer.fwd(self.layer.init(KEY), x)
        return self.layer.update_state(self.layer.init_state(), residuals)

    def test_a_step_moves_them_towards_those_of_the_batch(self):
        state = self.state_after(X)
        np.testing.assert_allclose(state["mean"], 0.25 * X.mean((0, 1)))
        np.testing.assert_allclose(state["var"], 0.75 + 0.25 * X.var((0, 1), ddof=1))

    def test_a_batch_that_tells_nothing_changes_nothing(self):
        state = self.state_after(X[0, :1])
        np.testing.assert_allclose(state["mean"], 0.25 * X[0, 0])
        np.testing.assert_array_equal(state["var"], np.ones(6))
        jax.tree.map(
            np.testing.assert_array_equal, self.state_after(X[0, :0]), self.layer.init_state()
        )

    def test_the_variance_may_be_that_of_the_batch_as_it_is(self):
        layer = BatchNorm(6, momentum=0.75, unbiased=False)
        _, residuals = layer.fwd(layer.init(KEY), X)
        state = layer.update_state(layer.init_state(), residuals)
        np.testing.assert_allclose(state["var"], 0.75 + 0.25 * X.var((0, 1)))

    def test_padding_does_not_enter_them(self):
        lengths = jnp.array([5, 0, 3, 1, 5, 2, 4], jnp.int8)
        valid = jnp.arange(5)[None, :] < lengths[:, None].astype(int)
        x = jnp.where(valid[..., None], X, jnp.nan)
        y, residuals = self.layer.fwd(AFFINE, Padded(x, lengths))
        counted = np.asarray(x)[np.asarray(valid)]
        state = self.layer.update_state(self.layer.init_state(), residuals)
        np.testing.assert_allclose(state["mean"], 0.25 * counted.mean(0))
        np.testing.assert_allclose(state["var"], 0.75 + 0.25 * counted.var(0, ddof=1))
        np.testing.assert_allclose(
            y.values[valid], self.layer.fwd(AFFINE, jnp.asarray(counted))[0], rtol=1e-10
        )
        _, residuals = self.layer.fwd(AFFINE, x, where=valid[..., None] & False)
        untouched = self.layer.update_state(self.layer.init_state(), residuals)
        jax.tree.map(np.testing.assert_array_equal, untouched, self.layer.init_state())

    def test_inference_with_those_of_the_batch_is_the_training_form(self):
        state = {"mean": X.mean((0, 1)), "var": X.var((0, 1))}
        np.testing.assert_allclose(
            self.layer.apply(AFFINE, X, state), self.layer.fwd(AFFINE, X)[0], rtol=1e-10
        )

    @pytest.mark.usefixtures("standard_promotion")
    def test_fit_gathers_those_of_the_data_and_weight_decay_leaves_them(self, tmp_path):
        x = 3 + 2 * jax.random.normal(KEY, (32, 6))
        net = jaxnn.serial(self.layer, jaxnn.Linear(6, 1))
        training = jaxnn.fit(
            net,
            jaxnn.squared_error,
            net.init(KEY),
            (x, x[:, :1]),
            optimizer=optax.adamw(1e-2, weight_decay=0.5),
            batch_size=32,
            epochs=80,
        )
        params, state = training.params, training.state
        np.testing.assert_allclose(state[0]["mean"], x.mean(0), rtol=1e-8)
        np.testing.assert_allclose(state[0]["var"], x.var(0, ddof=1), rtol=1e-8)
        saved = {"params": params, "state": state}
        jaxnn.save_params(tmp_path / "net.safetensors", saved)
        loaded = jaxnn.load_params(tmp_path / "net.safetensors", like=saved)
        np.testing.assert_array_equal(
            net.apply(loaded["params"], x, loaded["state"]), net.apply(params, x, state)
        )


BAD = [
    (lambda: layer_norm(AFFINE, X, eps=0), ValueError, "option eps must be above 0, got 0"),
    (lambda: layer_norm({"w": X}, X), ValueError, "layer_norm: params has a key 'w' that is not"),
    (
        lambda: rms_norm({"scale": jnp.ones(5)}, X),
        ValueError,
        r"rms_norm: params\['scale'\] has shape \(5,\) but x has shape \(7, 5, 6\): it must be "
        r"\(6,\)",
    ),
    (lambda: rms_norm(AFFINE, X), ValueError, "rms_norm: params has a key 'bias' that is not"),
    (
        lambda: layer_norm({}, jnp.array(1.0)),
        ValueError,
        r"layer_norm: x is float64\[\]; it must have at least one axis",
    ),
    (
        lambda: batch_norm(AFFINE, X[0, 0]),
        ValueError,
        r"batch_norm: x is float64\[6\]; it must have at least two axes, examples and channels",
    ),
    (
        lambda: group_norm(AFFINE, X, groups=4),
        ValueError,
        "group_norm: 4 groups do not divide 6 channels",
    ),
    (lambda: group_norm(AFFINE, X, groups=2.0), TypeError, "groups must be an integer, got 2.0"),
    (
        lambda: layer_norm(AFFINE, X, axis=(1, 2)),
        ValueError,
        r"must be \(5, 6\), one number for each entry of axis \(1, 2\)",
    ),
    (lambda: layer_norm({}, X, axis=3), ValueError, "option axis is 3 but x has shape"),
    (lambda: layer_norm({}, X, axis=(0, -3)), ValueError, "which names an axis of x twice"),
    (lambda: layer_norm({}, X, axis=1.0), TypeError, "axis must be an integer or a tuple of"),
    (lambda: rms_norm({}, X, X), TypeError, "where must hold booleans, got float64"),
    (
        lambda: batch_norm({}, X, jnp.ones((7, 5), bool)),
        ValueError,
        r"where has shape \(7, 5\), which does not broadcast to \(7, 5, 6\)",
    ),
    (lambda: rms_norm({}, X, scale_offset="1"), TypeError, "scale_offset must be a number"),
    (lambda: instance_norm({}, X[0]), ValueError, "three axes, examples, places and channels"),
    (lambda: LayerNorm((3, 0)), ValueError, "LayerNorm: n must be a positive integer, got 0"),
    (
        lambda: batch_norm_inference(AFFINE, {"mean": X[0, 0]}, X),
        ValueError,
        r"statistics must have the keys 'mean' and 'var'; its keys are \['mean'\]",
    ),
    (
        lambda: batch_norm_inference(AFFINE, {"mean": X[0, 0], "var": jnp.ones(5)}, X),
        ValueError,
        r"statistics\['var'\] has shape \(5,\) but x has shape \(7, 5, 6\)",
    ),
    (
        lambda: batch_norm_inference(AFFINE, None, X),
        TypeError,
        "statistics must be a dict of arrays, got NoneType",
    ),
    (
        lambda: BatchNorm(6).apply(AFFINE, X),
        ValueError,
        r"BatchNorm: inference needs the running statistics: apply\(params, x, state\)",
    ),
    (lambda: BatchNorm(6, momentum=1.5), ValueError, "momentum must be at least 0 and at most 1"),
    (lambda: LayerNorm(0), ValueError, "LayerNorm: n must be a positive integer, got 0"),
    (lambda: RMSNorm(6, eps=-1.0), ValueError, "RMSNorm: option eps must be above 0, got -1.0"),
    (lambda: GroupNorm(4, 6), ValueError, "GroupNorm: 4 groups do not divide 6 channels"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
@pytest.mark.usefixtures("unannotated")
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
