"""Dropout: what the mask depends on and what it does not, the layer, bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.layers.dropout import Dropout
from jaxnn.ops.dropout import alpha_dropout, dropout

KEY = jax.random.key(3)
ONES = jnp.ones((400, 251), jnp.float32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_fraction_of_the_entries_is_dropped_and_the_rest_scaled(rate):
    y = np.asarray(dropout(ONES, KEY, rate=rate))
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.999, 0.99999, 1 - 1e-7])
def test_the_mean_is_kept_near_rate_1(rate):
    """With 16 bits for each entry and a scale of 1/(1 - rate) it was 1.5 at a rate of 0.99999."""
    shape = (round(min(4 / (1 - rate), 20_000_000)),)
    y = np.asarray(dropout(jnp.ones(shape, jnp.float32), KEY, rate=rate), np.float64)
    kept = 2**32 - round(rate * 2**32)
    np.testing.assert_allclose(y[y != 0], 2**32 / kept, rtol=1e-6)
    assert abs((y != 0).sum() - shape[0] * kept / 2**32) < 5 * np.sqrt(4)


def test_at_a_rate_that_rounds_to_0_or_1_nothing_is_divided_by_0():
    y, residuals = dropout.fwd(ONES, KEY, rate=1 - 1e-12)
    assert jnp.isfinite(jnp.stack([y, dropout.bwd(residuals, ONES)[0]])).all()
    np.testing.assert_array_equal(dropout(ONES, KEY, rate=1e-12), ONES)


def test_the_two_entries_of_a_word_are_dropped_independently():
    """The first half of the last axis shares its random words with the second."""
    for rate in (0.001, 0.3, 0.999):
        dropped = np.asarray(dropout(jnp.ones((20_000, 200)), KEY, rate=rate)) == 0
        first, second = dropped[:, :100].ravel(), dropped[:, 100:].ravel()
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_one_mask_along_some_axes():
    x = jnp.ones((50, 4, 3, 11), jnp.float32)
    y, residuals = dropout.fwd(x, KEY, rate=0.5, broadcast_axes=(1, -2))
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], x.shape))
    assert 0.4 < (y == 0).mean() < 0.6
    np.testing.assert_array_equal(dropout.bwd(residuals, x)[0], y)
    layer = Dropout(0.5, broadcast_axes=(1, 2))
    np.testing.assert_array_equal(layer.fwd((), x, KEY)[0], y)


@pytest.mark.parametrize("rate", [0.2, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(rate):
    x = jax.random.normal(jax.random.key(1), (1000, 401))
    y, residuals = alpha_dropout.fwd(x, KEY, rate=rate)
    assert abs(y.mean()) < 0.02
    assert abs(y.var() - 1) < 0.03
    dx, _ = alpha_dropout.bwd(residuals, x)
    dropped = dx == 0
    assert abs(dropped.mean() - rate) < 0.01
    np.testing.assert_allclose(y[dropped], y[dropped][0])
    slope = ((1 - rate) * (1 + rate * 1.7580993408473766**2)) ** -0.5
    np.testing.assert_allclose(dx, jnp.where(dropped, 0, slope * x), rtol=1e-8)


def test_neighbours_are_dropped_independently():
    dropped = np.asarray(dropout(ONES, KEY, rate=0.5)) == 0
    for other in (dropped[:, ::-1], np.roll(dropped, 1, 1), np.roll(dropped, 126, 1)):
        assert abs((dropped == other)[:, :125].mean() - 0.5) < 0.02


def test_the_mask_is_the_same_for_every_dtype_and_without_float64():
    masks = [
        dropout(ONES.astype(dtype), KEY, rate=0.3) == 0
        for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    ]
    with jax.enable_x64(False):
        masks.append(dropout(ONES, KEY, rate=0.3) == 0)
    masks.append(jax.jit(partial(dropout, rate=0.3))(ONES, KEY) == 0)
    assert all(jnp.array_equal(mask, masks[0]) for mask in masks)


def test_each_key_has_its_own_mask_and_old_keys_will_do():
    y = dropout(ONES, KEY, rate=0.5)
    assert not jnp.array_equal(y, dropout(ONES, jax.random.key(4), rate=0.5))
    assert jnp.array_equal(y, dropout(ONES, jax.random.key_data(KEY), rate=0.5))


def test_the_gradient_of_the_key_is_none_and_the_backward_draws_the_same_mask():
    y, residuals = dropout.fwd(ONES, KEY, rate=0.3)
    dx, dkey = dropout.bwd(residuals, ONES, rate=0.3)
    assert dkey is None
    assert jnp.array_equal(dx, y)
    assert jax.tree.leaves(residuals) == [KEY]


def test_keys_may_be_mapped_over():
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: dropout(ONES, key, rate=0.3))(keys)
    assert jnp.array_equal(mapped[1], dropout(ONES, keys[1], rate=0.3))


def test_dropped_entries_are_zero_even_if_they_were_nan():
    y = dropout(ONES * jnp.nan, KEY, rate=0.5)
    assert set(np.unique(np.isnan(y))) == {False, True}


def test_rate_0_changes_nothing():
    y, residuals = dropout.fwd(ONES, KEY, rate=0.0)
    assert jnp.array_equal(y, ONES)
    assert jnp.array_equal(dropout.bwd(residuals, ONES, rate=0.0)[0], ONES)


def test_the_layer_is_random_in_training_only():
    net = jaxnn.serial(Dropout(0.5), jaxnn.identity, Dropout(0.25))
    params = net.init(KEY)
    assert params == ((), (), ())
    assert jnp.array_equal(net.apply(params, ONES), ONES)
    y, residuals = net.fwd(params, ONES, KEY)
    np.testing.assert_allclose(np.unique(y), [0, 8 / 3], rtol=1e-6)
    assert jnp.array_equal(net.bwd(residuals, ONES)[1], y)


X = jnp.ones(3)
BAD = [
    (lambda: dropout(X, KEY, rate=1.0), ValueError, "rate must be below 1, got 1.0"),
    (lambda: dropout(X, KEY, rate=-0.1), ValueError, "rate must be at least 0, got -0.1"),
    (lambda: dropout(X, KEY, rate="half"), TypeError, "rate must be a number, got 'half'"),
    (lambda: dropout(jnp.arange(3), KEY, rate=0.5), TypeError, "x must be floating point"),
    (lambda: dropout(X, X, rate=0.5), TypeError, r"key must be one PRNG key, .* got float64\[3\]"),
    (
        lambda: dropout(X, jax.random.split(KEY, 3), rate=0.5),
        ValueError,
        r"key must be one PRNG key, .* got key<fry>\[3\]",
    ),
    (
        lambda: dropout(X, KEY, rate=0.5, broadcast_axes=(1,)),
        ValueError,
        r"broadcast_axes is \(1,\) but x has shape \(3,\)",
    ),
    (lambda: Dropout(1), ValueError, "Dropout: option rate must be below 1, got 1"),
    (lambda: Dropout(0.5).fwd((), X), ValueError, "training needs a key"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
