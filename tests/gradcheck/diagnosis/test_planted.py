"""Mistakes planted in hand-written backward passes are caught and named, one or two at a time."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn.gradcheck import diagnose
from tests.gradcheck.diagnosis.perceptron import LOSSES, OUTPUTS, TABLES, Perceptron

NETWORKS = [("relu", "squared"), ("tanh", "softmax"), ("softplus", "sigmoid")]
SMOOTH = NETWORKS[1:]  # those that show every mistake in f'
SINGLE = [
    (networks[i % len(networks)], kind, name)
    for kind, table in TABLES.items()
    for networks in [SMOOTH if kind == "slope" else NETWORKS]
    for i, name in enumerate(table)
]
PAIRS = [
    *({"delta": delta, "slope": "value"} for delta in ("rolled", "two missing", "weights")),
    *({"delta": "fitted", "leaf": leaf} for leaf in ("transposed", "shifted")),
    {"delta": "sign", "penalty": "elastic"},
    {"delta": "sum", "leaf": "clipped"},
    {"slope": "missing", "penalty": "L1"},
    {"slope": "squared", "bias": "over units"},
    {"bias": "mean", "delta": "sign"},
]


def ids(diagnosis):
    return {mistake.id for mistake in diagnosis.mistakes}


@pytest.mark.parametrize(("network", "kind", "name"), SINGLE)
def test_a_mistake_is_named(network, kind, name):
    net = Perceptron(*network)
    expected, _ = TABLES[kind][name]
    diagnosis = diagnose(*net.arguments, net.gradient(**{kind: name}))
    assert not diagnosis.ok
    assert expected in ids(diagnosis)
    assert diagnosis.equivalent or ids(diagnosis) == {expected}


@pytest.mark.parametrize(
    ("loss", "name"), [(loss, name) for loss, table in OUTPUTS.items() for name in table]
)
def test_a_mistake_at_the_output_is_named(loss, name):
    net = Perceptron("tanh", loss)
    diagnosis = diagnose(*net.arguments, net.gradient(output=name))
    assert OUTPUTS[loss][name][0] in ids(diagnosis)


@pytest.mark.parametrize("mistakes", PAIRS, ids=str)
def test_two_mistakes_are_both_named(mistakes):
    net = Perceptron("tanh", "softmax")
    diagnosis = diagnose(*net.arguments, net.gradient(**mistakes))
    assert {TABLES[kind][name][0] for kind, name in mistakes.items()} <= ids(diagnosis)


@pytest.mark.parametrize("loss", LOSSES)
def test_right_gradients_by_hand_are_right(loss):
    net = Perceptron("tanh", loss)
    assert diagnose(*net.arguments, net.gradient()).ok


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [("softmax", jnp.float32), ("sigmoid", jnp.bfloat16), ("squared", jnp.bfloat16)],
)
def test_right_gradients_in_low_precision_are_right(loss, dtype):
    net, loss_op, *arrays = Perceptron("tanh", loss).arguments
    params, x, y = jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if a.dtype.kind == "f" else jnp.asarray(a), tuple(arrays)
    )
    _, grads = jaxnn.value_and_grad(net, loss_op)(params, x, y)
    assert diagnose(net, loss_op, params, x, y, grads).ok
