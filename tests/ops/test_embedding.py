"""Embedding: ids out of range, ids of every dtype, sums in half precision, the layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.layers.embedding import Embedding
from jaxnn.ops.embedding import embedding, embedding_bag
from jaxnn.ops.shape import flatten

W = jnp.asarray(np.random.default_rng(0).normal(size=(300, 5)))
PARAMS = {"w": W}


@pytest.mark.parametrize("function", [embedding, embedding.definition])
def test_under_jit_an_id_out_of_range_is_loud_and_has_no_gradient(function):
    ids = jnp.array([-1, 300, 299, -300])
    y, pullback = jax.jit(lambda w, ids: jax.vjp(lambda w: function({"w": w}, ids), w))(W, ids)
    assert jnp.isnan(y).all(axis=1).tolist() == [True, True, False, True]
    assert jnp.array_equal(y[2], W[299])
    (dw,) = pullback(jnp.ones((4, 5)))
    assert jnp.array_equal(dw, jnp.zeros((300, 5)).at[299].set(1))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_ids_of_every_integer_dtype(dtype):
    ids = jnp.array([[3, 127], [0, 3]], dtype)
    y, residuals = embedding.fwd(PARAMS, ids)
    assert jnp.array_equal(y, W[ids.astype("int64")])
    dparams, dids = embedding.bwd(residuals, y)
    assert dids is None
    np.testing.assert_allclose(dparams["w"][3], 2 * W[3])
    np.testing.assert_allclose(dparams["w"].sum(), y.sum())


def test_sums_of_half_precision_are_in_float32():
    params, ids = {"w": jnp.zeros((3, 1), jnp.bfloat16)}, jnp.ones(1000, int)
    _, residuals = embedding.fwd(params, ids)
    dparams, _ = embedding.bwd(residuals, jnp.ones((1000, 1), jnp.bfloat16))
    assert dparams["w"].dtype == jnp.bfloat16
    assert dparams["w"].ravel().tolist() == [0, 1000, 0]


def test_the_two_halves_make_the_backward():
    ids = jnp.array([[3, 127, 3], [0, 3, 299]])
    y, residuals = embedding.fwd(PARAMS, ids)
    deltas, dids = embedding.bwd_input(residuals, y)
    assert deltas is y
    assert dids is None
    halves = embedding.bwd_params(residuals, deltas)
    assert jnp.array_equal(halves["w"], embedding.bwd(residuals, y)[0]["w"])


def test_only_the_ids_are_saved():
    _, residuals = embedding.fwd(PARAMS, jnp.arange(7))
    assert [leaf.shape for leaf in jax.tree.leaves(residuals)] == [(7,)]


def test_the_layer_in_a_network():
    net = jaxnn.serial(Embedding(11, 3), flatten, jaxnn.Linear(12, 2))
    params = net.init(jax.random.key(0))
    assert params[0]["w"].shape == (11, 3)
    ids, labels = jnp.array([[0, 3, 1, 3], [9, 9, 10, 1]]), jnp.array([0, 1])
    gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
    value, grads = gradient(params, ids, labels)

    def objective(params):
        y = params[0]["w"][ids].reshape(2, 12) @ params[2]["w"] + params[2]["b"][None, :]
        return jnp.mean(jaxnn.softmax_cross_entropy.definition(y, labels))

    true_value, true_grads = jax.value_and_grad(objective)(params)
    np.testing.assert_allclose(value, true_value, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grads, true_grads)


def test_the_row_of_the_padding_is_read_and_has_no_gradient():
    padding_idx = -2
    ids, dy = jnp.array([3, 298, 7, 298], jnp.int16), jnp.ones((4, 5)).at[1].set(jnp.nan)
    for function in (embedding, embedding.definition):
        y, pullback = jax.vjp(lambda w, f=function: f({"w": w}, ids, padding_idx=padding_idx), W)
        np.testing.assert_array_equal(y, W[ids.astype(int)])
        np.testing.assert_array_equal(
            pullback(dy)[0], jnp.zeros_like(W).at[jnp.array([3, 7])].set(1)
        )
    layer = Embedding(11, 3, padding_idx=-1)
    params = layer.init(jax.random.key(0))
    assert not params["w"][10].any()
    _, residuals = layer.fwd(params, jnp.array([10, 2]))
    assert layer.bwd(residuals, jnp.ones((2, 3)))[0]["w"].sum(1).tolist() == [0, 0, 3] + [0] * 8


IDS = np.random.default_rng(1).integers(0, 300, (7, 4))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint32", "int64"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_in_a_loop(mode, dtype):
    seen = np.random.default_rng(2).random((7, 4)) < 0.6
    weights = np.random.default_rng(3).normal(size=(7, 4)) if mode == "sum" else None
    ids, padding = IDS.astype(dtype), int(IDS[0, 0])
    ids[~seen] = np.iinfo(dtype).max  # dropped: any integer
    given = None if weights is None else np.where(seen, weights, np.nan)
    options = {"mode": mode, "padding_idx": padding}
    y, residuals = embedding_bag.fwd(PARAMS, ids, given, seen, **options)
    dparams, _, dweights, _ = embedding_bag.bwd(residuals, y)
    dw = np.zeros_like(W)
    for n in range(7):
        bag = [i for i in range(4) if seen[n, i] and IDS[n, i] != padding]
        factor = {i: weights[n, i] if mode == "sum" else 1 / len(bag) for i in bag}
        total = sum((factor[i] * np.asarray(W[IDS[n, i]]) for i in bag), np.zeros(5))
        np.testing.assert_allclose(y[n], total, rtol=1e-12, atol=1e-14)
        for i in range(4):
            if i in bag:
                dw[IDS[n, i]] += factor[i] * total
            if weights is not None:
                slope = total @ np.asarray(W[IDS[n, i]]) if i in bag else 0
                np.testing.assert_allclose(dweights[n, i], slope, rtol=1e-10)
    np.testing.assert_allclose(dparams["w"], dw, rtol=1e-10, atol=1e-12)


def test_bags_with_ids_out_of_range():
    ids = jnp.array([[3, 300], [-1, 3], [3, 4]])
    y = jax.jit(lambda ids: embedding_bag(PARAMS, ids))(ids)
    assert jnp.isnan(y).any(axis=1).tolist() == [True, True, False]
    seen = (ids >= 0) & (ids < 300)
    np.testing.assert_allclose(embedding_bag(PARAMS, ids, where=seen)[:2], W[jnp.array([3, 3])])
    assert not embedding_bag(PARAMS, ids, where=seen & False, mode="mean").any()


BAD = [
    (lambda: embedding_bag(PARAMS, jnp.array([[3, 300]])), ValueError, "id 300 is out of range"),
    (lambda: embedding_bag(PARAMS, jnp.array(3)), ValueError, "ids is a single number"),
    (lambda: embedding_bag(PARAMS, IDS, mode="max"), ValueError, "must be 'sum' or 'mean'"),
    (
        lambda: embedding_bag(PARAMS, IDS, jnp.ones((7, 4)), mode="mean"),
        ValueError,
        "weights need mode='sum'",
    ),
    (
        lambda: embedding_bag(PARAMS, IDS, jnp.ones((7, 3))),
        ValueError,
        r"weights has shape \(7, 3\)",
    ),
    (lambda: embedding(PARAMS, IDS, padding_idx=300), ValueError, "padding_idx is 300 but there"),
    (lambda: embedding(PARAMS, IDS, padding_idx=1.0), TypeError, "padding_idx must be an integer"),
    (lambda: Embedding(3, 2, padding_idx=3), ValueError, "Embedding: option padding_idx is 3"),
    (
        lambda: embedding(PARAMS, jnp.array([3, 300])),
        ValueError,
        "id 300 is out of range; .* 0 … 299",
    ),
    (lambda: embedding(PARAMS, jnp.array(-1)), ValueError, "id -1 is out of range"),
    (lambda: embedding(PARAMS, jnp.ones(3)), TypeError, "ids must be integers, got float64"),
    (lambda: embedding({"w": W[0]}, jnp.array(0)), ValueError, r"got shape \(5,\)"),
    (lambda: embedding({"w": W[:0]}, jnp.array(0)), ValueError, "at least one row"),
    (lambda: embedding({"v": W}, jnp.array(0)), ValueError, "params has no 'w'"),
    (lambda: embedding({"w": W.astype(int)}, jnp.array(0)), TypeError, "must be floating point"),
    (lambda: Embedding(0, 3), ValueError, "Embedding: n must be a positive integer, got 0"),
    (lambda: Embedding(3, 2.0), ValueError, "Embedding: dim must be a positive integer, got 2.0"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
