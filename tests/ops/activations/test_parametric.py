"""Activations with parameters, and maxout: known values, edges, layers, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.ops.activations.maxout import maxout
from jaxnn.ops.activations.parametric import dynamic_tanh, prelu

NUMBERS = np.random.default_rng(0).normal(scale=2, size=(7, 3))
X = jnp.asarray(NUMBERS)
SLOPE = jnp.array([0.25, -0.5, 0.0])


@pytest.mark.parametrize("function", [prelu, prelu.definition])
def test_prelu_is_a_leaky_relu_whose_slope_is_trained(function):
    for slope in (SLOPE, SLOPE[0]):
        y, pullback = jax.vjp(lambda a, x: function({"slope": a}, x), slope, X)
        a, dy = np.asarray(slope), np.asarray(y)
        np.testing.assert_allclose(y, np.where(NUMBERS > 0, NUMBERS, a * NUMBERS), rtol=1e-12)
        da, dx = pullback(y)
        each = np.where(NUMBERS > 0, 0, NUMBERS * dy)
        np.testing.assert_allclose(da, each.sum(axis=tuple(range(2 - slope.ndim))), rtol=1e-12)
        np.testing.assert_allclose(dx, np.where(NUMBERS > 0, dy, a * dy), rtol=1e-12)
    at_0 = jax.grad(lambda x: function({"slope": SLOPE}, x).sum())(jnp.zeros(3))
    assert at_0.tolist() == SLOPE.tolist()


def test_dynamic_tanh_with_and_without_scale_and_bias():
    params = {"alpha": jnp.array(0.5), "scale": SLOPE, "bias": jnp.array([1.0, 2.0, 3.0])}
    full = dynamic_tanh(params, X)
    scale, bias = (np.asarray(params[name]) for name in ("scale", "bias"))
    np.testing.assert_allclose(full, scale * np.tanh(0.5 * NUMBERS) + bias, rtol=1e-12)
    np.testing.assert_allclose(dynamic_tanh({"alpha": params["alpha"]}, X), jnp.tanh(0.5 * X))


@pytest.mark.parametrize("function", [maxout, maxout.definition])
def test_maxout_takes_the_first_of_equal_pieces_and_any_nan(function):
    x = jnp.array([1.0, 2.0, 2.0, 0.0, 0.0, -1.0])
    y, pullback = jax.vjp(lambda x: function(x, pieces=3), x)
    assert y.tolist() == [2, 0]
    assert pullback(jnp.array([5.0, 7.0]))[0].tolist() == [0, 5, 0, 7, 0, 0]
    for place in range(3):
        assert jnp.isnan(function(x.at[place].set(jnp.nan), pieces=3)).tolist() == [True, False]


def test_layers():
    key, x = jax.random.key(0), X.astype(jnp.float32)
    for layer, keys in (
        (jaxnn.PReLU(), {"slope": ()}),
        (jaxnn.PReLU(3, slope=0.1), {"slope": (3,)}),
        (jaxnn.DynamicTanh(3), {"alpha": (), "scale": (3,), "bias": (3,)}),
        (jaxnn.DynamicTanh(3, use_scale=False, use_bias=False), {"alpha": ()}),
    ):
        net = jaxnn.serial(jaxnn.Linear(3, 3), layer)
        params = net.init(key)
        assert jax.tree.map(jnp.shape, params[1]) == keys
        y, residuals = net.fwd(params, x)
        dparams, dx = net.bwd(residuals, y)
        assert jax.tree.map(jnp.shape, dparams) == jax.tree.map(jnp.shape, params)
        assert dx.shape == x.shape
    assert repr(jaxnn.PReLU(3, slope=0.1)) == "PReLU(3, slope=0.1)"


BAD = [
    (lambda: prelu({"slope": SLOPE[:2]}, X), ValueError, r"params\['slope'\] has shape \(2,\)"),
    (lambda: prelu({"a": SLOPE}, X), ValueError, "params has no 'slope'"),
    (lambda: prelu({"slope": SLOPE}, X[0, 0]), ValueError, "x is a single number"),
    (lambda: dynamic_tanh({"alpha": SLOPE}, X), ValueError, r"params\['alpha'\] has shape"),
    (lambda: maxout(X, pieces=2), ValueError, "2 pieces do not divide its last axis"),
    (lambda: maxout(X, pieces=300), ValueError, "pieces must be from 1 to 256"),
    (lambda: maxout(X, pieces=1.5), TypeError, "pieces must be an integer"),
    (lambda: jaxnn.PReLU(0), ValueError, "PReLU: n must be a positive integer"),
    (lambda: jaxnn.DynamicTanh(3, alpha="1"), TypeError, "DynamicTanh: option alpha must be"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
