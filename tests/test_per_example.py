"""The gradient of each example, against `vmap(jax.grad)` of the definitions."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn import per_example
from jaxnn.example_gradients import Outer, Rows, Whole
from jaxnn.padded import Padded, values_of

N = 5
CLIP = 0.7
cross_entropy, squared = jaxnn.softmax_cross_entropy, jaxnn.squared_error
pair = partial(jaxnn.parallel, combine=None)
affine = jaxnn.serial(jaxnn.Linear(3, 3), jaxnn.tanh)
tied_embedding = jaxnn.serial(
    jaxnn.Embedding(9, 4), jaxnn.Linear(4, 4), jaxnn.tanh, jaxnn.Linear(4, 9, use_bias=False)
)
tied_output = jaxnn.serial(jaxnn.Linear(4, 9, use_bias=False), jaxnn.softmax)


def scaled(s, x):
    return jnp.broadcast_to(s, x.shape) * x


NETWORKS = {  # the network, and the shape of its input; a pair has ids below the first number
    "mlp": (jaxnn.mlp((7, 6, 3)), (7,)),
    "places by products": (jaxnn.serial(jaxnn.Linear(7, 6), jaxnn.tanh), (4, 7)),
    "places by Gram matrices": (jaxnn.serial(jaxnn.Linear(17, 16), jaxnn.tanh), (3, 17)),
    "conv": (
        jaxnn.serial(
            jaxnn.Conv(3, 4, (3, 3)),
            jaxnn.relu,
            jaxnn.Conv(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=2),
        ),
        (7, 6, 3),
    ),
    "conv of many channels": (jaxnn.Conv(7, 6, (3,), padding="CAUSAL"), (4, 7)),
    "conv_transpose": (
        jaxnn.serial(
            jaxnn.ConvTranspose(3, 4, (3, 3), stride=2),
            jaxnn.ConvTranspose(4, 6, (3, 2), stride=3, padding=1, groups=2),
        ),
        (5, 4, 3),
    ),
    "embedding": (jaxnn.Embedding(6, 4, padding_idx=2), (6, (7,))),
    "lstm": (jaxnn.batch_first(jaxnn.LSTM(4, 3)), (7, 4)),
    "gru": (jaxnn.batch_first(jaxnn.serial(jaxnn.GRU(4, 3), jaxnn.Linear(3, 5))), (7, 4)),
    "rnn": (jaxnn.batch_first(jaxnn.Bidirectional(jaxnn.RNN, 4, 3)), (7, 4)),
    "norms": (
        jaxnn.serial(jaxnn.LayerNorm(4), jaxnn.Linear(4, 6), jaxnn.RMSNorm(6), jaxnn.PReLU(6)),
        (3, 4),
    ),
    "activations": (jaxnn.serial(jaxnn.PReLU(), jaxnn.DynamicTanh(4)), (3, 4)),
    "group norm": (jaxnn.serial(jaxnn.GroupNorm(3, 6), jaxnn.Conv(6, 2, (1, 1))), (3, 4, 6)),
    "instance norm": (jaxnn.InstanceNorm(6), (3, 4, 6)),
    "attention": (
        jaxnn.MultiHeadAttention(8, 4, kv_heads=2, causal=True, rotary=True, use_bias=False),
        (5, 8),
    ),
    "block": (
        jaxnn.TransformerBlock(8, 4, activation=jaxnn.swiglu, use_bias=False),
        (5, 8),
    ),
    "shared": (
        jaxnn.serial(
            pair(jaxnn.Linear(4, 3), jaxnn.Linear(4, 3)),
            jaxnn.shared(jaxnn.serial(jaxnn.Linear(3, 5), jaxnn.LayerNorm(5))),
            jaxnn.add,
        ),
        (2, 4),
    ),
    "shared ids": (
        jaxnn.serial(pair(jaxnn.serial(), jaxnn.serial()), jaxnn.shared(jaxnn.Embedding(6, 4))),
        (6, (7,)),
    ),
    "tied to an embedding": (
        jaxnn.tied(tied_embedding, (3, "w"), to=(0, "w"), transpose=True),
        (9, (7,)),
    ),
    "tied to an output": (
        jaxnn.tied(
            jaxnn.serial(jaxnn.Embedding(9, 4), tied_output), (0, "w"), (1, 0, "w"), transpose=True
        ),
        (9, (7,)),
    ),
    "tied autoencoder": (
        jaxnn.tied(
            jaxnn.serial(jaxnn.Linear(4, 6), jaxnn.tanh, jaxnn.Linear(6, 4)),
            (2, "w"),
            to=(0, "w"),
            transpose=True,
        ),
        (4,),
    ),
    "stacked": (jaxnn.stacked(jaxnn.residual(affine), 4), (3,)),
    "remat": (jaxnn.serial(jaxnn.remat(affine), jaxnn.Linear(3, 2)), (3,)),
    "remat within a budget": (jaxnn.remat(affine, budget_bytes=2**20), (3,)),
    "reversible": (jaxnn.reversible(affine, affine), (6,)),
    "stacked reversible": (jaxnn.stacked(jaxnn.reversible(affine, affine), 4), (6,)),
    "column and row": (
        jaxnn.serial(jaxnn.column(jaxnn.Linear(4, 6)), jaxnn.relu, jaxnn.row(jaxnn.Linear(6, 3))),
        (4,),
    ),
    "channels_first": (jaxnn.channels_first(jaxnn.Conv(3, 4, (3, 3))), (3, 5, 6)),
    "autodiff": (
        jaxnn.serial(jaxnn.autodiff(scaled, init=lambda key: jnp.ones(4)), jaxnn.Linear(4, 3)),
        (4,),
    ),
}


def example(name):
    """The network, its parameters, an input, and a target of the output's shape."""
    net, shape = NETWORKS[name]
    random = np.random.default_rng(3)
    if isinstance(shape[-1], tuple):
        x = jnp.asarray(random.integers(0, shape[0], (N, *shape[1])))
    else:
        x = jnp.asarray(random.normal(size=(N, *shape)))
    params = jax.tree.map(
        lambda p: jnp.asarray(random.normal(size=p.shape)),
        jax.eval_shape(net.init, jax.random.key(0)),
    )
    y = jax.eval_shape(lambda: net.fwd(params, x)[0])
    target = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), y)
    return net, params, x, target


