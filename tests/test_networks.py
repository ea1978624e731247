"""Networks as papers have them, each written as a user would, and their gradients.

The truth is `jax.grad` of the definitions, reduced by a formula that is written out here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn.gradcheck import diagnose

N, T, DIM, VOCABULARY, CLASSES = 3, 7, 8, 11, 5
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, VOCABULARY, (N, T))
LENGTHS = np.array([7, 3, 5])
VALID = np.arange(T) < LENGTHS[:, None]


def tagger():
    """A tag for each word of sentences of different lengths."""
    net = jaxnn.serial(
        jaxnn.Embedding(VOCABULARY, DIM),
        jaxnn.batch_first(jaxnn.Bidirectional(jaxnn.LSTM, DIM, 6)),
        jaxnn.Linear(12, CLASSES),
    )
    x = jaxnn.Padded(TOKENS, LENGTHS)
    tags = RANDOM.integers(0, CLASSES, (N, T))

    def total(prediction):
        losses = jaxnn.softmax_cross_entropy(prediction.values, tags)
        return jnp.where(VALID, losses, 0).sum() / VALID.sum()

    return net, jaxnn.softmax_cross_entropy, "weighted_mean", x, tags, total


def segmentation():
    """A class for each pixel, the classes along axis 1 and of different weights."""
    conv = {"stride": 1, "padding": "SAME"}
    net = jaxnn.channels_first(
        jaxnn.serial(
            jaxnn.Conv(3, 4, (3, 3), **conv), jaxnn.relu, jaxnn.Conv(4, CLASSES, (3, 3), **conv)
        )
    )
    weights = np.array([0.5, 1.0, 2.0, 1.5, 0.25])
    loss = jaxnn.softmax_cross_entropy.bind(axis=1, ignore_label=255, class_weights=weights)
    x = RANDOM.standard_normal((N, 3, 6, 4))
    classes = RANDOM.integers(0, CLASSES, (N, 6, 4)).astype(np.uint8)
    classes[0, :2] = 255  # of no class

    def total(prediction):
        log_p = jax.nn.log_softmax(prediction, axis=1)
        counted = jnp.where(classes == 255, 0, weights[np.minimum(classes, 4)])
        of_class = jnp.take_along_axis(log_p, np.minimum(classes, 4)[:, None].astype(int), axis=1)
        return -(counted * of_class[:, 0]).sum() / counted.sum()

    return net, loss, "weighted_mean", x, classes, total


def masked_language_model():
    """The words that were hidden, from those before and after."""
    net = jaxnn.serial(
        jaxnn.Embedding(VOCABULARY, DIM),
        jaxnn.TransformerBlock(DIM, 2, rotary=True),
        jaxnn.LayerNorm(DIM),
        jaxnn.Linear(DIM, VOCABULARY),
    )
    hidden = VALID & (RANDOM.random((N, T)) < 0.4)
    x = jaxnn.Padded(np.where(hidden, 0, TOKENS), LENGTHS)
    labels = np.where(hidden, TOKENS, -100)
    loss = jaxnn.softmax_cross_entropy.bind(ignore_label=-100)

    def total(prediction):
        log_p = jax.nn.log_softmax(prediction.values)
        of_word = jnp.take_along_axis(log_p, TOKENS[..., None], axis=-1)[..., 0]
        return -jnp.where(hidden, of_word, 0).sum() / hidden.sum()

    return net, loss, "weighted_mean", x, labels, total


def siamese():
    """Whether two inputs are of a kind, from one network for both."""
    net = jaxnn.shared(jaxnn.mlp((5, 6, 4), activation=jaxnn.tanh))
    x = RANDOM.standard_normal((N, 5)), RANDOM.standard_normal((N, 5))
    alike = np.array([1, -1, 1])
    loss = jaxnn.cosine_embedding.bind(margin=0.1)

    def total(prediction):
        a, b = prediction
        cosine = (a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)
        return jnp.where(alike == 1, 1 - cosine, jax.nn.relu(cosine - 0.1)).mean()

    return net, loss, "mean", x, alike, total


def variational_autoencoder():
    """The images again, through a few random numbers."""
    encoder = jaxnn.serial(
        jaxnn.Linear(6, 8),
        jaxnn.tanh,
        jaxnn.parallel(jaxnn.Linear(8, 2), jaxnn.Linear(8, 2), combine=None),
    )
    decoder = jaxnn.serial(jaxnn.GaussianSample(), jaxnn.mlp((2, 8, 6)))
    net = jaxnn.serial(encoder, jaxnn.parallel(decoder, jaxnn.serial(), combine=None))

    @jaxnn.autodiff
    def loss(prediction, target):
        logits, (mean, log_variance) = prediction
        return jaxnn.sigmoid_cross_entropy(logits, target) + jaxnn.gaussian_kl(mean, log_variance)

    x = RANDOM.uniform(size=(N, 6))

    def total(prediction):
        logits, (mean, log_variance) = prediction
        p = jax.nn.sigmoid(logits)
        reconstruction = -(x * jnp.log(p) + (1 - x) * jnp.log(1 - p)).sum()
        prior = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum() / 2
        return (reconstruction + prior) / N

    return net, loss, "mean", x, x, total


def gpt():
    """The next word, with one table for the words that come in and go out."""
    block = jaxnn.TransformerBlock(
        DIM, 4, kv_heads=2, causal=True, rotary=True, norm=jaxnn.RMSNorm, activation=jaxnn.swiglu
    )
    net = jaxnn.serial(
        jaxnn.Embedding(VOCABULARY, DIM),
        block,
        block,
        jaxnn.RMSNorm(DIM),
        jaxnn.Linear(DIM, VOCABULARY, use_bias=False),
    )
    net = jaxnn.tied(net, (4, "w"), to=(0, "w"), transpose=True)
    x, following = TOKENS[:, :-1], TOKENS[:, 1:]

    def total(prediction):
        log_p = jax.nn.log_softmax(prediction)
        return -jnp.take_along_axis(log_p, following[..., None], axis=-1).mean()

    return net, jaxnn.softmax_cross_entropy, "mean", x, following, total


def translator():
    """Encoder and decoder, both of sequences of different lengths."""
    encoder = jaxnn.serial(jaxnn.Embedding(VOCABULARY, DIM), jaxnn.TransformerBlock(DIM, 2))
    net = jaxnn.serial(
        jaxnn.each(encoder, jaxnn.Embedding(VOCABULARY, DIM)),
        jaxnn.pick(1, 0),
        jaxnn.TransformerBlock(DIM, 2, cross=True, causal=True),
        jaxnn.TransformerBlock(DIM, 2, cross=True, causal=True),
        jaxnn.pick(0),
        jaxnn.Linear(DIM, VOCABULARY),
    )
    words = RANDOM.integers(0, VOCABULARY, (N, 5))
    x = jaxnn.Padded(TOKENS, LENGTHS), jaxnn.Padded(words, np.array([2, 4, 5]))
    following = RANDOM.integers(0, VOCABULARY, (N, 5))
    valid = np.arange(5) < np.array([2, 4, 5])[:, None]

    def total(prediction):
        losses = jaxnn.softmax_cross_entropy(prediction.values, following)
        return jnp.where(valid, losses, 0).sum() / valid.sum()

    return net, jaxnn.softmax_cross_entropy, "weighted_mean", x, following, total


def u_net():
    """Skip connections that are concatenated, and JAX's own functions in between."""
    inner = jaxnn.serial(
        jaxnn.max_pool.bind(window=2), jaxnn.Conv(4, 6, (3, 3)), jaxnn.upsample.bind(factor=2)
    )
    net = jaxnn.serial(
        jaxnn.Conv(2, 4, (3, 3)),
        jaxnn.autodiff(jnp.tanh),
        jaxnn.parallel(jaxnn.serial(), inner, combine="concatenate"),
        jaxnn.Conv(10, 2, (1, 1)),
    )
    x, target = RANDOM.standard_normal((2, N, 4, 6, 2))
    loss = jaxnn.autodiff(optax.huber_loss).bind(delta=0.5)

    def total(prediction):
        return optax.huber_loss(prediction, jnp.asarray(target), delta=0.5).mean()

    return net, loss, "mean", x, target, total


