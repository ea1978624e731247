"""Equal layers as one loop: the same as `serial`, in a program of one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn

X = jax.random.normal(jax.random.key(1), (7, 6))
TARGET = jax.random.normal(jax.random.key(2), (7, 6))
KEY = jax.random.key(3)
BLOCK = jaxnn.residual(
    jaxnn.serial(
        jaxnn.Linear(6, 5), jaxnn.BatchNorm(5), jaxnn.tanh, jaxnn.Dropout(0.3), jaxnn.Linear(5, 6)
    )
)
SIMPLE = jaxnn.residual(jaxnn.serial(jaxnn.Linear(6, 5), jaxnn.tanh, jaxnn.Linear(5, 6)))


def one_tree(trees):
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def assert_close(actual, expected, rtol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), actual, expected
    )


@pytest.mark.parametrize("block", [BLOCK, jaxnn.remat(BLOCK)], ids=["saved", "recomputed"])
def test_it_is_serial_with_state_and_keys(block):
    net, plain = jaxnn.stacked(block, 3), jaxnn.serial(BLOCK, BLOCK, BLOCK)
    params, several = net.init(KEY), plain.init(KEY)
    assert_close(params, one_tree(several))

    def trained(net, params):
        gradient = jax.jit(jaxnn.value_and_grad(net, jaxnn.squared_error))
        return gradient(params, net.init_state(), X, TARGET, KEY)

    value, grads, state = trained(net, params)
    expected, expected_grads, expected_state = trained(plain, several)
    assert_close((value, grads), (expected, one_tree(expected_grads)))
    assert_close(state, one_tree(expected_state))
    assert_close(net.apply(params, X, state), plain.apply(several, X, expected_state))


def test_the_gradient_is_that_of_the_definitions():
    net = jaxnn.stacked(SIMPLE, 3)
    params = net.init(KEY)
    dy = jax.random.normal(jax.random.key(5), X.shape)
    dparams, dx = net.bwd(net.fwd(params, X)[1], dy)
    with jaxnn.definitions():
        pullback = jax.vjp(lambda params, x: net.apply(params, x), params, X)[1]
    assert_close((dparams, dx), pullback(dy))


def test_parameters_are_not_saved_again_and_each_array_once():
    saved = jaxnn.stacked(SIMPLE, 3).fwd(jaxnn.stacked(SIMPLE, 3).init(KEY), X)[1].saved
    assert sorted(a.shape for a in saved.arrays) == [(3, 7, 5), (3, 7, 6)]
    inputs = jaxnn.stacked(jaxnn.remat(SIMPLE), 3)
    assert [a.shape for a in inputs.fwd(inputs.init(KEY), X)[1].saved.arrays] == [(3, 7, 6)]


def test_padded_sequences_and_trees_pass_through():
    block = jaxnn.serial(jaxnn.Linear(6, 6), jaxnn.tanh)
    net, plain = jaxnn.stacked(block, 2), jaxnn.serial(block, block)
    params, several = net.init(KEY), plain.init(KEY)
    x = jaxnn.Padded(jnp.stack([X, -X, X]), jnp.array([7, 3, 5]))
    y, residuals = net.fwd(params, x)
    expected, expected_residuals = plain.fwd(several, x)
    assert_close(tuple(y), tuple(expected))
    dparams, dx = net.bwd(residuals, jnp.cos(y.values))
    expected_grads, expected_dx = plain.bwd(expected_residuals, jnp.cos(y.values))
    assert_close((dparams, dx), (one_tree(expected_grads), expected_dx))

    pair = jaxnn.stacked(jaxnn.each(jaxnn.tanh, SIMPLE), 2)
    y, residuals = pair.fwd(pair.init(KEY), (X, X))
    _, (first, second) = pair.bwd(residuals, y)
    assert first.shape == second.shape == X.shape


@pytest.mark.thorough
def test_it_extends_position_by_position():
    block = jaxnn.TransformerBlock(6, 2, causal=True)
    net = jaxnn.stacked(block, 2)
    params, x = net.init(KEY), jnp.stack([X, -X])
    cache = net.init_cache(2, 7, X.dtype)
    first, cache = net.extend(params, x[:, :4], cache)
    second, _ = net.extend(params, x[:, 4:], cache)
    assert_close(jnp.concatenate([first, second], 1), net.apply(params, x), rtol=1e-10)


def test_the_program_does_not_grow_with_depth():
    def size(n):
        net = jaxnn.stacked(jaxnn.remat(SIMPLE), n)
        params = jax.eval_shape(net.init, KEY)
        gradient = jax.jit(jaxnn.value_and_grad(net, jaxnn.squared_error))
        return len(gradient.lower(params, X, TARGET).as_text().splitlines())

    assert size(64) == size(4)


REFUSED = [
    (lambda: jaxnn.stacked(SIMPLE, 0), "n must be a positive integer"),
    (lambda: jaxnn.stacked(SIMPLE, True), "n must be a positive integer"),
    (
        lambda: jaxnn.stacked(jaxnn.Linear(6, 5), 2).fwd(
            jaxnn.stacked(jaxnn.Linear(6, 5), 2).init(KEY), X
        ),
        r"stacked: the layer gives float64\[7, 5\] for float64\[7, 6\]; they must be equal",
    ),
    (
        lambda: jaxnn.stacked(SIMPLE, 3).apply(jaxnn.stacked(SIMPLE, 2).init(KEY), X),
        "every array of params must have a leading axis of the 3 layers",
    ),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_representation_and_the_summary_show_the_layer():
    net = jaxnn.stacked(jaxnn.Linear(6, 6), 4)
    assert repr(net) == "Stacked(Linear(6, 6), 4)"
    assert net.position_wise
    assert jaxnn.summary(net, X).total.parameters == 4 * 42
