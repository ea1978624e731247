"""What happens at the edges: kinks, shifts, confidence, saturation, NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.ops.activations.gated import geglu, glu, swiglu
from jaxnn.ops.activations.piecewise import celu, hard_sigmoid, hard_swish, relu6, selu
from jaxnn.ops.activations.smooth import mish

KINKS = [
    (jaxnn.relu, 0.0, 0.0),
    (jaxnn.relu, -0.0, 0.0),
    (jaxnn.leaky_relu.bind(slope=0.3), 0.0, 0.3),
    (jaxnn.leaky_relu.bind(slope=0.3), -0.0, 0.3),
    (jaxnn.elu.bind(alpha=0.5), 0.0, 0.5),
    (jaxnn.elu.bind(alpha=0.5), -0.0, 0.5),
    (selu, 0.0, 1.0507009873554805 * 1.6732632423543772),
    (selu, -0.0, 1.0507009873554805 * 1.6732632423543772),
    (relu6, 0.0, 0.0),
    (relu6, 6.0, 0.0),
    (hard_sigmoid, -3.0, 0.0),
    (hard_sigmoid, 3.0, 0.0),
    (hard_swish, -3.0, 0.0),
    (hard_swish, 3.0, 1.0),
]


@pytest.mark.parametrize(("op", "x", "slope"), KINKS, ids=str)
def test_the_derivative_at_a_kink_is_a_convention(op, x, slope):
    assert jax.grad(op)(x) == slope
    assert jax.grad(op.definition)(x) == slope


@pytest.mark.parametrize("function", [lambda loss: loss, lambda loss: loss.definition])
def test_the_derivative_of_the_absolute_error_at_zero_is_zero(function):
    loss = function(jaxnn.absolute_error)
    assert jax.grad(lambda e: loss(e, jnp.zeros(1)))(jnp.zeros(1)) == 0


@pytest.mark.parametrize("function", [lambda loss: loss, lambda loss: loss.definition])
@pytest.mark.parametrize(("error", "slope"), [(0.5, 0.5), (-0.5, -0.5), (0.6, 0.5), (0.4, 0.4)])
def test_huber_has_the_slope_delta_on_its_edge(function, error, slope):
    loss = function(jaxnn.huber_loss.bind(delta=0.5))
    gradient = jax.grad(lambda e: loss(e, jnp.zeros(1)))(jnp.array([error]))
    assert gradient == slope


@pytest.mark.parametrize(
    "op",
    [
        jaxnn.identity,
        jaxnn.sigmoid,
        jaxnn.tanh,
        jaxnn.relu,
        jaxnn.leaky_relu,
        jaxnn.elu,
        jaxnn.softplus,
        jaxnn.silu,
        jaxnn.gelu,
        jaxnn.gelu.bind(approximate=False),
        mish,
        selu,
        celu,
        relu6,
        hard_sigmoid,
        hard_swish,
    ],
    ids=str,
)
def test_a_nan_stays_a_nan(op):
    assert jnp.isnan(op(jnp.nan))


@pytest.mark.parametrize("op", [glu, swiglu, geglu], ids=str)
def test_a_nan_in_either_half_stays_a_nan(op):
    assert jnp.isnan(op(jnp.array([jnp.nan, 1, 1, jnp.nan]))).all()


@pytest.mark.parametrize(
    "op", [jaxnn.softmax, jaxnn.log_softmax, lambda x: jaxnn.softmax_cross_entropy(x, jnp.array(1))]
)
def test_adding_1e7_to_every_logit_changes_nothing(op):
    logits = jnp.array([1.0, 3.0, -2.0], jnp.float32)
    shifted = logits + jnp.float32(1e7)
    assert jnp.array_equal(shifted - jnp.float32(1e7), logits)
    for function in (op, jax.grad(lambda x: op(x).max())):
        np.testing.assert_allclose(function(shifted), function(logits), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("target", [jnp.array([0]), jnp.array([[1.0, 0, 0]], jnp.float32)])
@pytest.mark.parametrize("gap", [5.0, 20.0, 50.0, 80.0])
def test_confidence_loses_no_digits(target, gap):
    """The loss −log p and its gradient p − 1 keep their relative accuracy when p → 1."""
    logits = jnp.array([[gap, 0.0, 0.0]], jnp.float32)
    rest = 2 * np.exp(-np.float64(gap))
    loss, pullback = jax.vjp(lambda x: jaxnn.softmax_cross_entropy(x, target), logits)
    (dx,) = pullback(jnp.ones(1, jnp.float32))
    np.testing.assert_allclose(loss, [np.log1p(rest)], rtol=1e-6)
    np.testing.assert_allclose(dx[0, 0], -rest / (1 + rest), rtol=1e-6)


@pytest.mark.parametrize(("target", "logit"), [(1.0, 30.0), (0.0, -30.0)])
def test_a_confident_yes_or_no_loses_no_digits(target, logit):
    loss, pullback = jax.vjp(
        lambda x: jaxnn.sigmoid_cross_entropy(x, jnp.array([target], jnp.float32)),
        jnp.array([logit], jnp.float32),
    )
    odds = np.exp(-30.0)
    np.testing.assert_allclose(loss, np.log1p(odds), rtol=1e-6)
    (dx,) = pullback(jnp.float32(1))
    np.testing.assert_allclose(np.abs(dx), [odds / (1 + odds)], rtol=1e-6)


def test_a_masked_class_takes_no_part():
    logits = jnp.array([[1.0, -jnp.inf, 2.0]])
    for target in (jnp.array([0]), jnp.array([[0.25, 0.0, 0.75]])):
        loss, pullback = jax.vjp(lambda x, t=target: jaxnn.softmax_cross_entropy(x, t), logits)
        left = target if target.ndim == 1 else target[:, ::2]
        without = jaxnn.softmax_cross_entropy(logits[:, ::2], left)
        np.testing.assert_allclose(loss, without, rtol=1e-14)
        (dx,) = pullback(jnp.ones(1))
        assert dx[0, 1] == 0
        assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_a_saturated_probability_has_a_finite_loss_with_its_own_gradient(dtype):
    """At p = 0 the loss goes on along a tangent: its slope is the difference quotient there."""
    target = jnp.array([[1.0, 0.0]], dtype)
    for loss in (jaxnn.cross_entropy, jaxnn.binary_cross_entropy):
        p = jnp.array([[0.0, 1.0]], dtype)
        value, pullback = jax.vjp(lambda p, loss=loss: loss(p, target), p)
        (dp,) = pullback(jnp.ones(1, dtype))
        assert jnp.isfinite(value).all()
        assert jnp.isfinite(dp).all()
        smallest = float(max(jnp.finfo(dtype).tiny, jnp.finfo(jnp.float32).tiny))
        assert dp[0, 0] == pytest.approx(-1 / smallest, rel=1e-2)
        step = p.at[0, 0].set(smallest / 2)
        if dtype == jnp.float64:
            rise = loss(step, target)[0] - value[0]
            np.testing.assert_allclose(dp[0, 0], rise / (smallest / 2), rtol=1e-12)


def test_ignored_rows_have_no_loss_and_no_gradient_whatever_they_hold():
    logits = jnp.array([[jnp.nan, 1.0], [0.0, 1.0]])
    loss, pullback = jax.vjp(
        lambda x: jaxnn.softmax_cross_entropy(x, jnp.array([-1, 1]), ignore_label=-1), logits
    )
    (dx,) = pullback(jnp.ones(2))
    assert loss[0] == 0
    assert dx[0].tolist() == [0.0, 0.0]
    assert jnp.isfinite(dx).all()