NETWORKS = [
    tagger,
    segmentation,
    masked_language_model,
    siamese,
    variational_autoencoder,
    gpt,
    translator,
    u_net,
]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_gradients_are_those_of_the_definitions(network):
    net, loss, reduction, x, target, total = network()
    params = jax.tree.map(lambda p: p.astype(float), net.init(jax.random.key(0)))
    x, target, key = *jax.tree.map(jnp.asarray, (x, target)), jax.random.key(1)
    gradient = jax.jit(jaxnn.value_and_grad(net, loss, reduction))
    value, grads = gradient(params, x, target, key)
    with jaxnn.definitions():
        truth = jax.jit(jax.value_and_grad(lambda params: total(net.fwd(params, x, key)[0])))
        true_value, true_grads = truth(params)
    np.testing.assert_allclose(value, true_value, rtol=1e-12)
    for (path, got), expected in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(true_grads), strict=True
    ):
        error = jnp.linalg.norm(got - expected)  # the bias of keys has the gradient 0
        assert error < 1e-10 * jnp.linalg.norm(expected) + 1e-15, jax.tree_util.keystr(path)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("network", [tagger, siamese])
def test_fit_and_summary_take_them(network):
    net, loss, reduction, x, target, _ = network()
    params = net.init(jax.random.key(0))
    optimizer = optax.adam(1e-2)
    x = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == float else a, x)
    training = jaxnn.fit(
        *(net, loss, params, (x, target)),
        optimizer=optimizer,
        epochs=20,
        batch_size=2,
        reduction=reduction,
    )
    assert training.history["loss"][-1] < training.history["loss"][0]
    assert jax.tree.structure(training.params) == jax.tree.structure(params)
    table = jaxnn.summary(net, jax.tree.map(jnp.asarray, x))
    assert table.total.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert table.total.parameters == sum(row.parameters for row in table.rows if row.depth == 0)


