"""Activations: the same functions as in `jax.nn`, what is known of f', edges, bad options."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.catalogue.activations.elementwise import ENTRIES
from jaxnn.ops.activations.piecewise import celu, hard_sigmoid, hard_swish, relu6, selu
from jaxnn.ops.activations.smooth import mish

OPS = [entry.op.bind(**case.options) for entry in ENTRIES for case in entry.cases]
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


def slopes(op, x):
    """f'(x) by JAX, from the definition."""
    return jax.vmap(jax.grad(op.definition))(x)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_the_derivative_jumps_at_the_kinks_and_nowhere_else(op):
    step = 2.0**-10
    left = jnp.arange(-8, 8, step) + step / 4
    jumps = jnp.abs(slopes(op, left + step) - slopes(op, left)) > 4 * step
    assert (left[jumps] + 3 * step / 4).tolist() == list(op.kinks)


@pytest.mark.parametrize("op", [op for op in OPS if op.slope_of_output], ids=repr)
def test_the_derivative_as_a_formula_in_the_output(op):
    x = X.ravel()
    np.testing.assert_allclose(op.slope_of_output(op(x)), slopes(op, x), rtol=1e-9, atol=1e-15)


def test_what_is_known_of_the_derivative_follows_the_bound_options():
    elu, y = jaxnn.elu, jnp.array([-0.25, 2.0])
    assert (elu.kinks, elu.bind(alpha=0.5).kinks) == ((), (0.0,))
    assert elu.slope_of_output(y).tolist() == [0.75, 1.0]
    assert elu.bind(alpha=0.5).slope_of_output(y).tolist() == [0.25, 1.0]
    assert (jaxnn.leaky_relu.kinks, jaxnn.leaky_relu.bind(slope=1.0).kinks) == ((0.0,), ())
    assert jaxnn.gelu.slope_of_output is None
    assert pickle.loads(pickle.dumps(elu.bind(alpha=0.5))).kinks == (0.0,)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_no_intermediate_overflows(op):
    largest = float(jnp.finfo(jnp.float32).max) / 4
    x = jnp.array([-largest, -1e30, -1e13, -50.0, 50.0, 1e13, 1e30, largest], jnp.float32)
    with jax.debug_infs(True), jax.debug_nans(True):
        y, residuals = op.fwd(x)
        op.bwd(residuals, jnp.ones_like(y))


def test_the_tail_of_gelu_keeps_its_digits():
    """In float32 ½·(1 + tanh u) is 0 where x < −5."""

    def gelu(x):
        return x / (1 + jnp.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = jnp.linspace(-8, -3, 101, dtype=jnp.float32)
    (y, dx), (true_y, true_dx) = (
        jax.vmap(jax.value_and_grad(f))(x) for f, x in ((jaxnn.gelu, x), (gelu, x.astype(float)))
    )
    np.testing.assert_allclose(y, true_y, rtol=1e-5)
    np.testing.assert_allclose(dx, true_dx, rtol=1e-5)


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
