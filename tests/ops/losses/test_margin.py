"""Margin, cosine and likelihood losses: known values, PyTorch's formulas, edges, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.ops.losses.cosine import cosine_embedding, cosine_similarity
from jaxnn.ops.losses.likelihood import gaussian_nll, poisson_nll
from jaxnn.ops.losses.margin import hinge, hinge_embedding, margin_ranking, triplet_margin
from jaxnn.ops.losses.regression import quantile_loss, smooth_l1

RANDOM = np.random.default_rng(0)
A, B, C = (RANDOM.normal(size=(4, 3)) for _ in range(3))
SIGNS = np.array([[1, -1, 1], [-1, -1, 1], [1, 1, -1], [-1, 1, 1]])
YES = jnp.asarray(SIGNS > 0)
BOTH = pytest.mark.parametrize("way", [lambda op: op, lambda op: op.definition], ids=["op", "def"])


def gradient(loss, *args, argnums=0):
    return jax.jit(jax.grad(lambda *args: loss(*args).sum(), argnums))(*args)


def cosine(a, b, eps=0.0):
    norms = [np.maximum(np.linalg.norm(x, axis=-1), eps) for x in (a, b)]
    return (a * b).sum(-1) / np.prod(norms, axis=0)


def norm(x, p=2.0):
    return (np.abs(x) ** p).sum(-1) ** (1 / p)


FORMULAS = [  # PyTorch's, in NumPy
    (hinge, (A, SIGNS), np.maximum(0, 1 - SIGNS * A).sum(-1)),
    (hinge.bind(squared=True, margin=0.5), (A, B), (np.maximum(0, 0.5 - A * B) ** 2).sum(-1)),
    (
        margin_ranking.bind(margin=0.25),
        ((A, B), SIGNS),
        np.maximum(0, 0.25 - SIGNS * (A - B)).sum(-1),
    ),
    (hinge_embedding, (A, SIGNS), np.where(SIGNS > 0, A, np.maximum(0, 1 - A)).sum(-1)),
    (
        triplet_margin,
        (A, B, C),
        np.maximum(0, norm(A - B + 1e-6) - norm(A - C + 1e-6) + 1),
    ),
    (
        triplet_margin.bind(p=3.0, swap=True, margin=2.0, eps=0.0),
        (A, B, C),
        np.maximum(0, norm(A - B, 3) - np.minimum(norm(A - C, 3), norm(B - C, 3)) + 2),
    ),
    (cosine_similarity.bind(eps=2.0), (A, B), cosine(A, B, 2.0)),
    (
        cosine_embedding.bind(margin=0.1),
        ((A, B), SIGNS[:, 0]),
        np.where(SIGNS[:, 0] > 0, 1 - cosine(A, B), np.maximum(0, cosine(A, B) - 0.1)),
    ),
    (
        gaussian_nll.bind(full=True),
        ((A, B**2), C),
        (0.5 * (np.log(B**2) + (A - C) ** 2 / B**2 + np.log(2 * np.pi))).sum(-1),
    ),
    (poisson_nll, (A, SIGNS + 2), (np.exp(A) - (SIGNS + 2) * A).sum(-1)),
    (
        poisson_nll.bind(log_input=False, full=True, eps=0.5),
        (A**2, SIGNS + 2),
        (
            A**2
            - (SIGNS + 2) * np.log(A**2 + 0.5)
            + np.where(SIGNS > 0, 3 * math.log(3) - 3 + 0.5 * math.log(2 * math.pi * 3), 0)
        ).sum(-1),
    ),
    (
        smooth_l1.bind(beta=0.5),
        (A, B),
        np.where(abs(A - B) < 0.5, (A - B) ** 2, abs(A - B) - 0.25).sum(-1),
    ),
    (quantile_loss.bind(quantile=0.9), (A, B), np.maximum(0.9 * (B - A), 0.1 * (A - B)).sum(-1)),
]


@pytest.mark.parametrize(("loss", "args", "expected"), FORMULAS, ids=[str(f[0]) for f in FORMULAS])
def test_it_is_the_formula(loss, args, expected):
    args = jax.tree.map(jnp.asarray, args)
    np.testing.assert_allclose(jax.jit(loss)(*args), expected, rtol=1e-12)


@pytest.mark.usefixtures("standard_promotion")
def test_it_is_the_loss_of_optax():
    a, b, t = (jnp.asarray(x, float) for x in (A, B, SIGNS))
    np.testing.assert_allclose(hinge(a, t), optax.losses.hinge_loss(a, t).sum(-1), rtol=1e-12)
    theirs = optax.losses.cosine_similarity(a, b)
    np.testing.assert_allclose(cosine_similarity(a, b, eps=0.0), theirs, rtol=1e-12)


@pytest.mark.parametrize("loss", [hinge, hinge_embedding])
def test_booleans_are_signs_and_narrow_integers_too(loss):
    """As a uint8, −1 would be 255."""
    a, floats = jnp.asarray(A), jnp.asarray(SIGNS, float)
    value, residuals = loss.fwd(a, floats)
    dx, _ = loss.bwd(residuals, value)
    for target in (YES, jnp.asarray(SIGNS, jnp.int8), jnp.asarray(SIGNS)):
        same, residuals = loss.fwd(a, target)
        assert jnp.array_equal(same, value)
        same, dtarget = loss.bwd(residuals, value)
        assert jnp.array_equal(same, dx)
        assert dtarget is None
    for way in (loss, loss.definition):
        wrong = jnp.full((4, 3), 255, jnp.uint8)
        value, pullback = jax.jit(lambda a, t, way=way: jax.vjp(lambda a: way(a, t), a))(a, wrong)
        assert jnp.isnan(value).all()
        assert jnp.isnan(pullback(value)[0]).all()


@BOTH
def test_the_edge_of_a_margin_is_flat(way):
    one = jnp.ones((1, 1))
    assert not gradient(way(hinge), one, jnp.ones((1, 1), int)).any()
    assert not gradient(way(hinge_embedding), one, -jnp.ones((1, 1), int)).any()
    pair = (one, one)
    assert not any(d.any() for d in gradient(way(margin_ranking), pair, jnp.ones((1, 1), int)))
    same = gradient(way(triplet_margin.bind(eps=0.0, margin=0.0)), one, 0 * one, 2 * one)
    assert not same.any()
    apart = gradient(way(cosine_embedding.bind(margin=1.0)), pair, -jnp.ones(1, int))
    assert not any(d.any() for d in apart)
    assert not gradient(way(quantile_loss), one, one).any()


@BOTH
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_a_norm_at_0_has_gradient_0(way, p):
    loss = way(triplet_margin.bind(p=p, eps=0.0, swap=True))
    for d in gradient(loss, *(jnp.ones((1, 3)),) * 3, argnums=(0, 1, 2)):
        assert not d.any()


@BOTH
def test_the_zero_vector_has_no_direction(way):
    zero, other = [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]
    a, b = jnp.array([zero, other, zero]), jnp.array([other, zero, zero])

    def pulled(function):
        y, pullback = jax.vjp(function, a, b)
        return y, pullback(jnp.ones(3))

    similar, near, floored = jax.jit(
        lambda: (
            pulled(way(cosine_similarity.bind(eps=0.0))),
            pulled(lambda a, b: way(cosine_embedding)((a, b), jnp.ones(3, int))),
            pulled(way(cosine_similarity.bind(eps=0.5))),
        )
    )()
    for (y, gradients), value in ((similar, 0), (near, 1)):
        assert y.tolist() == [value] * 3
        assert not np.any(gradients)
    _, (da, db) = floored
    np.testing.assert_allclose(da[0], np.array(other) / 3 / 0.5, rtol=1e-12)
    assert not np.any(db[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_vectors_close_to_each_other_lose_no_digits(sign):
    """At an angle φ from parallel or opposite the cosine is ±cos φ, with the slope ∓sin φ."""
    a = jnp.array([[np.cos(1e-3), np.sin(1e-3)]], jnp.float32)
    b = jnp.array([[sign, 0.0]], jnp.float32)
    slope = gradient(cosine_similarity, a, b)[0]
    np.testing.assert_allclose(slope[1], -sign * np.sin(1e-3) * np.cos(1e-3), rtol=1e-4)
    near = cosine_embedding((a, sign * b), jnp.array([1]))
    np.testing.assert_allclose(near, 2 * np.sin(5e-4) ** 2, rtol=1e-4)


def test_sizes_neither_overflow_nor_vanish():
    a, b, c = (jnp.asarray(x, jnp.float32) for x in (A, B, C))

    @jax.jit
    def of(scale):
        scaled = scale * a, scale * b, scale * c
        y, pullback = jax.vjp(triplet_margin.bind(eps=0.0, margin=0.0), *scaled)
        return pullback(jnp.ones_like(y)), cosine_similarity(*scaled[:2], eps=0.0)

    true, _ = of(1.0)
    for scale in (1e-25, 1e25):
        gradients, similar = of(scale)
        np.testing.assert_allclose(gradients, true, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(similar, cosine(A, B), rtol=1e-5)


@BOTH
def test_a_variance_below_the_floor_is_the_floor(way):
    mean, variance, target = jnp.array([[1.0] * 3]), jnp.array([[0.5, 1.0, 2.0]]), jnp.zeros((1, 3))
    loss = way(gaussian_nll.bind(eps=1.0))
    floored = loss((mean, jnp.array([[1.0, 1.0, 2.0]])), target)
    np.testing.assert_allclose(loss((mean, variance), target), floored, rtol=1e-12)
    _, dvariance = gradient(loss, (mean, variance), target)
    np.testing.assert_allclose(dvariance[0], [0, 0, 0.5 * (1 / 2 - 1 / 4)], atol=1e-15)


def test_an_option_that_vanishes_in_the_dtype():
    """1e-50 is 0 in float32."""
    x = jnp.array([[0.0, 1.0, -2.0]], jnp.float32)
    variance, zero = jnp.array([[1.0, 2.0, 0.5]], jnp.float32), jnp.zeros_like(x)
    tries = [
        (gaussian_nll.bind(eps=1e-50), ((x, variance), zero)),
        (poisson_nll.bind(eps=1e-50, log_input=False), (zero, zero)),
        (cosine_similarity.bind(eps=1e-50), (x, x)),
        (triplet_margin.bind(eps=1e-50), (x, x, zero)),
    ]

    @jax.jit
    def finite():
        return {
            (str(loss), way): jnp.isfinite(leaf).all()
            for loss, args in tries
            for way, function in (("op", loss), ("definition", loss.definition))
            for leaf in jax.tree.leaves(
                jax.value_and_grad(lambda *args, f=function: f(*args).sum())(*args)
            )
        }

    found = finite()
    assert all(found.values()), found


BAD = [
    (lambda: hinge(A, SIGNS + 1), ValueError, "integers must be -1 or 1"),
    (lambda: hinge(A, SIGNS[0]), ValueError, "nothing is broadcast"),
    (lambda: hinge(SIGNS, SIGNS), TypeError, "scores must be floating point"),
    (lambda: hinge(A, SIGNS, squared=1), TypeError, "squared must be True or False"),
    (lambda: margin_ranking(A, SIGNS), TypeError, r"must be a pair \(a, b\)"),
    (lambda: margin_ranking((A, B[0]), SIGNS), ValueError, "nothing is broadcast"),
    (lambda: triplet_margin(A, B, C, p=0.5), ValueError, "p must be at least 1"),
    (lambda: cosine_similarity(A, B, eps=-1.0), ValueError, "eps must be at least 0"),
    (lambda: cosine_embedding((A, B), SIGNS), ValueError, "one for each pair"),
    (lambda: gaussian_nll((A, B), C, eps=0), ValueError, "eps must be above 0"),
    (lambda: gaussian_nll(A, C), TypeError, r"must be a pair \(mean, variance\)"),
    (lambda: poisson_nll(A, SIGNS, full=1), TypeError, "full must be True or False"),
    (lambda: smooth_l1(A, B, beta=-1.0), ValueError, "beta must be at least 0"),
    (lambda: quantile_loss(A, B, quantile=2), ValueError, "quantile must be at least 0 and at"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
