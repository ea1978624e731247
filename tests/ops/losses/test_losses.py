"""The losses at their edges, against optax, and with arguments that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.ops.activations.softmax import log_softmax
from jaxnn.ops.losses.classification import multiclass_hinge, negative_log_likelihood
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    sigmoid_cross_entropy,
)
from jaxnn.ops.losses.divergences import cosine_distance, kl_divergence
from jaxnn.ops.losses.focal import focal_loss
from jaxnn.ops.losses.regression import huber_loss, log_cosh
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy

RANDOM = np.random.default_rng(0)
SCORES, OTHERS = jnp.asarray(RANDOM.normal(size=(2, 4, 3)))
SHARES = jnp.asarray(RANDOM.dirichlet([1, 1, 1], size=4))
LABELS = jnp.array([0, 2, 1, 2])
YES_OR_NO = jnp.array([[1.0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])

TWINS = [
    (multiclass_hinge, optax.losses.multiclass_hinge_loss, LABELS),
    (kl_divergence, optax.losses.kl_divergence, SHARES),
    (cosine_distance, optax.losses.cosine_distance, OTHERS),
    (log_cosh, lambda *args: optax.losses.log_cosh(*args).sum(-1), OTHERS),
    (
        focal_loss.bind(alpha=0.25, gamma=1.5),
        lambda *args: optax.losses.sigmoid_focal_loss(*args, alpha=0.25, gamma=1.5).sum(-1),
        YES_OR_NO,
    ),
]


def gradient(loss, *args, argnums=0):
    return jax.jit(jax.grad(lambda *args: loss(*args).sum(), argnums))(*args)


@pytest.mark.parametrize(
    ("mine", "theirs", "target"), TWINS, ids=[mine.__name__ for mine, *_ in TWINS]
)
@pytest.mark.usefixtures("standard_promotion")
def test_it_is_the_loss_of_optax(mine, theirs, target):
    np.testing.assert_allclose(mine(SCORES, target), theirs(SCORES, target), rtol=1e-6)


@pytest.mark.parametrize("target", [LABELS, SHARES], ids=["labels", "shares"])
def test_the_likelihood_of_a_softmax_is_the_cross_entropy(target):
    mine = negative_log_likelihood(log_softmax(SCORES), target)
    np.testing.assert_allclose(mine, softmax_cross_entropy(SCORES, target), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}])
def test_without_gamma_the_focal_loss_is_the_cross_entropy(options):
    weight = options.get("alpha", 1)
    expected = weight * sigmoid_cross_entropy(SCORES, SHARES)
    np.testing.assert_allclose(focal_loss(SCORES, SHARES, gamma=0, **options), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", [multiclass_hinge, multiclass_hinge.definition])
def test_the_hinge_goes_to_the_first_rival_and_is_flat_on_its_edge(loss):
    tie = jnp.array([[0.0, 2.0, 2.0]])
    assert gradient(loss, tie, jnp.array([0])).tolist() == [[-1, 1, 0]]
    edge = jnp.array([[3.0, 2.0, 0.0]])
    assert loss(edge, jnp.array([0])) == 0
    assert not gradient(loss, edge, jnp.array([0])).any()


@pytest.mark.parametrize("loss", [multiclass_hinge, multiclass_hinge.definition])
def test_a_hinge_without_a_rival_is_0(loss):
    for only in (jnp.array([[3.0]]), jnp.array([[-1e30]]), jnp.array([[1e30]], jnp.float32)):
        assert loss(only, jnp.array([0])) == 0
        assert gradient(loss, only, jnp.array([0])) == 0


RAISED_ALTHOUGH_FINITE = [
    (multiclass_hinge, SCORES, LABELS),
    (multiclass_hinge, jnp.array([[-1e30, 1e30, 0.0]]), jnp.array([0])),
    (multiclass_hinge, jnp.array([[3.0]]), jnp.array([0])),
    (huber_loss, jnp.array([[1e200]]), jnp.array([[0.0]])),
    (cross_entropy, jnp.array([[1e3, 0.0]], jnp.float32), jnp.array([[1.0, 0.0]], jnp.float32)),
    (binary_cross_entropy, jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 1.0]])),
    (softmax_cross_entropy, jnp.array([[0.0, 1e30]]), jnp.array([0])),
    (softmax_cross_entropy, jnp.array([[0.0, 1e30]]), jnp.array([[0.5, 0.5]])),
]


@pytest.mark.parametrize("flag", ["jax_debug_nans", "jax_debug_infs"])
@pytest.mark.parametrize(
    ("loss", "prediction", "target"),
    RAISED_ALTHOUGH_FINITE,
    ids=[loss.__name__ for loss, *_ in RAISED_ALTHOUGH_FINITE],
)
def test_nothing_infinite_comes_up_on_the_way_to_a_finite_result(flag, loss, prediction, target):
    """Without `jit` the flags see every operation."""
    jax.config.update(flag, True)
    try:
        value, residuals = loss.fwd(prediction, target)
        assert jnp.isfinite(loss.bwd(residuals, jnp.ones_like(value))[0]).all()
        _, pullback = jax.vjp(lambda x: loss(x, target), prediction)
        assert jnp.isfinite(pullback(jnp.ones_like(value))[0]).all()
    finally:
        jax.config.update(flag, False)


@pytest.mark.parametrize(
    "function", [lambda loss: loss, lambda loss: loss.definition], ids=["op", "definition"]
)
@pytest.mark.parametrize("loss", [softmax_cross_entropy, negative_log_likelihood])
def test_narrow_labels_are_not_mistaken_for_the_ignored_label(loss, function):
    """As a uint8, −1 would be 255, and class 256 would be 0."""
    scores = log_softmax(jnp.asarray(RANDOM.normal(size=(2, 300))))
    labels = jnp.array([255, 3], jnp.uint8)
    loss = function(loss.bind(ignore_label=-1))
    expected = loss(scores, labels.astype(jnp.int32))
    assert (expected > 0).all()
    assert jnp.array_equal(jax.jit(loss)(scores, labels), expected)
    wide, narrow = (gradient(loss, scores, each) for each in (labels.astype(jnp.int32), labels))
    assert jnp.array_equal(wide, narrow)


@pytest.mark.parametrize(
    "function", [lambda loss: loss, lambda loss: loss.definition], ids=["op", "definition"]
)
@pytest.mark.parametrize(
    "loss",
    [
        softmax_cross_entropy,
        softmax_cross_entropy.bind(label_smoothing=0.25),
        negative_log_likelihood,
    ],
)
def test_an_ignored_label_may_be_a_class(loss, function):
    loss = function(loss.bind(ignore_label=2))
    assert (loss(SCORES, LABELS) == 0).tolist() == [False, True, False, True]
    rows = (gradient(loss, SCORES, LABELS) == 0).all(axis=-1)
    assert rows.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "loss",
    [
        softmax_cross_entropy,
        softmax_cross_entropy.bind(label_smoothing=0.25, ignore_label=-100),
        cross_entropy,
        multiclass_hinge,
        negative_log_likelihood,
    ],
)
def test_a_label_out_of_range(loss):
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"label {label} is out of range"):
            loss(SHARES, jnp.array([0, 1, 2, label]))
        for function in (loss, loss.definition):
            value, dx = jax.jit(
                lambda x, labels, f=function: (f(x, labels), gradient(f, x, labels))
            )(SHARES, jnp.array([0, 1, 2, label]))
            assert jnp.isnan(value).tolist() == [False, False, False, True]
            assert jnp.isnan(dx).all(-1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("loss", [kl_divergence, negative_log_likelihood])
def test_a_class_that_is_excluded_and_has_no_share_takes_no_part(loss):
    log_p, target = jnp.array([[-1.5, -jnp.inf, -0.25]]), jnp.array([[0.5, 0.0, 0.5]])
    np.testing.assert_allclose(loss(log_p, target), loss(log_p[:, ::2], target[:, ::2]), rtol=1e-12)
    for function in (loss, loss.definition):
        d_log_p, d_target = gradient(function, log_p, target, argnums=(0, 1))
        assert d_log_p.tolist() == [[-0.5, 0, -0.5]]
        assert d_target[0, 1] == 0
    assert loss(log_p, jnp.array([[0.0, 1.0, 0.0]])) == jnp.inf


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_a_share_of_0_has_a_finite_slope(dtype):
    log_p, target = jnp.log(jnp.array([[0.5, 0.5]], dtype)), jnp.array([[1.0, 0.0]], dtype)
    np.testing.assert_allclose(kl_divergence(log_p, target), [np.log(2)], rtol=1e-3)
    slope = gradient(kl_divergence, log_p, target, argnums=1)[0, 1]
    np.testing.assert_allclose(slope, np.log(1.1754944e-38) - 1 + np.log(2), rtol=1e-3)


@pytest.mark.parametrize("loss", [cosine_distance, cosine_distance.definition])
def test_a_vector_of_zeros_is_at_distance_1_of_all_and_has_no_gradient(loss):
    zero, other = jnp.zeros((1, 3)), jnp.array([[1.0, 2.0, 3.0]])
    for pair in ((zero, other), (other, zero), (zero, zero)):
        assert loss(*pair) == 1
        for d in gradient(loss, *pair, argnums=(0, 1)):
            assert not d.any()


def test_vectors_close_to_each_other_lose_no_digits():
    """At an angle φ the distance is 1 − cos φ = 2·sin²(φ/2), and its slope sin φ."""
    angle = 1e-3
    a = jnp.array([[np.cos(angle), np.sin(angle)]], jnp.float32)
    b = jnp.array([[1.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(cosine_distance(a, b), 2 * np.sin(angle / 2) ** 2, rtol=1e-4)
    np.testing.assert_allclose(gradient(cosine_distance, a, b)[0, 1], np.sin(angle), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_distance_of_directions_has_no_scale(scale):
    a, b = SCORES.astype(jnp.float32), OTHERS.astype(jnp.float32)
    np.testing.assert_allclose(cosine_distance(scale * a, b), cosine_distance(a, b), rtol=1e-5)
    np.testing.assert_allclose(
        scale * gradient(cosine_distance, scale * a, b), gradient(cosine_distance, a, b), rtol=1e-4
    )


def test_a_small_error_keeps_the_digits_of_its_log_cosh():
    error = jnp.array([[1e-3]], jnp.float32)
    np.testing.assert_allclose(log_cosh(error, jnp.zeros_like(error)), 5e-7, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: multiclass_hinge(x, jnp.array([0])),
        lambda x: negative_log_likelihood(x, SHARES[:1]),
        lambda x: kl_divergence(x, SHARES[:1]),
        lambda x: cosine_distance(x, OTHERS[:1]),
        lambda x: focal_loss(x, YES_OR_NO[:1]),
        lambda x: log_cosh(x, OTHERS[:1]),
    ],
)
def test_a_nan_stays_a_nan(loss):
    assert jnp.isnan(loss(jnp.array([[1.0, jnp.nan, 0.0]])))


BAD = [
    (lambda: multiclass_hinge(SCORES, SHARES[:, 0]), TypeError, "labels must be integers"),
    (lambda: multiclass_hinge(SCORES, LABELS[:2]), ValueError, "must be one for each row"),
    (lambda: multiclass_hinge(SCORES, LABELS, margin=-1), ValueError, "margin must be at least 0"),
    (lambda: negative_log_likelihood(SCORES, SHARES[:2]), ValueError, "nothing is broadcast"),
    (
        lambda: negative_log_likelihood(SCORES, LABELS, ignore_label=0.0),
        TypeError,
        "ignore_label must be an integer",
    ),
    (
        lambda: negative_log_likelihood(SCORES, SHARES, ignore_label=0),
        ValueError,
        "ignore_label needs integer labels",
    ),
    (lambda: kl_divergence(SCORES, SHARES[:1]), ValueError, "nothing is broadcast"),
    (lambda: kl_divergence(LABELS, LABELS), TypeError, "log_probabilities must be floating point"),
    (lambda: cosine_distance(SCORES, OTHERS[0]), ValueError, "nothing is broadcast"),
    (lambda: cosine_distance(jnp.float64(1), jnp.float64(1)), ValueError, "single number"),
    (lambda: focal_loss(SCORES, SHARES, gamma=-1.0), ValueError, "gamma must be at least 0"),
    (
        lambda: focal_loss(SCORES, SHARES, alpha=1.5),
        ValueError,
        "alpha must be at least 0 and at most",
    ),
    (lambda: focal_loss(SCORES, LABELS), ValueError, "nothing is broadcast"),
    (lambda: focal_loss(SCORES, SCORES.astype(complex)), TypeError, "target must be real numbers"),
    (lambda: log_cosh(SCORES, OTHERS[0]), ValueError, "nothing is broadcast"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
