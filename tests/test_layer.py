"""Layers and whole networks: every gradient leaf against `jax.grad` of a plain network."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.catalogue.case import labels, normal, probabilities
from jaxnn.layers.initialisation import lecun_normal

FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-10, 1e-5
ACTIVATIONS = [
    jaxnn.identity,
    jaxnn.sigmoid,
    jaxnn.tanh,
    jaxnn.relu,
    jaxnn.leaky_relu.bind(slope=0.2),
    jaxnn.elu.bind(alpha=0.5),
    jaxnn.softplus,
    jaxnn.silu,
    jaxnn.gelu,
    jaxnn.gelu.bind(approximate=False),
    jaxnn.softmax,
    jaxnn.log_softmax,
]
# Each loss with the output that gives it what it expects, and a target.
REAL = normal(7, 3)
LABELS = labels(7, 3)
SHARES = probabilities(7, 3)
LOSSES = [
    (jaxnn.squared_error, jaxnn.identity, REAL),
    (jaxnn.half_squared_error, jaxnn.sigmoid, REAL),
    (jaxnn.absolute_error, jaxnn.tanh, REAL),
    (jaxnn.huber_loss, jaxnn.identity, REAL),
    (jaxnn.cross_entropy, jaxnn.softmax, LABELS),
    (jaxnn.cross_entropy, jaxnn.softmax, SHARES),
    (jaxnn.binary_cross_entropy, jaxnn.sigmoid, SHARES),
    (jaxnn.sigmoid_cross_entropy, jaxnn.identity, SHARES),
    (jaxnn.softmax_cross_entropy, jaxnn.identity, LABELS),
    (jaxnn.softmax_cross_entropy.bind(label_smoothing=0.1), jaxnn.identity, SHARES),
]


def plain_network(params, x, activation, output):
    """The same network from the definitions alone, for `jax.grad`."""
    linears = [layer for layer in params if layer]
    for layer in linears[:-1]:
        x = activation.definition(jaxnn.linear.definition(layer, x))
    return output.definition(jaxnn.linear.definition(linears[-1], x))


def random_params(net, key, dtype):
    """Parameters with biases that are not zero."""
    params = net.init(key)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            (0.6 * jax.random.normal(k, leaf.shape)).astype(dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )


NETWORKS = [(activation, *LOSSES[-2]) for activation in ACTIVATIONS]
NETWORKS += [(ACTIVATIONS[i % len(ACTIVATIONS)], *loss) for i, loss in enumerate(LOSSES)]


@pytest.mark.parametrize(
    ("activation", "loss", "output", "target", "reduction"),
    [(*network, ("mean", "sum")[i % 2]) for i, network in enumerate(NETWORKS)],
    ids=[f"{activation}-{loss}-{i}" for i, (activation, loss, *_) in enumerate(NETWORKS)],
)
def test_mlp_agrees_with_autodiff(activation, loss, output, target, reduction):
    """Each activation with one loss, and each loss with one activation, in two dtypes."""
    net = jaxnn.mlp((5, 6, 4, 3), activation, output)
    for dtype, tolerance in ((jnp.float64, FLOAT64_TOLERANCE), (jnp.float32, FLOAT32_TOLERANCE)):
        params, random = random_params(net, jax.random.key(3), dtype), np.random.default_rng(3)
        x, y = normal(7, 5)(random, dtype), target(random, dtype)

        def objective(params, x, y):
            losses = loss.definition(plain_network(params, x, activation, output), y)
            return losses.mean() if reduction == "mean" else losses.sum()

        value, grads = jax.jit(jaxnn.value_and_grad(net, loss, reduction))(params, x, y)
        true_value, true_grads = jax.jit(jax.value_and_grad(objective))(params, x, y)
        np.testing.assert_allclose(value, true_value, rtol=tolerance)
        assert jax.tree.structure(grads) == jax.tree.structure(params)
        for mine, true in zip(jax.tree.leaves(grads), jax.tree.leaves(true_grads), strict=True):
            assert mine.dtype == true.dtype == dtype
            assert np.linalg.norm(mine - true) <= tolerance * np.linalg.norm(true)


def test_value_and_grad_catches_a_planted_mistake():
    """The comparison above is able to fail."""

    class WrongBias(jaxnn.Linear):
        def bwd(self, residuals, dy):
            dparams, dx = super().bwd(residuals, dy)
            return dparams | {"b": dparams["b"] / 7}, dx

    good = jaxnn.Linear(5, 3)
    params = good.init(jax.random.key(0))
    x, y = jnp.ones((7, 5)), jnp.zeros((7, 3))
    grads = [
        jaxnn.value_and_grad(net, jaxnn.squared_error)(params, x, y)[1]
        for net in (good, WrongBias(5, 3))
    ]
    assert np.array_equal(grads[0]["w"], grads[1]["w"])
    assert not np.allclose(grads[0]["b"], grads[1]["b"], rtol=0.1)


def test_serial_nests_and_hands_back_dx():
    inner = jaxnn.serial(jaxnn.Linear(6, 4), jaxnn.tanh)
    net = jaxnn.serial(jaxnn.Linear(5, 6, use_bias=False), inner, jaxnn.softmax)
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (7, 5))
    dy = jax.random.normal(jax.random.key(2), (7, 4))
    y, residuals = net.fwd(params, x)
    np.testing.assert_allclose(y, net.apply(params, x), rtol=1e-12)
    dparams, dx = net.bwd(residuals, dy)
    true_dparams, true_dx = jax.vjp(net.apply, params, x)[1](dy)
    assert "b" not in dparams[0]
    for mine, true in zip(
        jax.tree.leaves((dparams, dx)), jax.tree.leaves((true_dparams, true_dx)), strict=True
    ):
        np.testing.assert_allclose(mine, true, rtol=1e-10)


def test_an_empty_serial_is_the_identity():
    net = jaxnn.serial()
    y, residuals = net.fwd(net.init(jax.random.key(0)), jnp.ones(3))
    assert jnp.array_equal(y, jnp.ones(3))
    assert net.bwd(residuals, y)[0] == ()


def test_each_layer_gets_its_own_key():
    seen = []

    def fwd(params, x, key):
        seen.append(jax.random.key_data(key).tolist())
        return x, ()

    spy = jaxnn.layer(lambda key: (), lambda params, x: x, fwd, lambda residuals, dy: ((), dy))
    net = jaxnn.serial(spy, spy)
    net.fwd(((), ()), jnp.ones(3), jax.random.key(0))
    assert seen[0] != seen[1]


EVERY_LAYER = {
    "linear": (jaxnn.Linear(5, 3), (7, 5)),
    "conv": (jaxnn.Conv(5, 3, (3,), stride=2), (7, 4, 5)),
    "conv_transpose": (jaxnn.ConvTranspose(5, 3, (3,), stride=2), (7, 4, 5)),
    "layer_norm": (jaxnn.LayerNorm(5), (7, 5)),
    "rms_norm": (jaxnn.RMSNorm(5), (7, 5)),
    "group_norm": (jaxnn.GroupNorm(3, 6), (7, 4, 6)),
    "batch_norm": (jaxnn.BatchNorm(5), (7, 5)),
    "rnn": (jaxnn.RNN(5, 3, reverse=True), (4, 7, 5)),
    "gru": (jaxnn.GRU(5, 3), (4, 7, 5)),
    "lstm": (jaxnn.LSTM(5, 3), (4, 7, 5)),
    "bidirectional": (jaxnn.Bidirectional(jaxnn.LSTM, 5, 3), (4, 7, 5)),
    "attention": (jaxnn.MultiHeadAttention(6, 3, rotary=True), (4, 7, 6)),
    "block": (jaxnn.TransformerBlock(6, 3, causal=True, dropout=0.3), (4, 7, 6)),
    "combinators": (
        jaxnn.serial(
            jaxnn.residual(jaxnn.tanh),
            jaxnn.parallel(jaxnn.Linear(5, 3), jaxnn.Linear(5, 4), combine="concatenate"),
            jaxnn.batch_first(jaxnn.Dropout(0.5)),
            jaxnn.mlp((7, 4)),
        ),
        (7, 3, 5),
    ),
}


@pytest.mark.parametrize(("layer", "shape"), EVERY_LAYER.values(), ids=EVERY_LAYER)
def test_the_two_halves_are_the_backward(layer, shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape))

    def both(key):
        params = layer.init(key)
        y, residuals = layer.fwd(params, x, key)
        dy = jax.random.normal(key, y.shape)
        deltas, dx = layer.bwd_input(residuals, dy)
        return (layer.bwd_params(residuals, deltas), dx), layer.bwd(residuals, dy), params

    halves, whole, params = jax.jit(both)(jax.random.key(0))
    assert jax.tree.structure(whole[0]) == jax.tree.structure(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), halves, whole)


@pytest.mark.parametrize(("layer", "shape"), EVERY_LAYER.values(), ids=EVERY_LAYER)
def test_layers_compare_hash_pickle_and_print(layer, shape):
    again = pickle.loads(pickle.dumps(layer))
    assert again == copy.deepcopy(layer) == layer
    assert hash(again) == hash(layer)
    names = {name: getattr(jaxnn, name) for name in jaxnn.__all__}
    names |= {"Serial": lambda *layers: jaxnn.serial(*layers)}
    names |= {"Residual": jaxnn.residual, "Parallel": jaxnn.parallel}
    names |= {"BatchFirst": jaxnn.batch_first}
    assert eval(repr(layer), names) == layer


def test_a_network_prints_as_a_tree():
    net = jaxnn.serial(
        jaxnn.Linear(4, 8), jaxnn.relu, jaxnn.residual(jaxnn.Linear(8, 8, use_bias=False))
    )
    assert repr(net) == "Serial(Linear(4, 8), relu, Residual(Linear(8, 8, use_bias=False)))"


def test_a_layer_without_a_backward_says_so():
    class Half(jaxnn.Layer):
        pass

    with pytest.raises(NotImplementedError, match="Half defines neither bwd nor bwd_input"):
        Half().bwd((), jnp.ones(3))


def test_initialisers_are_options():
    ones = jax.nn.initializers.ones
    layer = jaxnn.Linear(4, 3, w_init=jax.nn.initializers.constant(2.0), b_init=ones)
    params = layer.init(jax.random.key(0))
    assert (params["w"] == 2).all()
    assert (params["b"] == 1).all()


LINEAR = jaxnn.Linear(5, 3)
BAD = [
    (lambda: jaxnn.Linear(0, 3), ValueError, "n_in must be a positive integer, got 0"),
    (lambda: jaxnn.Linear(3, 2.5), ValueError, "n_out must be a positive integer, got 2.5"),
    (
        lambda: jaxnn.Linear(4, 3)(jnp.ones(4)),
        TypeError,
        r"holds no parameters, so Linear cannot be called: params = layer.init\(key\)",
    ),
    (
        lambda: jaxnn.serial(jaxnn.relu, jaxnn.tanh, LINEAR).apply(
            ((), (), LINEAR.init(jax.random.key(0))), jnp.ones((7, 4))
        ),
        ValueError,
        r"layer 2 \(Linear\): linear: x is float64\[7,4\] but params\['w'\] has shape",
    ),
    (lambda: jaxnn.mlp((5,)), ValueError, "sizes must be a tuple that holds inputs and outputs"),
    (lambda: jaxnn.serial(jnp.tanh), TypeError, "expected a Layer or an op"),
    (lambda: jaxnn.serial(jaxnn.Linear), TypeError, "call it to make a layer"),
    (lambda: jaxnn.serial(jaxnn.linear), TypeError, "only an op of one argument"),
    (
        lambda: jaxnn.serial(LINEAR).apply({"w": jnp.ones(3)}, jnp.ones((7, 5))),
        ValueError,
        "params must be a tuple with one entry for each of 1 layers",
    ),
    (
        lambda: jaxnn.serial(LINEAR, LINEAR).fwd(((),), jnp.ones((7, 5))),
        ValueError,
        "one entry for each of 2 layers",
    ),
    (
        lambda: LINEAR.apply(LINEAR.init(jax.random.key(0)), jnp.ones((7, 4))),
        ValueError,
        "last axis of x must be 5",
    ),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5, 6)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_initial_weights_are_those_of_jax(shape, dtype):
    key = jax.random.key(3)
    expected = jax.nn.initializers.lecun_normal()(key, shape, dtype)
    np.testing.assert_array_equal(lecun_normal(key, shape, dtype), expected)
    assert lecun_normal(key, shape).dtype == jnp.float64  # JAX's own, which the tests widen
