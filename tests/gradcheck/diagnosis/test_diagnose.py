"""Planted mistakes are caught and named, right gradients are left alone, and nothing is guessed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import diagnose
from jaxnn.gradcheck.diagnosis.diagnose import diagnosis_of
from jaxnn.gradcheck.diagnosis.graph import graph_of
from jaxnn.gradcheck.diagnosis.keys import TOLERANCES
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES
from jaxnn.gradcheck.report import GradientMismatch
from jaxnn.layer import BuiltLayer

N, SIZES = 7, (5, 6, 3)
RATE, DECAY = 0.03, 0.01
EXACT = TOLERANCES[8]
NETWORKS = {
    "relu, softmax cross-entropy": (jaxnn.relu, jaxnn.identity, jaxnn.softmax_cross_entropy),
    "sigmoid, binary cross-entropy": (jaxnn.sigmoid, jaxnn.sigmoid, jaxnn.binary_cross_entropy),
    "tanh, squared error": (jaxnn.tanh, jaxnn.identity, jaxnn.squared_error),
    "sigmoid, squared error": (jaxnn.sigmoid, jaxnn.sigmoid, jaxnn.squared_error),
}
OTHERS = {
    "elu, tanh, half": (jaxnn.elu, jaxnn.tanh, jaxnn.half_squared_error),
    "softplus, softmax": (jaxnn.softplus, jaxnn.softmax, jaxnn.cross_entropy),
    "leaky_relu, fused": (jaxnn.leaky_relu, jaxnn.identity, jaxnn.sigmoid_cross_entropy),
    "gelu, half": (jaxnn.gelu, jaxnn.identity, jaxnn.half_squared_error),
}


def network(name, sizes=SIZES):
    activation, output, loss = (NETWORKS | OTHERS)[name]
    return jaxnn.mlp(sizes, activation, output), loss


def parameters(random, sizes=SIZES):
    net = jaxnn.mlp(sizes)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree.map(lambda p: random.normal(size=p.shape) * 0.8 ** len(p.shape), shapes)


def batch(random, name, sizes=SIZES, n=N):
    x, k = random.normal(size=(n, sizes[0])), sizes[-1]
    if "softmax" in name:
        return x, random.permutation(np.arange(n) % k)
    if "binary" in name or "fused" in name:
        return x, (random.random((n, k)) < 0.5).astype(float)
    return x, random.random((n, k))


def recorded(name, seed, sizes=SIZES, reduction="mean", decay=DECAY):
    random = np.random.default_rng(seed)
    net, loss = network(name, sizes)
    params = parameters(random, sizes)
    now, before = (
        graph_of(net, loss, params, *batch(random, name, sizes), reduction, decay) for _ in range(2)
    )
    return now._replace(learning_rate=RATE, previous=before, previous_gradient=before.truth)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def by_hand(params, x, y, mistake="", rate=RATE):
    """A tanh, tanh, sigmoid network with the squared error, by hand, with one mistake."""
    (w1, b1), (w2, b2), (w3, b3) = ((p["w"], p["b"]) for p in params)
    z1 = x @ w1 + b1
    a1 = np.tanh(z1)
    z2 = a1 @ w2 + b2
    a2 = np.tanh(z2)
    p = sigmoid(a2 @ w3 + b3)
    n = len(x)
    e = p - y.mean(axis=0) if mistake == "L7" else p - y
    slope1, slope2, slope3 = 1 - a1**2, 1 - a2**2, p * (1 - p)
    if mistake == "A1":
        slope2 = np.ones_like(a2)
    elif mistake == "A5":
        slope3 = e * (1 - e)
    elif mistake == "A6":
        slope3 = 1
    dloss = e if mistake in ("C5", "L6") else 2 * e
    if mistake == "L6":
        slope3 = 1
    d3 = dloss * slope3 / (1 if mistake == "C2" else n)
    if mistake == "C6":
        d3 = d3 / y.shape[1]
    dw3, db3 = (z2 if mistake == "D1" else a2).T @ d3, d3.sum(axis=0)
    back3 = w3 - rate * dw3 if mistake == "D2" else w3
    up2 = d3 @ back3.T / (n if mistake == "C4" else 1)
    d2 = up2 * slope2
    dw2, db2 = a1.T @ d2, d2.sum(axis=0)
    back2 = w2 - rate * dw2 if mistake == "D2" else w2
    d1 = d2 @ back2.T * slope1 / (n if mistake == "C4" else 1)
    dw1, db1 = (x[::-1] if mistake == "D3" else x).T @ d1, d1.sum(axis=0)
    if mistake == "S1":
        dw2 = dw2.T
    grads = ({"w": dw1, "b": db1}, {"w": dw2, "b": db2}, {"w": dw3, "b": db3})
    if mistake == "C7":
        return jax.tree.map(lambda g: RATE * g, grads)
    return grads


DEEP = (7, 8, 6, 3)
BY_HAND = ("C4", "C5", "C6", "C7", "A5", "A6", "L6", "L7", "D1", "D2", "D3")


def deep(seed):
    random = np.random.default_rng(seed)
    net = jaxnn.mlp(DEEP, jaxnn.tanh, jaxnn.sigmoid)
    params = parameters(random, DEEP)
    return net, params, *batch(random, "", DEEP, 9)


def diagnosed_by_hand(mistake, seed=0, factor=1.0, rate=RATE, **options):
    net, params, x, y = deep(seed)
    grads = by_hand(params[::2], x, y, mistake, rate)
    grads = jax.tree.map(lambda g: factor * g, grads)
    grads = tuple(part for layer in grads for part in (layer, ()))
    options = {"learning_rate": RATE} | options
    return diagnose(net, jaxnn.squared_error, params, x, y, grads, **options)


def ids(diagnosis):
    return [mistake.id for mistake in diagnosis.mistakes]


@pytest.mark.parametrize("mistake", BY_HAND)
def test_a_mistake_written_by_hand_is_named(mistake):
    diagnosis = diagnosed_by_hand(mistake)
    assert not diagnosis.ok
    assert ids(diagnosis) == [mistake]


@pytest.mark.parametrize("mistake", ["A1", "A5", "L7", "D2", "S1"])
def test_a_mistake_written_by_hand_and_a_constant_are_both_named(mistake):
    assert set(ids(diagnosed_by_hand(mistake, factor=9.0))) == {mistake, "C2"}


def test_the_network_written_by_hand_is_right():
    assert diagnosed_by_hand("").ok


SOFTMAX_BY_HAND = {
    "L1": lambda p, y: -y * (1 - p),
    "L2": lambda p, y: p * ((p - y) - (p * (p - y)).sum(axis=1, keepdims=True)),
    "L5": lambda p, y: p - 1,
    "L4": lambda p, y: -y / p,
}


@pytest.mark.parametrize("mistake", SOFTMAX_BY_HAND)
def test_a_wrong_classifier_written_by_hand_is_named(mistake):
    random = np.random.default_rng(3)
    w, b = random.normal(size=(5, 4)), random.normal(size=4)
    x, labels = random.normal(size=(9, 5)), np.arange(9) % 4
    e = np.exp(x @ w + b)
    p = e / e.sum(axis=1, keepdims=True)
    delta = SOFTMAX_BY_HAND[mistake](p, np.eye(4)[labels]) / 9
    net, params = jaxnn.mlp((5, 4)), ({"w": w, "b": b}, ())
    grads = ({"w": x.T @ delta, "b": delta.sum(axis=0)}, ())
    diagnosis = diagnose(net, jaxnn.softmax_cross_entropy, params, x, labels, grads)
    assert mistake in ids(diagnosis)
    assert set(ids(diagnosis)) <= {mistake, "A6"}


@pytest.mark.parametrize("name", OTHERS)
def test_right_gradients_are_right(name):
    random = np.random.default_rng(0)
    net, loss = network(name)
    params, (x, y) = parameters(random), batch(random, name)
    _, grads = jaxnn.value_and_grad(net, loss)(params, x, y)
    assert diagnose(net, loss, params, x, y, grads).ok


@pytest.mark.parametrize("factor", [7.0, -1.0])
def test_single_precision_is_named_too(factor):
    random = np.random.default_rng(0)
    net, loss = network("tanh, squared error")
    single = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), (parameters(random), *batch(random, "tanh"))
    )
    _, grads = jaxnn.value_and_grad(net, loss)(*single)
    wrong = jax.tree.map(lambda g: jnp.float32(factor) * g, grads)
    assert ids(diagnose(net, loss, *single, wrong)) == ["C2" if factor == 7 else "C1"]


@pytest.mark.parametrize(("rate", "known"), [(1e-1, False), (1e-4, True), (1e-4, False)])
def test_weights_updated_too_early_are_seen_at_small_rates(rate, known):
    diagnosis = diagnosed_by_hand("D2", rate=rate, learning_rate=rate if known else None)
    assert ids(diagnosis) == ["D2"]
    assert f"W − {'η' if known else f'{rate:g}'}·dW" in diagnosis.mistakes[0].explanation


def test_the_previous_gradient_and_the_previous_batch():
    random = np.random.default_rng(0)
    net, loss = network("tanh, squared error")
    params, now, before = parameters(random), batch(random, ""), batch(random, "")
    gradient = jaxnn.value_and_grad(net, loss)
    (_, g), (_, old) = gradient(params, *now), gradient(params, *before)
    both = jax.tree.map(jnp.add, g, old)
    for previous in (before, old):
        assert ids(diagnose(net, loss, params, *now, both, previous=previous)) == ["D4"]
        assert ids(diagnose(net, loss, params, *now, old, previous=previous)) == ["D3"]
    assert diagnose(net, loss, params, *now, both).unknown


def test_a_kink():
    random = np.random.default_rng(0)
    net, loss = network("relu, softmax cross-entropy")
    params, (x, y) = parameters(random), batch(random, "softmax")
    x[0] = 0
    params[0]["b"][:2] = 0

    def mean(params):
        hidden = jnp.maximum(jnp.asarray(x) @ params[0]["w"] + params[0]["b"][None], 0)
        logits = hidden @ params[2]["w"] + params[2]["b"][None]
        return jnp.mean(jaxnn.softmax_cross_entropy.definition(logits, jnp.asarray(y)))

    assert ids(diagnose(net, loss, params, x, y, jax.grad(mean)(params))) == ["K1"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("relu, softmax cross-entropy", 1e-6), ("sigmoid, binary cross-entropy", 1.0)],
)
def test_what_is_not_known_is_not_guessed(name, size):
    random = np.random.default_rng(99)
    graph = recorded(name, 0)
    leaves = [leaf + size * random.normal(size=leaf.shape) for leaf in graph.truth]
    diagnosis = diagnosis_of(graph, leaves, EXACT)
    assert diagnosis.unknown
    assert "Every leaf is wrong" in diagnosis.where
    assert "No known mistake" in str(diagnosis)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ([1], "product with the input"),
        ([0], "sum over the batch"),
        ([0, 1], "passes back"),
        ([0, 1, 2, 3], "loss"),
        ([1, 2], "other leaves are right"),
    ],
)
def test_the_place_is_told(leaves, words):
    graph = recorded("tanh, squared error", 0)
    random = np.random.default_rng(1)
    wrong = [
        leaf + 0.1 * random.normal(size=leaf.shape) if i in leaves else leaf
        for i, leaf in enumerate(graph.truth)
    ]
    diagnosis = diagnosis_of(graph, wrong, EXACT)
    assert [not leaf.ok for leaf in diagnosis.leaves] == [i in leaves for i in range(4)]
    assert words in diagnosis.where


def test_two_leaves_may_have_two_mistakes():
    graph = recorded("tanh, squared error", 0)
    b0, w0, b2, w2 = graph.truth
    diagnosis = diagnosis_of(graph, [-b0, w0.T, b2, 0 * w2], EXACT)
    assert {mistake.id: mistake.leaves for mistake in diagnosis.mistakes} == {
        "C1": ["[0]['b']"],
        "S1": ["[0]['w']"],
        "Z1": ["[2]['w']"],
    }


def test_a_mistake_may_be_in_one_leaf_only():
    graph = recorded("tanh, squared error", 0)
    b0, w0, b2, w2 = graph.truth
    diagnosis = diagnosis_of(graph, [graph.deltas[0][-1], w0, b2, w2], EXACT)
    assert [(found.id, found.leaves) for found in diagnosis.mistakes] == [("D5", ["[0]['b']"])]
    nan = np.where(np.arange(6) == 4, np.nan, b0)
    (found,) = diagnosis_of(graph, [nan, w0, b2, w2], EXACT).mistakes
    assert found.id == "Z2"
    assert "nan at index (4,)" in found.explanation


def test_nested_layers_without_biases():
    random = np.random.default_rng(0)
    net = jaxnn.serial(
        jaxnn.serial(jaxnn.Linear(5, 6, use_bias=False), jaxnn.tanh), jaxnn.Linear(6, 3)
    )
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda p: random.normal(size=p.shape), shapes)
    x, y = batch(random, "")
    _, grads = jaxnn.value_and_grad(net, jaxnn.squared_error)(params, x, y)
    assert diagnose(net, jaxnn.squared_error, params, x, y, grads).ok
    transposed = (({"w": grads[0][0]["w"].T}, ()), grads[1])
    (found,) = diagnose(net, jaxnn.squared_error, params, x, y, transposed).mistakes
    assert (found.id, found.leaves) == ("S1", ["[0][0]['w']"])


class Shell(BuiltLayer):
    """A network inside a layer that is built of others."""

    net = jaxnn.serial(jaxnn.Linear(5, 6), jaxnn.tanh, jaxnn.Linear(6, 3))


def test_a_layer_that_is_built_of_others_is_taken_apart():
    random = np.random.default_rng(0)
    net, params, (x, y) = jaxnn.serial(Shell()), (parameters(random)[:3],), batch(random, "")
    _, grads = jaxnn.value_and_grad(net, jaxnn.squared_error)(params, x, y)
    nodes = graph_of(net, jaxnn.squared_error, params, x, y).nodes
    assert [node.linear is not None for node in nodes] == [True, False, True]
    first, *others = grads[0]
    wrong = ((first | {"w": first["w"].T}, *others),)
    (found,) = diagnose(net, jaxnn.squared_error, params, x, y, wrong).mistakes
    assert (found.id, found.leaves) == ("S1", ["[0][0]['w']"])


@pytest.mark.parametrize(
    ("op", "kinks", "is_mask"),
    [
        (jaxnn.relu6, (0.0, 6.0), True),
        (jaxnn.leaky_relu.bind(slope=0.3), (0.0,), True),
        (jaxnn.hard_swish, (-3.0, 3.0), False),
        (jaxnn.elu.bind(alpha=0.5), (0.0,), False),
        (jaxnn.gelu, (), False),
    ],
    ids=str,
)
def test_an_op_tells_its_kinks(op, kinks, is_mask):
    random = np.random.default_rng(0)
    net = jaxnn.mlp(SIZES, op)
    node = graph_of(net, jaxnn.squared_error, parameters(random), *batch(random, "")).nodes[1]
    assert (node.kinks, node.is_mask) == (kinks, is_mask)


@pytest.mark.parametrize("op", [jaxnn.selu, jaxnn.celu.bind(alpha=0.7)], ids=str)
def test_an_op_tells_its_slope_as_a_formula_in_the_output(op):
    """f' written in a but fed z is found for every op that has such a formula."""
    random = np.random.default_rng(0)
    net, params, (x, y) = jaxnn.mlp(SIZES, op), parameters(random), batch(random, "")
    w2, z = params[2]["w"], x @ params[0]["w"] + params[0]["b"]
    a = np.asarray(op(z))
    np.testing.assert_allclose(op.slope_of_output(a), jax.vmap(jax.vmap(jax.grad(op)))(z))
    dy = 2 * (a @ w2 + params[2]["b"] - y) / N
    dz = dy @ w2.T * np.asarray(op.slope_of_output(z))
    grads = (
        {"w": x.T @ dz, "b": dz.sum(axis=0)},
        (),
        {"w": a.T @ dy, "b": dy.sum(axis=0)},
        (),
    )
    assert ids(diagnose(net, jaxnn.squared_error, params, x, y, grads)) == ["A2"]


