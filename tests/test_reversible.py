"""Reversible layers: the input from the output, exact gradients, memory without depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn

X = jax.random.normal(jax.random.key(1), (7, 6))
TARGET = jax.random.normal(jax.random.key(2), (7, 6))
KEY = jax.random.key(3)
F = jaxnn.serial(jaxnn.LayerNorm(3), jaxnn.Linear(3, 4), jaxnn.tanh, jaxnn.Linear(4, 3))
G = jaxnn.serial(jaxnn.Linear(3, 5), jaxnn.gelu, jaxnn.Dropout(0.3), jaxnn.Linear(5, 3))


def coupled(layers, params, x, keys):
    """The formula, pair by pair, with all activations saved."""
    first, second = jnp.split(x, 2, axis=-1)
    for layer, p, key in zip(layers, params, keys, strict=True):
        first, second = second, first + layer.fwd(p, second, key)[0]
    return jnp.concatenate([first, second], axis=-1)


def assert_close(actual, expected, rtol=1e-11):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), actual, expected
    )


def test_the_gradient_is_that_of_the_definition_with_the_same_masks():
    layers = F, G, G, F
    net = jaxnn.reversible(*layers)
    params = net.init(KEY)
    keys = [jax.random.fold_in(KEY, i) for i in range(4)]
    y, residuals = jax.jit(net.fwd)(params, X, KEY)
    assert_close(y, coupled(layers, params, X, keys))
    dy = jax.random.normal(jax.random.key(5), X.shape)
    with jaxnn.definitions():
        pullback = jax.vjp(lambda p, x: coupled(layers, p, x, keys), params, X)[1]
    assert_close(jax.jit(net.bwd)(residuals, dy), pullback(dy))


def test_the_input_comes_back_bit_for_bit():
    net = jaxnn.reversible(*[F, F] * 3)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), net.init(KEY))
    x = X.astype(jnp.float32)
    carry = jax.jit(net.advance)(params, net.carry_of(x))
    _, before, _ = jax.jit(net.go_back)(params, carry, jnp.ones_like(x))
    np.testing.assert_array_equal(net.output_of(before), x)


def test_stacked_it_is_a_chain_that_saves_its_output_alone():
    block = jaxnn.reversible(F, G)
    net, plain = jaxnn.stacked(block, 2), jaxnn.serial(block, block)
    params, several = net.init(KEY), plain.init(KEY)
    y, residuals = jax.jit(net.fwd)(params, X, KEY)
    assert all(a.size == X.size // 2 for a in jax.tree.leaves(residuals.carry))
    expected, saved = jax.jit(plain.fwd)(several, X, KEY)
    assert_close(y, expected)
    dy = jnp.cos(y)
    dparams, dx = jax.jit(net.bwd)(residuals, dy)
    expected_grads, expected_dx = jax.jit(plain.bwd)(saved, dy)
    stacked_grads = jax.tree.map(lambda *arrays: jnp.stack(arrays), *expected_grads)
    assert_close((dparams, dx), (stacked_grads, expected_dx))


def temporary_bytes(net):
    params, x = jax.eval_shape(net.init, KEY), jnp.ones((32, 6))
    gradient = jax.jit(jaxnn.value_and_grad(net, jaxnn.squared_error))
    return gradient.lower(params, x, x).compile().memory_analysis().temp_size_in_bytes


def test_the_memory_does_not_depend_on_the_depth():
    block = jaxnn.reversible(F, F)
    deep, shallow = (temporary_bytes(jaxnn.stacked(block, n)) for n in (64, 4))
    assert deep <= 1.05 * shallow


@pytest.mark.thorough
def test_the_gradient_of_64_layers_is_as_exact_as_with_all_activations_saved():
    net = jaxnn.reversible(F, F)
    params = jaxnn.stacked(net, 64).init(KEY)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), params)

    def saved(params, x):
        def step(x, p):
            return coupled((F, F), p, x, (None, None)), None

        return jax.lax.scan(step, x, params)[0]

    def grads(params, x):
        y, pullback = jax.vjp(saved, params, x)
        return pullback(jnp.cos(y))

    with jaxnn.definitions():
        truth = jax.jit(grads)(
            jax.tree.map(lambda a: a.astype(float), narrow), X.astype(jnp.float32).astype(float)
        )
        plain = jax.jit(grads)(narrow, X.astype(jnp.float32))
    y, residuals = jaxnn.stacked(net, 64).fwd(narrow, X.astype(jnp.float32))
    found = jaxnn.stacked(net, 64).bwd(residuals, jnp.cos(y))

    def error(tree):
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(truth), strict=True)
        return sum(float(jnp.sum((a.astype(float) - b) ** 2)) for a, b in pairs) ** 0.5

    assert error(found) <= 4 * error(plain)


def test_half_precision_comes_back_too():
    net = jaxnn.reversible(*[jaxnn.tanh] * 8)
    x = X.astype(jnp.bfloat16)
    carry = jax.jit(net.advance)(((),) * 8, net.carry_of(x))
    _, before, _ = jax.jit(net.go_back)(((),) * 8, carry, jnp.ones_like(x))
    np.testing.assert_array_equal(net.output_of(before), x)


@pytest.mark.thorough
def test_padded_sequences_keep_their_lengths():
    attention = jaxnn.MultiHeadAttention(4, 2)
    net = jaxnn.reversible(attention, jaxnn.tanh)
    params = net.init(KEY)
    x = jaxnn.Padded(jax.random.normal(KEY, (3, 7, 8)), jnp.array([7, 3, 5]))
    y, residuals = net.fwd(params, x)
    np.testing.assert_array_equal(y.lengths, x.lengths)
    other = x._replace(values=x.values.at[1, 3:].set(9.0))
    np.testing.assert_array_equal(net.apply(params, other).values[1, :3], y.values[1, :3])
    assert net.bwd(residuals, y.values)[1].shape == x.values.shape


@pytest.mark.thorough
def test_it_extends_position_by_position():
    block = jaxnn.reversible(jaxnn.MultiHeadAttention(4, 2, causal=True), jaxnn.tanh)
    net = jaxnn.stacked(block, 2)
    params, x = net.init(KEY), jax.random.normal(KEY, (3, 7, 8))
    cache = net.init_cache(3, 7, x.dtype)
    first, cache = net.extend(params, x[:, :4], cache)
    second, _ = net.extend(params, x[:, 4:], cache)
    assert_close(jnp.concatenate([first, second], 1), net.apply(params, x), rtol=1e-10)


def apply(*layers, x=X):
    net = jaxnn.reversible(*layers)
    return net.apply(net.init(KEY), x)


def backward(net, x, dy):
    return net.bwd(net.fwd(net.init(KEY), x)[1], dy)


REFUSED = [
    (lambda: jaxnn.reversible(F), "the layers must come in pairs f, g, but there are 1"),
    (lambda: jaxnn.reversible(), "but there are 0"),
    (lambda: jaxnn.reversible(F, jaxnn.BatchNorm(3)), r"BatchNorm\(3\) gathers statistics"),
    (lambda: apply(F, F, x=X[:, :5]), "last axis splits into two equal halves, got"),
    (
        lambda: backward(jaxnn.reversible(F, F), X, X[0]),
        r"dy must have the shape of the output, \(7, 6\), got \(6,\)",
    ),
    (
        lambda: apply(F, jaxnn.Linear(3, 4)),
        r"layer 1 \(Linear\): it gives float64\(7, 4\) for float64\(7, 3\)",
    ),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_representation_and_the_summary_show_the_layers():
    net = jaxnn.reversible(jaxnn.tanh, jaxnn.relu)
    assert repr(net) == "Reversible(tanh, relu)"
    assert jaxnn.summary(net, X).total.output == "float64[7,6]"
