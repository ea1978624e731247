"""Segments against loops and JAX's own, ids of narrow dtypes, ties, infinities, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.ops.segment import segment_max, segment_mean, segment_sum

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(40, 3))
LOOPS = {segment_sum: np.sum, segment_mean: np.mean, segment_max: np.max}
OPS = pytest.mark.parametrize("op", LOOPS, ids=lambda op: op.__name__)


@OPS
def test_a_loop(op):
    """With more segments than int8 and uint8 can count."""

    @jax.jit
    def value_and_gradient(ids):
        y, residuals = op.fwd(VALUES, ids, num_segments=300)
        return y, op.bwd(residuals, jnp.arange(900.0).reshape(300, 3))

    for dtype in ("int8", "uint8", "int16", "uint32", "int64"):
        ids = RANDOM.integers(0, 12, 40).astype(dtype)
        ids[:3] = [np.iinfo(dtype).max, 100, 100]
        y, (dvalues, dids) = value_and_gradient(ids)
        assert dids is None
        y, dvalues = np.asarray(y), np.asarray(dvalues)
        assert not dvalues[ids >= 300].any()
        for s in range(300):
            members = ids.astype(np.int64) == s
            expected = LOOPS[op](VALUES[members], axis=0) if members.any() else np.zeros(3)
            np.testing.assert_allclose(y[s], expected, rtol=1e-12)
            times = members.sum() if op == segment_sum else members.any()
            np.testing.assert_allclose(dvalues[members].sum(0), (3 * s + np.arange(3)) * times)


def test_jax_ops():
    ids = jnp.array([2, 0, 2, 5, -1, 0])
    values = jnp.asarray(VALUES[:6])
    np.testing.assert_allclose(
        segment_sum(values, ids, num_segments=4), jax.ops.segment_sum(values, ids, 4), rtol=1e-12
    )
    theirs = jax.ops.segment_max(values, ids, 4)
    theirs = jnp.where(jnp.isneginf(theirs), 0, theirs)
    np.testing.assert_array_equal(segment_max(values, ids, num_segments=4), theirs)


@OPS
def test_what_is_dropped_may_hold_anything(op):
    ids = jnp.array([0, -1, 2, 7, 0])
    spoilt = jnp.array([1.0, jnp.nan, 3.0, jnp.inf, 5.0])
    y, residuals = op.fwd(spoilt, ids, num_segments=3)
    dvalues, _ = op.bwd(residuals, jnp.array([1.0, jnp.nan, 1.0]))  # an empty segment has no values
    assert jnp.isfinite(y).all()
    assert jnp.isfinite(dvalues).all()
    assert dvalues[1] == dvalues[3] == 0


def test_of_equal_maxima_the_first_has_the_gradient():
    ids, values = jnp.array([0, 1, 0, 1, 0]), jnp.array([1.0, -jnp.inf, 4.0, -jnp.inf, 4.0])
    for function in (segment_max, segment_max.definition):
        y, pullback = jax.vjp(lambda v, f=function: f(v, ids, num_segments=2), values)
        assert y.tolist() == [4, -np.inf]
        assert pullback(jnp.array([10.0, 20.0]))[0].tolist() == [0, 20, 10, 0, 0]
    y = segment_max(values.at[0].set(jnp.nan), ids, num_segments=2)
    assert jnp.isnan(y).tolist() == [True, False]


BAD = [
    (
        lambda: segment_sum(VALUES, jnp.zeros(39, int), num_segments=3),
        ValueError,
        "one id for each",
    ),
    (
        lambda: segment_max(jnp.ones(()), jnp.zeros((), int), num_segments=3),
        ValueError,
        "first axis",
    ),
    (lambda: segment_mean(VALUES, jnp.zeros(40), num_segments=3), TypeError, "must be integers"),
    (
        lambda: segment_sum(VALUES, jnp.zeros(40, int), num_segments=3.0),
        TypeError,
        "num_segments must be an integer, got 3.0",
    ),
    (
        lambda: segment_sum(VALUES, jnp.zeros(40, int), num_segments=-1),
        ValueError,
        "must not be negative, got -1",
    ),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