def test_one_linear_layer_is_a_network():
    random = np.random.default_rng(0)
    net, params = jaxnn.Linear(5, 3), {"w": random.normal(size=(5, 3)), "b": np.ones(3)}
    x, y = batch(random, "")
    _, grads = jaxnn.value_and_grad(net, jaxnn.half_squared_error, "sum")(params, x, y)
    options = {"reduction": "sum"}
    assert diagnose(net, jaxnn.half_squared_error, params, x, y, grads, **options).ok
    assert ids(diagnose(net, jaxnn.half_squared_error, params, x, y, grads)) == ["C2"]


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("factor", [1.0, -1.0, 7.0])
def test_half_precision(dtype, factor):
    random = np.random.default_rng(0)
    net, loss = network("tanh, squared error")
    half = jax.tree.map(
        lambda a: jnp.asarray(a).astype(dtype), (parameters(random), *batch(random, "tanh"))
    )
    _, grads = jaxnn.value_and_grad(net, loss)(*half)
    wrong = jax.tree.map(lambda g: g * jnp.asarray(factor, dtype), grads)
    assert ids(diagnose(net, loss, *half, wrong)) == {1.0: [], -1.0: ["C1"], 7.0: ["C2"]}[factor]


@pytest.mark.thorough
def test_saturated_single_precision_is_judged_by_what_its_dtype_can_do():
    random = np.random.default_rng(0)
    net = jaxnn.mlp((20, 30, 10), jaxnn.sigmoid, jaxnn.sigmoid)
    params = parameters(random, (20, 30, 10))
    x, y = batch(random, "binary", (20, 30, 10), 64)
    params = jax.tree.map(lambda p: 5 * p, params)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, y))
    _, grads = jaxnn.value_and_grad(net, jaxnn.binary_cross_entropy)(*single)
    diagnosis = diagnose(net, jaxnn.binary_cross_entropy, *single, grads)
    assert diagnosis.ok
    assert max(leaf.error for leaf in diagnosis.leaves) > 1e-2