def sum_of_squares(y, target):
    """A loss of trees."""
    terms = jax.tree.map(lambda a, b: (a - b) ** 2, y, target)
    return sum(jnp.sum(t, axis=range(1, t.ndim)) for t in jax.tree.leaves(terms))


LOSS = jaxnn.autodiff(sum_of_squares)


def true_gradients(net, params, x, target, loss=LOSS.definition):
    """By autodiff of the definitions, of each example as a batch of one."""

    def loss_of_one(params, one):
        x, target = jax.tree.map(lambda a: a[None], one)
        with jaxnn.definitions():
            y, _ = net.fwd(params, x)
            return jnp.sum(loss(values_of(y), target))

    return jax.vmap(jax.grad(loss_of_one), (None, 0))(params, (x, target))


def norms_of(gradients):
    return jnp.sqrt(sum(jnp.sum(g.reshape(N, -1) ** 2, 1) for g in jax.tree.leaves(gradients)))


def close(found, wanted, bound):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert jnp.linalg.norm((a - b).ravel()) <= bound * jnp.linalg.norm(b.ravel())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_form(name):
    net, params, x, target = example(name)

    @jax.jit
    def found(params, x, target):
        clipped = per_example.value_and_clipped_grad
        return (
            per_example.per_example_norms(net, LOSS)(params, x, target)[1],
            per_example.per_example_grads(net, LOSS)(params, x, target)[1],
            clipped(net, LOSS, CLIP * 30)(params, x, target)[1],
            clipped(net, LOSS, CLIP, "mean", per_leaf=True)(params, x, target)[1],
        )

    norms, each, clipped, by_leaf = found(params, x, target)
    truth = jax.jit(partial(true_gradients, net))(params, x, target)
    wanted = norms_of(truth)
    assert jnp.max(jnp.abs(norms / wanted - 1)) <= 1e-14
    close(each, truth, 1e-13)
    weights = jnp.minimum(1, CLIP * 30 / wanted)
    close(clipped, jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), truth), 1e-13)

    def clipped_leaf(g):
        return jnp.tensordot(jnp.minimum(1, CLIP / norms_of(g)), g, 1) / N

    close(by_leaf, jax.tree.map(clipped_leaf, truth), 1e-13)


