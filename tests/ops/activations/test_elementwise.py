"""Activations: the same functions as in `jax.nn`, numbers near an edge, bad options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.ops.activations.piecewise import celu, hard_sigmoid, hard_swish, relu6, selu
from jaxnn.ops.activations.smooth import mish

X = jnp.asarray(np.random.default_rng(0).normal(scale=4, size=(7, 5)))


@pytest.mark.parametrize(
    ("op", "twin"),
    [
        (mish, jax.nn.mish),
        (selu, jax.nn.selu),
        (celu.bind(alpha=0.5), lambda x: jax.nn.celu(x, 0.5)),
        (relu6, jax.nn.relu6),
        (hard_sigmoid, jax.nn.hard_sigmoid),
        (hard_swish, jax.nn.hard_swish),
        (jaxnn.gelu, jax.nn.gelu),
        (jaxnn.gelu.bind(approximate=False), lambda x: jax.nn.gelu(x, approximate=False)),
    ],
    ids=lambda part: str(part) if isinstance(part, jaxnn.Op) else "",
)
def test_value_and_derivative_are_those_of_jax(op, twin):
    mine, theirs = (jax.jit(jax.value_and_grad(lambda x, f=f: f(x).sum())) for f in (op, twin))
    for a, b in zip(mine(X), theirs(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("approximate", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_gelu_reads_its_slope_off_y_where_x_is_small(dtype, approximate):
    """Φ(x) = y/x: also where y is rounded away, at 0, and where the line near 0 ends."""
    eps = float(jnp.finfo(dtype).eps)
    x = jnp.array([0, 1e-7, -1e-7, 1e-3, 0.99 * eps ** (1 / 3), 1.01 * eps ** (1 / 3), 0.2], dtype)
    gelu = jaxnn.gelu.bind(approximate=approximate)
    slope = jax.vmap(jax.grad(gelu))(x)
    true = jax.vmap(jax.grad(gelu.definition))(x.astype(jnp.float64))
    np.testing.assert_allclose(slope.astype(jnp.float64), true, rtol=4 * eps)


@pytest.mark.parametrize("approximate", [True, False])
def test_the_second_derivative_of_gelu_near_0(approximate):
    gelu = jaxnn.gelu.bind(approximate=approximate)
    x = jnp.array([0, 1e-7, -1e-7, 6e-6, 7e-6, 1e-3])
    mine, true = (jax.jit(jax.vmap(jax.grad(jax.grad(f))))(x) for f in (gelu, gelu.definition))
    np.testing.assert_allclose(mine, true, rtol=1e-9)


@pytest.mark.parametrize("op", [hard_sigmoid, hard_swish])
def test_a_number_next_to_the_edge_is_not_rounded_onto_it(op):
    for dtype in (jnp.float16, jnp.float32):
        x = jnp.nextafter(jnp.array([-3, 3], dtype), dtype(0))
        true = jax.vmap(jax.grad(op.definition))(x.astype(jnp.float64))
        np.testing.assert_allclose(jax.vmap(jax.grad(op))(x), true.astype(dtype))


def test_selu_keeps_mean_0_and_variance_1():
    x = jax.random.normal(jax.random.key(0), (400, 1000))
    y = selu(x)
    np.testing.assert_allclose([y.mean(), y.var()], [0, 1], atol=0.01)


@pytest.mark.parametrize("alpha", [0, -1.0, True, "1"])
def test_celu_refuses_an_alpha_that_is_not_positive(alpha):
    with pytest.raises((ValueError, TypeError), match="celu: option alpha must be"):
        celu(X, alpha=alpha)


def test_integers_are_refused(unannotated):
    for op in (mish, selu, celu, relu6, hard_sigmoid, hard_swish):
        with pytest.raises(TypeError, match=f"{op.__name__}: x must be floating point, got int"):
            op(jnp.arange(3))
