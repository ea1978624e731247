"""Gated units: known values, which half is the gate, memory, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.gradcheck.memory import temporary_bytes
from jaxnn.ops.activations.gated import geglu, glu, reglu, swiglu

OPS = [glu, swiglu, geglu, reglu]
X = jnp.asarray(np.random.default_rng(0).normal(scale=4, size=(7, 3, 10)))


@pytest.mark.parametrize(
    ("op", "twin"),
    [
        (glu, jax.nn.glu),
        (swiglu, lambda x: jax.nn.silu(x[..., :5]) * x[..., 5:]),
        (geglu, lambda x: jax.nn.gelu(x[..., :5]) * x[..., 5:]),
        (reglu, lambda x: jax.nn.relu(x[..., :5]) * x[..., 5:]),
        (geglu.bind(approximate=False), lambda x: jax.nn.gelu(x[..., :5], False) * x[..., 5:]),
    ],
    ids=["glu", "swiglu", "geglu", "reglu", "exact geglu"],
)
def test_value_and_derivative_are_those_of_jax(op, twin):
    mine, theirs = (jax.jit(jax.value_and_grad(lambda x, f=f: f(x).sum())) for f in (op, twin))
    for a, b in zip(mine(X), theirs(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_one_product_with_two_matrices_side_by_side_makes_both_halves(op):
    rng = np.random.default_rng(1)
    x, w, v = (jnp.asarray(rng.normal(size=shape)) for shape in ((7, 3), (3, 5), (3, 5)))
    together = op(x @ jnp.concatenate([w, v], axis=1))
    apart = op(jnp.concatenate([x @ w, x @ v], axis=1))
    np.testing.assert_allclose(together, apart, rtol=1e-12)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_a_gate_of_its_own_is_the_half_that_is_the_gate(op):
    first, second = X[..., :5], X[..., 5:]
    value, gate = (first, second) if op == glu else (second, first)
    y, residuals = op.fwd(value, gate)
    together, halves = op.fwd(X)
    np.testing.assert_array_equal(y, together)
    (dx,) = op.bwd(halves, y)
    apart = op.bwd(residuals, y)
    in_order = apart if op == glu else apart[::-1]
    np.testing.assert_array_equal(jnp.concatenate(in_order, axis=-1), dx)


def test_a_gate_of_another_shape(unannotated):
    with pytest.raises(ValueError, match=r"swiglu: x has shape .*they must be equal"):
        swiglu(X, X[..., :5])


@pytest.mark.parametrize("op", OPS, ids=str)
def test_nothing_is_stored_between_forward_and_backward(op):
    """Neither the gate nor the two halves of dx take memory of their own."""
    ours, theirs = temporary_bytes(op, jax.ShapeDtypeStruct((64, 96), jnp.float32))
    assert ours == 0
    assert theirs > 0 or op == reglu


@pytest.mark.parametrize("op", OPS, ids=str)
def test_bad_input(op, unannotated):
    for shape, words in (((), "x is a single number"), ((4, 3), r"x has shape \(4, 3\); its last")):
        with pytest.raises(ValueError, match=f"{op.__name__}: {words}"):
            op(jnp.ones(shape))
    with pytest.raises(TypeError, match=f"{op.__name__}: x must be floating point, got int"):
        op(jnp.arange(4))
    _, residuals = op.fwd(X)
    with pytest.raises(ValueError, match=f"{op.__name__}: dy has shape"):
        op.bwd(residuals, X)


def test_geglu_wants_a_bool():
    with pytest.raises(TypeError, match="geglu: option approximate must be True or False"):
        geglu(X, approximate="tanh")


def test_a_single_example_and_no_outputs():
    for shape in ((2,), (0,), (3, 0)):
        x = jnp.ones(shape)
        y, residuals = swiglu.fwd(x)
        assert y.shape == (*shape[:-1], shape[-1] // 2)
        assert swiglu.bwd(residuals, y)[0].shape == shape