@pytest.mark.parametrize("layer", [jaxnn.batch_first(jaxnn.LSTM(4, 3)), jaxnn.Linear(4, 3)])
def test_lengths(layer):
    """What padding holds changes nothing; a mean is over the positions of each example."""
    random = np.random.default_rng(5)
    values, lengths = jnp.asarray(random.normal(size=(N, 7, 4))), jnp.array([7, 1, 3, 5, 2])
    target, params = jnp.asarray(random.normal(size=(N, 7, 3))), layer.init(jax.random.key(1))
    params = jax.tree.map(lambda p: p.astype(float), params)
    steps = jnp.arange(7)[None] < lengths[:, None]
    norms = per_example.per_example_norms(layer, squared)
    _, found = norms(params, Padded(values, lengths), target)
    spoilt = jnp.where(steps[..., None], values, jnp.nan)
    assert bool((norms(params, Padded(spoilt, lengths), target)[1] == found).all())

    def loss_of_one(params, n):
        with jaxnn.definitions():
            y = layer.apply(params, values[n, : lengths[n]][None])
        return jnp.sum((y[0] - target[n, : lengths[n]]) ** 2)

    for n in range(N):
        truth = optax.tree.norm(jax.grad(loss_of_one)(params, n))
        assert abs(found[n] / truth - 1) <= 1e-14


def test_ignored_rows_weights_and_reductions():
    """The loss of an example is that of a batch of one."""
    net, _, x, _ = example("places by products")
    params = jax.tree.map(lambda p: p.astype(float), net.init(jax.random.key(1)))
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 6, (N, 4)))
    loss = cross_entropy.bind(ignore_label=2, class_weights=jnp.arange(1.0, 7.0))
    weights = jnp.array([1.0, 0.0, 2.0, 0.5, 3.0])
    for reduction in ("sum", "mean", "weighted_mean", "element_mean"):
        values, norms = per_example.per_example_norms(net, loss, reduction)(
            params, x, labels, None, weights
        )
        whole = jaxnn.value_and_grad(net, loss, reduction)
        for n in range(N):
            row = slice(n, n + 1)
            value, grads = whole(params, x[row], labels[row], None, weights[row])
            assert jnp.allclose(values[n], value, rtol=1e-14)
            assert jnp.allclose(norms[n], optax.tree.norm(grads), rtol=1e-13)


def test_long_sequences_of_ids_are_sorted():
    random = np.random.default_rng(2)
    ids, deltas = random.integers(-1, 8, (3, 301)), random.normal(size=(3, 301, 4))
    form = Rows(jnp.asarray(ids), jnp.asarray(deltas), 7)
    table = np.zeros((3, 7, 4))
    for n, t in np.ndindex(ids.shape):
        if 0 <= ids[n, t] < 7:
            table[n, ids[n, t]] += deltas[n, t]
    close(form.squared_norms(), jnp.asarray((table**2).sum((1, 2))), 1e-13)
    close(form.whole(), jnp.asarray(table), 1e-13)


@pytest.mark.parametrize("name", ["mlp", "conv", "lstm", "places by Gram matrices", "norms"])
def test_half_precision(name):
    """float32 norms of bfloat16 gradients, to the precision of the activations."""
    net, *arrays = example(name)
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), arrays)
    _, found = per_example.per_example_norms(net, LOSS)(*narrow)
    _, wanted = per_example.per_example_norms(net, LOSS)(*arrays)
    assert found.dtype == jnp.float32
    assert jnp.max(jnp.abs(found.astype(float) / wanted - 1)) <= 0.05
    value, grads = per_example.value_and_clipped_grad(net, LOSS, 1.0, "mean")(*narrow)
    assert {g.dtype for g in (value, *jax.tree.leaves(grads))} == {jnp.dtype(jnp.bfloat16)}
    per_example.noise_scale(net, LOSS)(*narrow)


