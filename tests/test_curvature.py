"""Curvature, against `jax.jacobian` of the definitions and against BackPACK."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from safetensors.numpy import load_file

import jaxnn
from jaxnn import curvature, per_example

N = 5
RECORDED = load_file(Path(__file__).with_name("backpack.safetensors"))
half, cross_entropy = jaxnn.half_squared_error, jaxnn.softmax_cross_entropy
LABELS = jnp.array([0, 1, 2, 1, 0])
weighted = cross_entropy.bind(
    label_smoothing=0.1, ignore_label=1, class_weights=jnp.array([1.0, 2.0, 3.0])
)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


CASES = {
    "labels": (jaxnn.mlp((7, 6, 3)), cross_entropy, numbers(N, 7), LABELS),
    "labels with options": (jaxnn.mlp((7, 6, 3)), weighted, numbers(N, 7), LABELS),
    "distributions": (
        jaxnn.mlp((7, 6, 3)),
        cross_entropy,
        numbers(N, 7),
        jax.nn.softmax(numbers(N, 3, seed=1)),
    ),
    "squared_error": (
        jaxnn.mlp((7, 6, 3)),
        jaxnn.squared_error,
        numbers(N, 7),
        numbers(N, 3, seed=1),
    ),
    "sigmoid_cross_entropy": (
        jaxnn.mlp((7, 6, 3)),
        jaxnn.sigmoid_cross_entropy.bind(pos_weight=jnp.array([1.0, 2.0, 3.0])),
        numbers(N, 7),
        jax.nn.sigmoid(numbers(N, 3, seed=1)),
    ),
    "conv": (
        jaxnn.serial(
            jaxnn.Conv(2, 3, (3, 3)),
            jaxnn.relu,
            jaxnn.Conv(3, 2, (2, 2), stride=2),
            jaxnn.flatten,
            jaxnn.Linear(8, 3),
        ),
        cross_entropy,
        numbers(N, 4, 4, 2),
        LABELS,
    ),
    "places": (
        jaxnn.serial(
            jaxnn.Linear(4, 5), jaxnn.LayerNorm(5), jaxnn.tanh, jaxnn.flatten, jaxnn.Linear(15, 3)
        ),
        half,
        numbers(N, 3, 4),
        numbers(N, 3, seed=1),
    ),
    "stacked": (
        jaxnn.serial(
            jaxnn.stacked(jaxnn.residual(jaxnn.serial(jaxnn.Linear(4, 4), jaxnn.tanh)), 3),
            jaxnn.Linear(4, 3),
        ),
        half,
        numbers(N, 4),
        numbers(N, 3, seed=1),
    ),
}


def initial(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    random = np.random.default_rng(2)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * random.normal(size=p.shape)), shapes)


def true_ggn(net, loss, params, x, target):
    """Jᵀ·H·J of the mean loss, and the function that makes a tree of a vector."""
    flat, tree_of = ravel_pytree(params)

    def prediction(flat):
        with jaxnn.definitions():
            return net.fwd(tree_of(flat), x)[0]

    jacobian, y = jax.jacobian(prediction)(flat), prediction(flat)
    hessian = jax.hessian(lambda y: jnp.mean(loss.definition(y, target)))(y)
    return jnp.einsum("nkp,nkml,mlq->pq", jacobian, hessian, jacobian), tree_of


def close(found, wanted, bound):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert jnp.linalg.norm((a - b).ravel()) <= bound * jnp.linalg.norm(b.ravel())


@pytest.mark.parametrize("name", CASES)
def test_diagonal(name):
    net, loss, x, target = CASES[name]
    params = initial(net)
    ggn, tree_of = true_ggn(net, loss, params, x, target)
    found = jax.jit(curvature.diag_ggn(net, loss))(params, x, target)
    close(found, tree_of(jnp.diag(ggn)), 1e-14)


def test_factors_of_one_example_are_its_block():
    net, loss, x, target = CASES["labels"]
    params = initial(net)
    ggn, tree_of = true_ggn(net, loss, params, x[:1], target[:1])
    places = tree_of(jnp.arange(ggn.shape[0], dtype=float))
    factors = curvature.kronecker_factors(net, loss)(params, x[:1], target[:1])
    is_pair = lambda leaf: isinstance(leaf, curvature.Kronecker)  # noqa: E731
    pairs = jax.tree.leaves(factors, is_leaf=is_pair)
    for place, pair in zip(jax.tree.leaves(places), pairs, strict=True):
        i = place.ravel().astype(int)
        close(jnp.kron(pair.a, pair.b), ggn[jnp.ix_(i, i)], 1e-14)


def test_samples_estimate_the_exact_ones():
    """The error of 4,000 random columns is a few hundredths; the expectation is exact."""
    net, loss, x, target = CASES["labels"]
    params, key = initial(net), jax.random.key(1)
    exact = curvature.diag_ggn(net, loss)(params, x, target)
    sampled = jax.jit(curvature.diag_ggn(net, loss, samples=4000))(params, x, target, key)
    close(sampled, exact, 0.06)
    factors = curvature.kronecker_factors(net, loss)(params, x, target)
    sampled = curvature.kronecker_factors(net, loss, samples=4000)
    close(jax.jit(sampled)(params, x, target, key), factors, 0.06)


def test_samples_of_sequences():
    """An example with several losses: the mean of many samples is the sum over its places."""
    net, x = jaxnn.serial(jaxnn.Linear(4, 3)), numbers(N, 6, 4)
    params, target = initial(net), numbers(N, 6, 3, seed=1)
    diagonal = curvature.diag_ggn(net, half, "sum", samples=4000)
    found = jax.jit(diagonal)(params, x, target, jax.random.key(1))
    wanted = ({"w": jnp.sum(x**2, (0, 1))[:, None] * jnp.ones((1, 3)), "b": jnp.full(3, 6.0 * N)},)
    close(found, wanted, 0.06)
    with pytest.raises(ValueError, match="pass samples"):
        curvature.diag_ggn(net, half)(params, x, target)


def test_moments():
    net, loss, x, target = CASES["conv"]
    params = initial(net)
    found = curvature.gradient_moments(net, loss)(params, x, target)
    _, each = per_example.per_example_grads(net, loss)(params, x, target)
    close(found.mean, jax.tree.map(lambda g: g.mean(0), each), 1e-13)
    close(found.second, jax.tree.map(lambda g: (g**2).mean(0), each), 1e-13)
    close(found.variance, jax.tree.map(lambda g: g.var(0, ddof=1), each), 1e-12)


def kernel(array):
    """A kernel (O, I, h, w) of PyTorch, a matrix (O, I) or a vector, as jaxnn has it."""
    array = jnp.asarray(array)
    return (
        jnp.moveaxis(array, (-4, -3), (-1, -2)) if array.ndim > 3 else jnp.swapaxes(array, -2, -1)
    )


NETWORKS = {
    "mlp": (jaxnn.serial(jaxnn.Linear(7, 6), jaxnn.tanh, jaxnn.Linear(6, 3)), (0, 2)),
    "cnn": (
        jaxnn.serial(
            jaxnn.Conv(2, 3, (3, 3), padding="VALID"),
            jaxnn.relu,
            jaxnn.Conv(3, 4, (2, 2), stride=2, padding="VALID"),
            jaxnn.flatten,
            jaxnn.Linear(4, 3),
        ),
        (0, 2, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_backpack(name):
    """Each extension; BackPACK's gradient of an example is that of its share of the mean."""
    net, places = NETWORKS[name]
    params: list = [()] * len(net.layers)
    for i in places:
        w, b = (RECORDED[f"{name}.{i}.{what}"] for what in ("weight", "bias"))
        params[i] = {"w": kernel(w), "b": jnp.asarray(b)}
    params = tuple(params)
    x, labels = jnp.asarray(RECORDED[f"{name}.x"]), jnp.asarray(RECORDED[f"{name}.labels"])
    x = jnp.moveaxis(x, 1, -1) if x.ndim > 2 else x
    args = params, x, labels
    _, each = per_example.per_example_grads(net, cross_entropy)(*args)
    moments = curvature.gradient_moments(net, cross_entropy)(*args)
    diagonal = curvature.diag_ggn(net, cross_entropy)(*args)
    factors = curvature.kronecker_factors(net, cross_entropy)(*args)
    for i in places:
        for what, key in (("weight", "w"), ("bias", "b")):
            recorded = f"{name}.{i}.{what}"

            def of(extension, j=0, recorded=recorded):
                return jnp.asarray(RECORDED[f"{recorded}.{extension}.{j}"])

            turned = kernel if key == "w" else jnp.asarray
            close(each[i][key] / N, turned(of("batch_grad")), 1e-13)
            squares = jnp.sum(each[i][key].reshape(N, -1) ** 2, 1) / N**2
            close(squares, of("batch_l2"), 1e-13)
            close(moments.second[i][key] / N, turned(of("sum_grad_squared")), 1e-13)
            biased = moments.variance[i][key] * (N - 1) / N
            close(biased / N**2, turned(of("variance")), 1e-12)
            close(diagonal[i][key], turned(of("diag_ggn_exact")), 1e-13)
            if key == "w" and params[i]["w"].ndim == 2:
                close(factors[i]["w"].b, of("kflr"), 1e-13)
                close(factors[i]["w"].a, of("kflr", 1), 1e-13)
            if key == "b" and params[i]["w"].ndim == 2:
                close(factors[i]["b"].b, of("kflr"), 1e-13)


