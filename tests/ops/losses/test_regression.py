"""Regression losses: integer and boolean targets, and a delta that vanishes in the dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.catalogue.losses.regression import ENTRIES
from jaxnn.ops.losses.regression import absolute_error, huber_loss, smooth_l1, squared_error

LOSSES = [entry.op for entry in ENTRIES]
PREDICTION = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))


def test_integers_and_booleans_are_numbers_without_a_gradient():
    """They used to be refused. As a uint8, 0 − 3 would be 253."""
    integers = jnp.array([[3, 0, 1], [1, 1, 0], [200, 2, 1], [0, 0, 255]])

    @jax.jit
    def both(target):
        found, numbers = {}, target.astype(float)
        for loss in LOSSES:
            value, residuals = loss.fwd(PREDICTION, target)
            dx, dy = loss.bwd(residuals, jnp.ones_like(value))
            assert dy is None
            true, pullback = jax.vjp(lambda x, f=loss.definition: f(x, numbers), PREDICTION)
            found[str(loss)] = (value, dx), (true, *pullback(jnp.ones_like(true)))
        return found

    for target in (integers.astype(jnp.uint8), integers > 0):
        for mine, true in both(target).values():
            for a, b in zip(mine, true, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_an_integer_that_half_precision_does_not_hold():
    """1001 is 1000 in bfloat16, but its distance from 1000 is 1."""
    prediction, target = jnp.array([[1000.0]], jnp.bfloat16), jnp.array([[1001]])
    for loss in (squared_error, absolute_error):
        assert loss(prediction, target) == 1


def test_a_delta_that_vanishes_in_the_dtype():
    e, zero = jnp.array([[0.0, 1.0, -2.0]], jnp.float32), jnp.zeros((1, 3), jnp.float32)
    for loss in (huber_loss.bind(delta=1e-50), smooth_l1.bind(beta=1e-50)):
        for way in (loss, loss.definition):
            run = jax.value_and_grad(lambda e, way=way: way(e, zero).sum())
            value, d = jax.jit(run)(e)
            assert jnp.isfinite(value)
            assert jnp.isfinite(d).all()
    np.testing.assert_allclose(smooth_l1(e, zero, beta=1e-50), [3.0])


def test_a_complex_target_is_refused(unannotated):
    with pytest.raises(
        TypeError, match="squared_error: target must be floating point, got complex"
    ):
        squared_error(PREDICTION, PREDICTION.astype(complex))
