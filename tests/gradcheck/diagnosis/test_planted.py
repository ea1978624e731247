"""Mistakes planted in hand-written backward passes are caught and named, one or two at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import diagnose
from tests.gradcheck.diagnosis.perceptron import LOSSES, OUTPUTS, TABLES, Perceptron

NETWORKS = [("tanh", "softmax"), ("relu", "squared"), ("softplus", "sigmoid")]
SINGLE = [(kind, name) for kind, table in TABLES.items() for name in table]
PAIRS = [
    *(
        ({"delta": delta, "slope": "value"})
        for delta in ("sum", "rolled", "two missing", "weights")
    ),
    *(
        ({"delta": "fitted", "leaf": leaf})
        for leaf in ("transposed", "zero", "last row", "shifted")
    ),
    {"delta": "sign", "penalty": "elastic"},
    {"slope": "missing", "penalty": "L1"},
    {"slope": "squared", "bias": "over units"},
    {"slope": "upstream", "leaf": "transposed"},
    {"bias": "mean", "delta": "sum"},
    {"bias": "missing", "leaf": "last row"},
]


def ids(diagnosis):
    return {mistake.id for mistake in diagnosis.mistakes}


def is_visible(wrong, right):
    leaves = [jax.tree.leaves(tree) for tree in (wrong, right)]
    if len(leaves[0]) != len(leaves[1]):
        return True
    return any(
        w.shape != r.shape or np.linalg.norm(w - r) > 1e-8 * np.linalg.norm(r)
        for w, r in zip(*leaves, strict=True)
    )


@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
@pytest.mark.parametrize(("kind", "name"), SINGLE)
def test_a_mistake_is_named(network, kind, name):
    net = Perceptron(*network)
    wrong = net.gradient(**{kind: name})
    if not is_visible(wrong, net.gradient()):
        pytest.skip("this network does not show it")
    expected, _ = TABLES[kind][name]
    diagnosis = diagnose(*net.arguments, wrong)
    assert not diagnosis.ok
    assert expected in ids(diagnosis)


@pytest.mark.parametrize(
    ("loss", "name"), [(loss, name) for loss, table in OUTPUTS.items() for name in table]
)
def test_a_mistake_at_the_output_is_named(loss, name):
    net = Perceptron("tanh", loss)
    assert OUTPUTS[loss][name][0] in ids(diagnose(*net.arguments, net.gradient(output=name)))


@pytest.mark.parametrize("network", NETWORKS[:2], ids="-".join)
@pytest.mark.parametrize("mistakes", PAIRS, ids=str)
def test_two_mistakes_are_both_named(network, mistakes):
    net = Perceptron(*network)
    diagnosis = diagnose(*net.arguments, net.gradient(**mistakes))
    expected = {TABLES[kind][name][0] for kind, name in mistakes.items()}
    assert expected <= ids(diagnosis)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_right_gradients_are_right_in_every_precision(loss, dtype):
    net, loss_op, params, x, y = Perceptron("tanh", loss).arguments
    if dtype == jnp.float64:
        assert diagnose(net, loss_op, params, x, y, Perceptron("tanh", loss).gradient()).ok
        return

    def cast(tree):
        return jax.tree.map(
            lambda a: jnp.asarray(a, dtype) if a.dtype.kind == "f" else jnp.asarray(a), tree
        )

    params, x, y = cast((params, x, y))
    _, grads = jaxnn.value_and_grad(net, loss_op)(params, x, y)
    assert diagnose(net, loss_op, params, x, y, grads).ok
