"""Weight norm and vectors of length 1: the formulas in NumPy, extremes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.ops.weight_norm import l2_normalize, weight_norm

RANDOM = np.random.default_rng(0)
V = RANDOM.normal(size=(5, 3, 7))


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), (2, -3), None], ids=str)
def test_the_formula(axis):
    outputs = () if axis is None else tuple(np.atleast_1d(axis) % 3)
    inputs = tuple(a for a in range(3) if a not in outputs)
    g = RANDOM.normal(size=[V.shape[a] for a in sorted(outputs)])
    norm = np.sqrt((V**2).sum(inputs, keepdims=True))
    w, residuals = weight_norm.fwd({"v": V, "g": g}, axis=axis)
    np.testing.assert_allclose(w, V / norm * g.reshape(norm.shape), rtol=1e-12)
    dw = RANDOM.normal(size=V.shape)
    (dparams,) = weight_norm.bwd(residuals, dw)
    np.testing.assert_allclose(dparams["g"], (dw * V / norm).sum(inputs), rtol=1e-10)
    along_v = (dparams["v"] * V).sum(inputs)
    np.testing.assert_allclose(along_v, np.zeros_like(along_v), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_squares_neither_overflow_nor_vanish(scale):
    """In float32, where the square of either scale is 0 or infinite."""
    x = jnp.asarray(scale * V[0], jnp.float32)
    expected = V[0] / np.sqrt((V[0] ** 2).sum(-1, keepdims=True))
    np.testing.assert_allclose(l2_normalize(x, eps=1e-38), expected, rtol=1e-5)
    w = weight_norm({"v": x, "g": jnp.ones(3, jnp.float32)}, axis=0)
    np.testing.assert_allclose(w, expected, rtol=1e-5)


def test_a_zero_vector():
    params = {"v": jnp.zeros((3, 2)), "g": jnp.ones(2)}
    zeros, ones = jnp.zeros(3, jnp.float32), jnp.ones(3, jnp.float32)

    def each(params, zeros):
        for function in (weight_norm, weight_norm.definition):
            w, pullback = jax.vjp(function, params)
            yield w, pullback(jnp.ones((3, 2)))
        for function in (l2_normalize, l2_normalize.definition):
            for eps in (0.5, 1e-50):  # 1e-50 is 0 in float32
                y, pullback = jax.vjp(lambda x, f=function, e=eps: f(x, eps=e), zeros)
                yield y, pullback(ones)

    *of_weights, half, tiny, half_again, tiny_again = jax.jit(lambda *args: list(each(*args)))(
        params, zeros
    )
    assert not any(a.any() for a in jax.tree.leaves(of_weights))
    for y, (dx,) in (half, half_again):
        assert not y.any()
        assert dx.tolist() == [2, 2, 2]
    for y, (dx,) in (tiny, tiny_again):
        assert not y.any()
        assert jnp.isfinite(dx).all()


def test_short_vectors_are_divided_by_eps():
    x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    np.testing.assert_allclose(l2_normalize(x, eps=1.0), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-12)


BAD = [
    (lambda: weight_norm({"v": V}), ValueError, "params has no 'g'"),
    (lambda: weight_norm({"v": V, "g": V[0]}), ValueError, r"with axis=-1 it must be \(7,\)"),
    (lambda: weight_norm({"v": V, "g": V[0, 0]}, axis=3), ValueError, "option axis is 3"),
    (lambda: l2_normalize(V, axis=(0, 0)), ValueError, "names an axis of x twice"),
    (lambda: l2_normalize(V, eps=0), ValueError, "eps must be above 0"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