@pytest.mark.parametrize(
    "recurrent",
    [
        jaxnn.LSTM,
        pytest.param(jaxnn.RNN, marks=pytest.mark.thorough),
        pytest.param(jaxnn.GRU, marks=pytest.mark.thorough),
    ],
)
def test_more_padding_changes_nothing(recurrent):
    """Neither output nor gradients; whatever it holds."""
    net = jaxnn.serial(
        jaxnn.batch_first(jaxnn.Bidirectional(recurrent, DIM, 3)),
        jaxnn.MultiHeadAttention(6, 2),
        jaxnn.Linear(6, CLASSES),
    )
    params = net.init(jax.random.key(0))
    values, tags = RANDOM.standard_normal((N, T, DIM)), RANDOM.integers(0, CLASSES, (N, T))
    gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy, "weighted_mean")
    results = []
    for more in (0, 8):
        padded = np.where(VALID[..., None], values, 0.0 if more == 0 else np.nan)
        padded = np.pad(padded, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
        x = jaxnn.Padded(jnp.asarray(padded), jnp.asarray(LENGTHS, jnp.int8))
        labels = jnp.asarray(np.pad(tags, ((0, 0), (0, more))))
        y = net.apply(params, x).values[:, :T]
        results.append((y[VALID], gradient(params, x, labels)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *results)


def test_attention_takes_masks_and_contexts():
    """Whoever is masked does not matter, for the queries and through the gradients."""
    layer = jaxnn.MultiHeadAttention(DIM, 2, context_dim=5)
    params = jax.tree.map(lambda p: p.astype(float), layer.init(jax.random.key(0)))
    x, context = RANDOM.standard_normal((N, T, DIM)), RANDOM.standard_normal((N, 6, 5))
    seen = np.array([True, False, True, True, False, True])
    mask = jnp.asarray(seen[None, None, None])
    inputs = jnp.asarray(x), jaxnn.Padded(jnp.asarray(context), None, mask)
    y, residuals = layer.fwd(params, inputs)
    alone = layer.apply(params, (jnp.asarray(x), jnp.asarray(context[:, seen])))
    np.testing.assert_allclose(y, alone, rtol=1e-12)
    dparams, (dx, dcontext) = layer.bwd(residuals, jnp.ones_like(y))
    assert dx.shape == x.shape
    assert (dcontext[:, ~seen] == 0).all()
    assert (dcontext[:, seen] != 0).all()
    assert jax.tree.structure(dparams) == jax.tree.structure(params)


def test_generation_is_what_the_whole_network_says_each_time():
    net, *_ = gpt()
    params = net.init(jax.random.key(0))
    generate = jax.jit(jaxnn.generate, static_argnums=(0, 3))
    written = generate(net, params, TOKENS[:, :4], 3)
    sequence = jnp.asarray(TOKENS[:, :4])
    for _ in range(3):
        following = net.apply(params, sequence)[:, -1].argmax(-1)[:, None]
        sequence = jnp.concatenate([sequence, following], axis=1)
    np.testing.assert_array_equal(written, sequence[:, 4:])


def test_recurrent_networks_and_decoders_generate():
    recurrent = jaxnn.serial(
        jaxnn.Embedding(VOCABULARY, DIM),
        jaxnn.batch_first(jaxnn.serial(jaxnn.LSTM(DIM, 6), jaxnn.GRU(6, 6), jaxnn.RNN(6, 5))),
        jaxnn.Linear(5, VOCABULARY),
    )
    params = recurrent.init(jax.random.key(0))
    whole = recurrent.apply(params, TOKENS)
    cache, parts = recurrent.init_cache(N, T), []
    for part in (TOKENS[:, :3], TOKENS[:, 3:4], TOKENS[:, 4:]):
        y, cache = recurrent.extend(params, part, cache)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-6)

    decoder = jaxnn.serial(
        jaxnn.each(jaxnn.Embedding(VOCABULARY, DIM), jaxnn.serial()),
        jaxnn.TransformerBlock(DIM, 2, cross=True, causal=True),
        jaxnn.pick(0),
        jaxnn.Linear(DIM, VOCABULARY),
    )
    params, context = decoder.init(jax.random.key(0)), jnp.ones((N, 4, DIM))
    written = jaxnn.generate(decoder, params, TOKENS[:, :2], 2, context=context)
    first = decoder.apply(params, (TOKENS[:, :2], context))[:, -1].argmax(-1)
    np.testing.assert_array_equal(written[:, 0], first)
    assert written.shape == (N, 2)


def test_draws_follow_the_temperature_and_top_k():
    """From logits that do not depend on the tokens, the fractions are those of the softmax."""
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    net = jaxnn.autodiff(lambda tokens: jnp.broadcast_to(logits, (*tokens.shape, 4)))
    net = jaxnn.as_layer(net)
    prompt = jnp.zeros((4000, 1), int)
    for temperature, top_k, expected in (
        (1.0, None, jnp.array([0.5, 0.3, 0.15, 0.05])),
        (0.5, 2, jnp.array([25 / 34, 9 / 34, 0, 0])),
    ):
        drawn = jaxnn.generate(
            *(net, (), prompt, 2), key=jax.random.key(0), temperature=temperature, top_k=top_k
        )
        fractions = jnp.bincount(drawn.ravel(), length=4) / drawn.size
        np.testing.assert_allclose(fractions, expected, atol=0.02)  # 4 standard deviations


BAD = [
    (lambda: jaxnn.generate(jaxnn.relu, (), jnp.ones((1, 2)), 1), TypeError, "must be integers"),
    (lambda: jaxnn.generate(jaxnn.relu, (), jnp.ones(2, int), 1), ValueError, r"must be \(N, T\)"),
    (
        lambda: jaxnn.MultiHeadAttention(4, 2).extend({}, jnp.ones((1, 1, 4)), None),
        ValueError,
        "without causal=True every position sees the later ones",
    ),
    (
        lambda: jaxnn.LSTM(4, 3, reverse=True).extend({}, jnp.ones((1, 1, 4)), None),
        ValueError,
        "cannot be extended step by step",
    ),
    (
        lambda: jaxnn.Conv(4, 3, (3,)).extend({}, jnp.ones((1, 1, 4)), ()),
        NotImplementedError,
        "Conv does not define extend",
    ),
    (
        lambda: jaxnn.tied(jaxnn.mlp((4, 3)), (5, "w"), to=(0, "w")),
        ValueError,
        r"tied: the parameters have no \(5, 'w'\)",
    ),
    (
        lambda: jaxnn.tied(jaxnn.mlp((4, 3, 2)), (2, "w"), to=(0, "w")).init(jax.random.key(0)),
        ValueError,
        r"at \(2, 'w'\) have shape \(3, 2\), and those at \(0, 'w'\) have shape \(4, 3\)",
    ),
    (
        lambda: jaxnn.each(jaxnn.relu, jaxnn.relu).apply(((), ()), jnp.ones(3)),
        ValueError,
        "each: x must be a tuple with one entry for each of 2 layers",
    ),
    (lambda: jaxnn.pick(2).apply((), (1, 2)), ValueError, "x must be a tuple with an entry 2"),
    (
        lambda: jaxnn.LSTM(4, 3).apply({}, jaxnn.Padded(jnp.ones((5, 2, 4)), None, jnp.ones(2))),
        ValueError,
        "a recurrent layer takes lengths, but x has a mask",
    ),
    (lambda: jaxnn.autodiff(3), TypeError, "expected a function"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "network", [variational_autoencoder, pytest.param(gpt, marks=pytest.mark.thorough)]
)
def test_diagnose_takes_them(network):
    """Right gradients are right; of wrong ones it names the leaf and what happened to it."""
    net, loss, reduction, x, target, _ = network()
    params, key = net.init(jax.random.key(0)), jax.random.key(1)
    _, grads = jaxnn.value_and_grad(net, loss, reduction)(params, x, target, key)
    options = {"reduction": reduction, "key": key}
    assert diagnose(net, loss, params, x, target, grads, **options).ok
    leaves, tree = jax.tree.flatten(grads)
    leaves[0] = -leaves[0]
    wrong = jax.tree.unflatten(tree, leaves)
    diagnosis = diagnose(net, loss, params, x, target, wrong, **options)
    assert [leaf.ok for leaf in diagnosis.leaves] == [False] + [True] * (len(leaves) - 1)
    assert [mistake.name for mistake in diagnosis.mistakes] == ["wrong sign"]