def test_linear_softmax_cross_entropy():
    """The op that never makes N·K numbers, by its own halves."""
    op, random = jaxnn.linear_softmax_cross_entropy, np.random.default_rng(0)
    drawn = random.normal
    params = {"w": jnp.asarray(drawn(size=(4, 11))), "b": jnp.asarray(drawn(size=11))}
    x, labels = jnp.asarray(drawn(size=(N, 3, 4))), jnp.asarray(random.integers(0, 11, (N, 3)))
    options = {"ignore_label": 2, "label_smoothing": 0.1, "chunk": 4, "z_loss": 0.01}
    y, residuals = op.fwd(params, x, labels, **options)
    dy = jnp.asarray(random.uniform(size=y.shape))

    def weighted_loss(params, x, labels, dy):
        return jnp.sum(op.definition(params, x, labels, **options) * dy)

    truth = jax.vmap(jax.grad(weighted_loss), (None, 0, 0, 0))(params, x, labels, dy)
    deltas, *_ = op.bwd_input(residuals, dy)
    for name, form in op.bwd_examples(residuals, deltas).items():
        squares = jnp.sum(truth[name].reshape(N, -1) ** 2, axis=1)
        assert jnp.max(jnp.abs(form.squared_norms() / squares - 1)) <= 1e-13
        close(form.whole(), truth[name], 1e-13)


def test_noise_scale():
    """Each estimate by its formula, from the gradients themselves."""
    net, params, x, target = example("mlp")
    found = per_example.noise_scale(net, LOSS)(params, x, target)
    truth = true_gradients(net, params, x, target)
    variance = jax.tree.map(lambda g: jnp.sum(jnp.var(g, axis=0, ddof=1)), truth)
    close(found.variance, variance, 1e-12)
    means = jax.tree.map(lambda g, v: jnp.sum(g.mean(0) ** 2) - v / N, truth, variance)
    assert jnp.allclose(found.squared_norm, sum(jax.tree.leaves(means)), rtol=1e-12)
    total = sum(jax.tree.leaves(variance))
    assert jnp.allclose(found.noise_scale, total / found.squared_norm, rtol=1e-12)
    close(found.signal_to_noise, jax.tree.map(jnp.divide, means, variance), 1e-11)


@dataclass(frozen=True)
class Scale(jaxnn.Layer):
    """A user's layer with the gradient of each example."""

    def init(self, key):
        return {"s": jnp.ones(4)}

    def apply(self, params, x, state=None):
        return jnp.broadcast_to(params["s"], x.shape) * x

    def fwd(self, params, x, key=None):
        return self.apply(params, x), (params["s"], x)

    def bwd_input(self, residuals, dy):
        return dy, jnp.broadcast_to(residuals[0], dy.shape) * dy

    def bwd_params(self, residuals, dy, weights=None, axis=0):
        dy = dy if weights is None else weights[:, None] * dy
        return {"s": jnp.sum(residuals[1] * dy, axis=0)}

    def bwd_examples(self, residuals, dy, axis=0):
        return {"s": Whole(residuals[1] * dy)}


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def test_a_layer_of_a_user():
    net = jaxnn.serial(Scale(), jaxnn.Linear(4, 3))
    params = jax.tree.map(lambda p: p.astype(float), net.init(jax.random.key(0)))
    _, _, x, target = example("autodiff")
    _, norms = per_example.per_example_norms(net, LOSS)(params, x, target)
    truth = norms_of(true_gradients(net, params, x, target))
    assert jnp.max(jnp.abs(norms / truth - 1)) <= 1e-14


def test_training_with_clipped_gradients():
    """One step, one epoch of one minibatch and `fit` make the same update."""
    net, params, x, target = example("mlp")
    optimizer = optax.sgd(0.1)
    _, grads = per_example.value_and_clipped_grad(net, squared, 3.0, "mean")(params, x, target)
    wanted = jaxnn.sgd_update(params, grads, 0.1)
    step = jaxnn.train_step(net, squared, optimizer, clip=3.0)
    close(step(params, optimizer.init(params), x, target)[0], wanted, 1e-12)
    options = {"batch_size": N, "optimizer": optimizer, "epochs": 1, "clip": 3.0}
    found = jaxnn.fit(net, squared, params, (x, target), progress=False, **options)
    close(found.params, wanted, 1e-12)
    epoch = jaxnn.train_epoch(net, squared, optimizer, N, clip=3.0)
    after, _, _ = epoch(params, optimizer.init(params), x, target, jax.random.key(0))
    close(after, wanted, 1e-12)


