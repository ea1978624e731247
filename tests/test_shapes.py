"""Ops at shapes that nobody thought of: any number of axes, any sizes, none at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes

import jaxnn

LEADING = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ANY_NUMBER = settings(max_examples=10, deadline=None, derandomize=True)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_agrees(op, *args, **options):
    """Every gradient leaf of `bwd` is that of the definition."""
    op = op.bind(**options)
    op.check(*args)
    dy = random(9, *jax.eval_shape(op.definition, *args).shape)

    @jax.jit
    def by_hand(args, dy):
        y, residuals = op.fwd(*args)
        return y, op.bwd(residuals, dy)

    @jax.jit
    def by_autodiff(args, dy):
        y, pullback = jax.vjp(op.definition, *args)
        return y, pullback(dy)

    (y, grads), (true_y, true_grads) = by_hand(args, dy), by_autodiff(args, dy)
    np.testing.assert_allclose(y, true_y, rtol=1e-12, atol=1e-14)
    for mine, true in zip(grads, true_grads, strict=True):
        if mine is not None:
            assert jax.tree.structure(mine) == jax.tree.structure(true)
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(true), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@ANY_NUMBER
@given(LEADING, st.integers(1, 5), st.integers(1, 40), st.booleans())
def test_linear(leading, n_in, n_out, bias):
    params = {"w": random(1, n_in, n_out)} | ({"b": random(2, n_out)} if bias else {})
    assert_agrees(jaxnn.linear, params, random(3, *leading, n_in))


@ANY_NUMBER
@given(LEADING, st.sampled_from([jaxnn.relu, jaxnn.gelu, jaxnn.softplus, jaxnn.elu]))
def test_activations(shape, op):
    assert_agrees(op, random(1, *shape))


@ANY_NUMBER
@given(array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4), st.data())
def test_softmax(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    op = data.draw(st.sampled_from([jaxnn.softmax, jaxnn.log_softmax]))
    assert_agrees(op, random(1, *shape), axis=axis)


@ANY_NUMBER
@given(LEADING, st.integers(0, 5), st.sampled_from([jaxnn.squared_error, jaxnn.huber_loss]))
def test_regression_losses(leading, components, loss):
    assert_agrees(loss, random(1, *leading, components), random(2, *leading, components))


@ANY_NUMBER
@given(
    LEADING,
    st.integers(1, 5),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
    st.sampled_from(["int8", "uint8", "int32", "int64"]),
)
def test_softmax_cross_entropy(leading, n_classes, smoothing, distribution, dtype):
    logits = random(1, *leading, n_classes)
    if distribution:
        target = jax.nn.softmax(random(2, *leading, n_classes))
    else:
        labels = np.random.default_rng(2).integers(0, n_classes, leading)
        target = jnp.asarray(labels.astype(dtype))
    assert_agrees(jaxnn.softmax_cross_entropy, logits, target, label_smoothing=smoothing)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_ties_of_any_number(size):
    logits = jnp.zeros((3, size))
    assert_agrees(jaxnn.softmax_cross_entropy, logits, jnp.zeros(3, int))
    assert_agrees(jaxnn.softmax_cross_entropy, logits, jnp.full((3, size), 1 / size))


@pytest.mark.parametrize(("n", "n_in", "n_out"), [(3, 4, 2), (5, 3, 2), (2, 4, 3), (1, 4, 2)])
def test_linear_under_jit_and_vmap(n, n_in, n_out):
    """A narrow dW and dx together, with a batch of each: layouts that XLA has stumbled over."""

    def gradients(w, x, dy):
        return jaxnn.linear.bwd(jaxnn.linear.fwd({"w": w}, x)[1], dy)

    args = random(1, 3, n_in, n_out), random(2, 3, n, n_in), random(3, 3, n, n_out)
    mapped = jax.jit(jax.vmap(gradients))(*args)
    for i in range(3):
        one = gradients(*(a[i] for a in args))
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12)