@pytest.mark.parametrize(
    ("net", "loss", "options", "sentence"),
    [
        (jaxnn.Linear(4, 3), jaxnn.absolute_error, {}, "absolute_error has no hessian_root"),
        (jaxnn.Linear(4, 3), half, {"samples": 0}, "samples must be a positive integer"),
        (jaxnn.Linear(4, 3), half, {"reduction": "total"}, "reduction must be"),
        (jaxnn.BatchNorm(4), half, {}, "gradient of one example is not defined"),
        (jaxnn.Linear(4, 3), half, {"samples": 1}, "samples need a key"),
        (jaxnn.Linear(4, 3), cross_entropy.bind(z_loss=0.1), {}, "supports no where, z_loss"),
    ],
)
def test_what_is_refused(net, loss, options, sentence):
    x = numbers(N, 4)
    with pytest.raises(ValueError, match=sentence):
        curvature.kronecker_factors(net, loss, **options)(
            initial(net), x, x if isinstance(net, jaxnn.BatchNorm) else x[:, :3]
        )


def test_an_embedding_has_no_factors():
    net = jaxnn.serial(jaxnn.Embedding(5, 4), jaxnn.flatten)
    ids = jnp.array([[0, 1], [2, 2]])
    factors = curvature.kronecker_factors(net, half)
    with pytest.raises(ValueError, match="not a product of an input and an output"):
        factors(initial(net), ids, jnp.zeros((2, 8)))