@pytest.mark.parametrize(
    ("net", "loss", "sentence"),
    [
        (jaxnn.BatchNorm(4), squared, "batch_norm: the gradient of one example is not defined"),
        (jaxnn.Linear(4, 4), jaxnn.info_nce, "depends on the others in its batch"),
        (jaxnn.mixed(jaxnn.Linear(4, 4), jnp.float16), squared, "loss scale"),
        (
            jaxnn.layer(
                lambda key: jnp.ones(()),
                lambda s, x: s * x,
                lambda s, x, key: (s * x, (s, x)),
                lambda saved, dy: (jnp.vdot(saved[1], dy), saved[0] * dy),
            ),
            squared,
            "does not define bwd_examples",
        ),
        (jaxnn.serial(jaxnn.relu, jaxnn.LSTM(4, 4)), squared, "layer 1 .LSTM.: lstm: .*axis 1"),
    ],
)
def test_what_has_no_gradient_of_one_example(net, loss, sentence):
    net = jaxnn.as_layer(net)
    x = jnp.ones((3, 5, 4)) if "axis" in sentence else jnp.ones((3, 4))
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=sentence):
        per_example.value_and_clipped_grad(net, loss, 1.0)(params, x, jnp.zeros_like(x))


@pytest.mark.parametrize("clip", [0, -1.0, float("nan"), "1", None])
def test_a_wrong_clip(clip):
    with pytest.raises((TypeError, ValueError), match="clip"):
        per_example.value_and_clipped_grad(jaxnn.Linear(4, 4), squared, clip)


def test_no_array_of_all_gradients_is_made():
    """Compiled memory of a clipped step beside that of an ordinary one."""
    net = jaxnn.mlp((784, 512, 512, 10))
    with jax.enable_x64(False):
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((128, 784), jnp.float32)
        labels = jax.ShapeDtypeStruct((128,), jnp.int32)

        def bytes_of(gradient):
            compiled = jax.jit(gradient).lower(shapes, x, labels).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        plain = bytes_of(jaxnn.value_and_grad(net, cross_entropy))
        clipped = bytes_of(per_example.value_and_clipped_grad(net, cross_entropy, 1.0))
        whole = bytes_of(per_example.per_example_grads(net, cross_entropy))
    assert clipped <= 1.6 * plain
    assert 300 * clipped <= whole + 128 * 4 * sum(p.size for p in jax.tree.leaves(shapes))


def test_norms_of_an_op():
    params = {"w": numbers(4, 3), "b": numbers(3)}
    x, dy = numbers(N, 4), numbers(N, 3)
    _, residuals = jaxnn.linear.fwd(params, x)
    deltas, _ = jaxnn.linear.bwd_input(residuals, dy)
    of_x, of_dy = (jnp.sum(a**2, axis=1) for a in (x, dy))
    close(jaxnn.linear.squared_norms(residuals, deltas), {"w": of_x * of_dy, "b": of_dy}, 1e-14)


def test_outer_chooses_the_smaller_way():
    def form(t):
        return Outer(jnp.ones((2, t, 6)), jnp.ones((2, t, 3)))

    assert isinstance(form(2).smallest(), Whole)  # 6·3 numbers, and 2·(6 + 3)
    assert isinstance(form(1).smallest(), Outer)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, jaxnn
from jax.sharding import NamedSharding, PartitionSpec
from tests.test_per_example import NETWORKS, LOSS

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
by_example = NamedSharding(mesh, PartitionSpec("data"))
for name in ("mlp", "conv", "lstm", "block"):
    net, shape = NETWORKS[name]
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (8, *shape))
    y = jax.eval_shape(lambda: net.fwd(params, x)[0])
    target = jax.random.normal(jax.random.key(2), y.shape)
    gradient = jaxnn.per_example.value_and_clipped_grad(net, LOSS, 1.0)
    _, alone = jax.jit(gradient)(params, x, target)
    with jax.set_mesh(mesh):
        x, target = jax.device_put((x, target), by_example)
        _, spread = jax.jit(gradient)(params, x, target)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread)):
        assert np.linalg.norm(a - np.asarray(b)) <= 1e-5 * np.linalg.norm(a) + 1e-7, name
"""


@pytest.mark.thorough
def test_a_sharded_batch():
    """Examples spread over four devices have the clipped sum that they have on one."""
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
