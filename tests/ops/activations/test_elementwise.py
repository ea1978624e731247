"""Activations: the same functions as in `jax.nn`, what is known of f', edges, bad options."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.catalogue.activations.elementwise import ENTRIES
from jaxnn.ops.activations.piecewise import (
    celu,
    elu,
    hard_shrink,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    relu6,
    relu_squared,
    selu,
    soft_shrink,
    threshold,
)
from jaxnn.ops.activations.smooth import (
    log_sigmoid,
    mish,
    quick_gelu,
    softplus,
    softsign,
    squareplus,
    tanh_shrink,
)

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
        (log_sigmoid, jax.nn.log_sigmoid),
        (softplus.bind(beta=2.5), lambda x: jax.nn.softplus(2.5 * x) / 2.5),
        (softsign, jax.nn.soft_sign),
        (squareplus, jax.nn.squareplus),
        (squareplus.bind(b=0.25), lambda x: jax.nn.squareplus(x, 0.25)),
        (hard_tanh, jax.nn.hard_tanh),
        (quick_gelu, lambda x: x * jax.nn.sigmoid(1.702 * x)),
        (relu_squared, lambda x: jax.nn.relu(x) ** 2),
        (soft_shrink, lambda x: x - jnp.clip(x, -0.5, 0.5)),
        (hard_shrink, lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0)),
        (
            threshold.bind(threshold=0.5, value=20.0),
            lambda x: jnp.where(x > 0.5, x, 20),
        ),
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
    if op == relu_squared:
        x = x[:6]  # its values overflow
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


EDGES = [
    (hard_tanh, [-1.0, 1.0], [1, 1]),
    (soft_shrink, [-0.5, 0.0, 0.5], [0, 0, 0]),
    (hard_shrink, [-0.5, 0.0, 0.5], [0, 0, 0]),
    (threshold.bind(threshold=0.5, value=2.0), [0.5], [0]),
    (relu_squared, [0.0], [0]),
    (squareplus, [0.0], [0.5]),
]


@pytest.mark.parametrize(("op", "x", "slope"), EDGES, ids=[str(edge[0]) for edge in EDGES])
def test_the_slope_on_an_edge(op, x, slope):
    for function in (op, op.definition):
        assert jax.jit(jax.vmap(jax.grad(function)))(jnp.array(x)).tolist() == slope


def test_an_option_that_vanishes_in_the_dtype():
    """1e-50 is 0 in float32: celu was NaN."""
    x = jnp.array([-1e30, -2.0, -0.0, 0.0, 1e-3, 1e30], jnp.float32)
    ops = [
        celu.bind(alpha=1e-50),
        elu.bind(alpha=1e-50),
        leaky_relu.bind(slope=1e-50),
        softplus.bind(beta=1e-50),
        squareplus.bind(b=1e-100),
        soft_shrink.bind(threshold=1e-50),
    ]

    @jax.jit
    def values_and_slopes(x):
        functions = [function for op in ops for function in (op, op.definition)]
        return [jax.vmap(jax.value_and_grad(function))(x) for function in functions]

    finite = [np.isfinite(found).all() for found in values_and_slopes(x)]
    assert all(finite), list(zip(np.repeat([str(op) for op in ops], 2), finite, strict=True))
    np.testing.assert_allclose(celu(x, alpha=1e-50), jax.nn.relu(x), atol=1e-37)
    slope = jax.vmap(jax.grad(celu.bind(alpha=1e-50)))(x[1:3].astype(jnp.float16))
    assert slope.tolist() == [0, 1]


def test_differences_lose_no_digits():
    """x − tanh x and x + √(x² + b) cancel in float32."""
    numbers = np.concatenate([np.logspace(-9, 1, 60), -np.logspace(-9, 3, 60)]).astype(np.float32)
    x = numbers.astype(float)
    square = x * x
    series = 1 / 3 - square * (2 / 15 - square * (17 / 315 - square * 62 / 2835))
    shrunk = np.where(np.abs(x) < 0.02, x * square * series, x - np.tanh(x))
    np.testing.assert_allclose(jax.jit(tanh_shrink)(numbers), shrunk, rtol=1e-6)
    r = np.sqrt(square + 4)
    plus = np.where(x < 0, 2 / (r + np.abs(x)), (x + r) / 2)
    y, slope = jax.jit(jax.vmap(jax.value_and_grad(squareplus)))(numbers)
    np.testing.assert_allclose(y, plus, rtol=1e-6)
    np.testing.assert_allclose(slope, plus / r, rtol=1e-6)


BAD = [
    (lambda: hard_tanh(X, low=1.0), ValueError, "high must be above 1.0"),
    (lambda: softplus(X, beta=0), ValueError, "beta must be above 0"),
    (lambda: squareplus(X, b=0.0), ValueError, "b must be above 0"),
    (lambda: soft_shrink(X, threshold=-1), ValueError, "threshold must be at least 0"),
    (lambda: threshold(X, threshold=0.0, value="0"), TypeError, "value must be a number"),
    (lambda: threshold(X), TypeError, "threshold"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_options_are_refused(call, error, words, unannotated):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("alpha", [0, -1.0, True, "1"])
def test_celu_refuses_an_alpha_that_is_not_positive(alpha):
    with pytest.raises((ValueError, TypeError), match="celu: option alpha must be"):
        celu(X, alpha=alpha)


def test_integers_are_refused(unannotated):
    for op in (mish, selu, celu, relu6, hard_sigmoid, hard_swish):
        with pytest.raises(TypeError, match=f"{op.__name__}: x must be floating point, got int"):
            op(jnp.arange(3))
