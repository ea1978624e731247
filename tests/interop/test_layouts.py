"""The three ways to store a linear layer: one function, and one gradient in three shapes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn import convert_convention


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


N, SIZES = 7, (5, 4, 3)
X, LABELS = normal(N, SIZES[0], seed=20), jnp.arange(N) % 3
CONVENTIONS = ["row", "torch", "column"]
W, B = normal(4, 3), normal(3)


def random_params(sizes=SIZES, use_bias=True):
    params = []
    for n_in, n_out in pairwise(sizes):
        layer = {"w": normal(n_in, n_out, seed=len(params))}
        if use_bias:
            layer["b"] = normal(n_out, seed=len(params) + 10)
        params += [layer, ()]
    return tuple(params)


def row(layer, x):
    return x @ layer["w"] + layer.get("b", jnp.zeros(1))[None, :]


def torch(layer, x):
    return x @ layer["w"].T + layer.get("b", jnp.zeros(1))[None, :]


def column(layer, x):
    return layer["w"] @ x + layer.get("b", jnp.zeros((1, 1)))


LINEAR = {"row": row, "torch": torch, "column": column}


def plain_loss(params, convention):
    """The mean softmax cross-entropy of the network, written in one convention."""
    linear, x = LINEAR[convention], X.T if convention == "column" else X
    logits = linear(params[2], jnp.tanh(linear(params[0], x)))
    if convention == "column":
        log_p = jax.nn.log_softmax(logits, axis=0)
        return -jnp.mean(log_p[LABELS, jnp.arange(N)])
    return -jnp.mean(jax.nn.log_softmax(logits, axis=1)[jnp.arange(N), LABELS])


def assert_equal_trees(a, b, tolerance=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("sizes", "use_bias"), [(SIZES, True), (SIZES, False), ((5, 5, 5), True)], ids=str
)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_loss_and_its_gradient_are_the_same(convention, sizes, use_bias):
    params = random_params(sizes, use_bias)
    net = jaxnn.mlp(sizes, jaxnn.tanh)
    gradient = jax.jit(jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy))
    value, grads = gradient(params, X, LABELS)

    plain_gradient = jax.jit(jax.value_and_grad(plain_loss), static_argnums=1)
    plain_value, plain_grads = plain_gradient(convert_convention(params, convention), convention)
    np.testing.assert_allclose(plain_value, value, rtol=1e-14)
    assert_equal_trees(convert_convention(grads, convention), plain_grads, 1e-12)
    assert_equal_trees(convert_convention(plain_grads, "row", source=convention), grads, 1e-12)


@pytest.mark.parametrize("to", CONVENTIONS)
@pytest.mark.parametrize("source", CONVENTIONS)
def test_there_and_back(source, to):
    params = convert_convention(random_params(), source)
    there = convert_convention(params, to, source=source)
    assert_equal_trees(there, convert_convention(random_params(), to))
    assert_equal_trees(convert_convention(there, source, source=to), params)


@pytest.mark.parametrize(
    ("convention", "w", "b"),
    [("row", (4, 3), (3,)), ("torch", (3, 4), (3,)), ("column", (3, 4), (3, 1))],
)
def test_shapes(convention, w, b):
    params = jaxnn.Linear(4, 3).init(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, convert_convention(params, convention))
    assert shapes == {"w": w, "b": b}


def test_only_linear_layers_change():
    tree = [
        {"scale": normal(3, 2), "b": normal(3)},
        normal(2, 3),
        (),
        {"deep": {"w": normal(4, 3)}},
    ]
    converted = convert_convention(tree, "torch")
    assert_equal_trees(converted[:3], tree[:3])
    np.testing.assert_array_equal(converted[3]["deep"]["w"], tree[3]["deep"]["w"].T)
    assert isinstance(converted, list)


def test_numpy_stays_numpy_and_jax_stays_jax():
    params = random_params()
    in_numpy = convert_convention(jax.tree.map(np.asarray, params), "column")
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(in_numpy))
    in_jax = convert_convention(params, "column")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(in_jax))
    assert_equal_trees(in_numpy, jax.tree.map(np.asarray, in_jax))


def test_under_jit():
    params = random_params()
    compiled = jax.jit(convert_convention, static_argnames=("to", "source"))
    assert_equal_trees(compiled(params, to="column"), convert_convention(params, "column"))


@pytest.mark.parametrize(
    ("params", "options", "words"),
    [
        ({"w": W}, {"to": "rows"}, "to must be 'row', 'torch' or 'column', got 'rows'"),
        (
            {"w": W},
            {"to": "row", "source": "jax"},
            "source must be 'row', 'torch' or 'column', got 'jax'",
        ),
        (
            ((), {"w": W, "b": normal(4)}),
            {"to": "torch"},
            r"params\[1\]\['b'\] has shape \(4,\) but params\[1\]\['w'\] has shape \(4, 3\): "
            r"with source 'row' b must be \(3,\)",
        ),
        (
            {"w": W, "b": B},
            {"to": "row", "source": "torch"},
            r"with source 'torch' b must be \(4,\)",
        ),
        (
            {"w": W, "b": normal(4)},
            {"to": "row", "source": "column"},
            r"with source 'column' b must be \(4, 1\)",
        ),
        (
            {"w": normal(2, 4, 3)},
            {"to": "torch"},
            r"params\['w'\] must be a matrix, got shape \(2,",
        ),
        ({"w": W, "b": None}, {"to": "torch"}, r"params\['b'\] must be an array, got NoneType"),
        (
            {"a": {"w": {"w": W}}},
            {"to": "torch"},
            r"params\['a'\]\['w'\] must be an array, got dict",
        ),
        ({"w": W, "v": W}, {"to": "torch"}, "has a 'w' but is not a linear layer: it has 'v'"),
    ],
)
def test_bad_input(params, options, words):
    with pytest.raises(ValueError, match=f"^convert_convention: .*{words}"):
        convert_convention(params, **options)