def test_the_words():
    diagnosis = diagnosed_by_hand("C2")
    (mistake,) = diagnosis.mistakes
    assert mistake.name == MISTAKES["C2"].name
    assert mistake.fix == MISTAKES["C2"].fix
    assert "params[0]['w']" in mistake.explanation
    assert "9 × the true gradient everywhere, and 9 is the batch size" in mistake.explanation
    assert "the 1/N of the mean is missing" in str(diagnosis)
    assert "WRONG" in str(diagnosis)
    with pytest.raises(GradientMismatch, match="batch size"):
        diagnosis.raise_if_failed()
    plain = json.loads(json.dumps(diagnosis.to_dict()))
    assert plain["ok"] is False
    assert plain["mistakes"][0]["id"] == "C2"
    diagnosed_by_hand("").raise_if_failed()


def test_the_decay_that_is_missing_is_told():
    diagnosis = diagnosed_by_hand("", weight_decay=0.2)
    (mistake,) = diagnosis.mistakes
    assert mistake.id == "R1"
    assert "missing" in mistake.explanation
    assert mistake.leaves == ["[0]['w']", "[2]['w']", "[4]['w']"]


def test_bad_input():
    net, params, x, y = deep(0)
    grads = jax.tree.map(np.zeros_like, params)
    extra = (*grads[:-1], {"w": np.zeros(3)})
    with pytest.raises(ValueError, match="tree of params"):
        diagnose(net, jaxnn.squared_error, params, x, y, extra)
    wrong = ({"w": grads[0]["w"], "b": "zero"}, *grads[1:])
    with pytest.raises(TypeError, match=r"grads\[0\]\['b'\] must be an array"):
        diagnose(net, jaxnn.squared_error, params, x, y, wrong)
    with pytest.raises(ValueError, match="reduction"):
        diagnose(net, jaxnn.squared_error, params, x, y, grads, reduction="max")
    with pytest.raises(ValueError, match="previous"):
        diagnose(net, jaxnn.squared_error, params, x, y, grads, previous=grads[:1])


def test_an_unknown_decay_and_a_constant():
    net, params, x, y = deep(0)
    _, grads = jaxnn.value_and_grad(net, jaxnn.squared_error)(params, x, y)
    wrong = tuple(
        {"w": 2 * (g["w"] + 0.3 * p["w"]), "b": 2 * g["b"]} if g else ()
        for g, p in zip(grads, params, strict=True)
    )
    assert set(ids(diagnose(net, jaxnn.squared_error, params, x, y, wrong))) == {"R1", "C5"}
