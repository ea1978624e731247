"""The first NaN or infinity of a training step is found where it arises."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn.gradcheck import locate_nonfinite
from jaxnn.layer import BuiltLayer


class Saved(NamedTuple):
    exponential: jax.Array


def batch():
    return jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), jnp.zeros((3, 2))


def broken_layer(forward=lambda x: x, saved=lambda x: x, dparams=lambda dy: {}, dx=lambda dy: dy):
    """The identity with one of its parts replaced."""
    return jaxnn.layer(
        init=lambda key: {},
        apply=lambda params, x: forward(x),
        fwd=lambda params, x, key: (forward(x), Saved(saved(x))),
        bwd=lambda residuals, dy: (dparams(dy), dx(dy)),
    )


def located(layer, loss=jaxnn.squared_error):
    net = jaxnn.serial(jaxnn.Linear(4, 2), jaxnn.serial(jaxnn.tanh, layer), jaxnn.sigmoid)
    return locate_nonfinite(net, loss, net.init(jax.random.key(0)), *batch())


def spoiled(value):
    return lambda array: array.at[2, 1].set(value)


def test_nothing_is_found_where_all_is_finite():
    assert located(jaxnn.relu) is None


@pytest.mark.parametrize(
    ("part", "quantity"),
    [
        ("forward", "output"),
        ("saved", "residual field 'exponential'"),
        ("dx", "input gradient"),
    ],
)
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_layer_and_the_quantity_are_named(part, quantity, value):
    found = located(broken_layer(**{part: spoiled(value)}))
    assert found[:3] == (quantity, "layer 1.1", (2, 1))
    assert str(found.value) == str(float(value))


def test_a_gradient_leaf_is_named():
    found = located(broken_layer(dparams=lambda dy: {"w": jnp.array([0, jnp.nan])}))
    assert found[:3] == ("gradient leaf ['w']", "layer 1.1", (1,))


def test_the_op_is_named():
    @jaxnn.op
    def log(x):
        return jnp.log(x)

    @log.forward
    def _(x):
        return jnp.log(x), Saved(x)

    @log.backward
    def _(residuals, dy):
        return (dy / residuals.exponential,)

    found = located(log)
    assert str(found) == (
        f"the output of layer 1.1, log, is nan at index {found.index}; "
        "everything before it is finite"
    )


class Shell(BuiltLayer):
    """A layer that is built of others."""

    net = jaxnn.serial(jaxnn.relu, broken_layer(lambda x: x / 0.0))


def test_a_layer_that_is_built_of_others_is_taken_apart():
    found = located(Shell())
    assert found.place == "layer 1.1.1"
    assert found.quantity == "output"


def test_a_nan_goes_before_an_infinity():
    found = located(broken_layer(lambda x: x.at[0, 0].set(jnp.inf).at[2, 0].set(jnp.nan)))
    assert found.index == (2, 0)


def test_a_nonfinite_argument_is_named():
    net = jaxnn.mlp((4, 2))
    params, (x, target) = net.init(jax.random.key(0)), batch()
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), params)
    find = jax.tree_util.Partial(locate_nonfinite, net, jaxnn.squared_error)
    assert str(find(broken, x, target)) == "params[0]['b'] is nan at index (0,), as it was given"
    assert find(params, x.at[1, 2].set(jnp.inf), target)[:3] == ("x", "", (1, 2))
    assert find(params, x, target.at[0, 1].set(jnp.nan))[:3] == ("target", "", (0, 1))


@pytest.mark.parametrize("quantity", ["value", "gradient"])
def test_the_loss_is_named(quantity):
    @jaxnn.op
    def loss(prediction, target):
        return prediction[:, 0]

    @loss.forward
    def _(prediction, target):
        y = prediction[:, 0]
        return (y.at[1].set(jnp.inf) if quantity == "value" else y), Saved(prediction)

    @loss.backward
    def _(residuals, dy):
        return jnp.full_like(residuals.exponential, jnp.nan), None

    found = located(jaxnn.relu, loss)
    assert found.quantity == quantity
    assert found.place == "loss"


def test_labels_and_a_single_op_are_fine():
    x, _ = batch()
    found = locate_nonfinite(jaxnn.tanh, jaxnn.softmax_cross_entropy, (), x, jnp.array([0, 1, 2]))
    assert found is None


def test_the_key_reaches_each_layer_as_in_training():
    keys = []

    def listening():
        def fwd(params, x, key):
            keys.append(key)
            return x, ()

        return jaxnn.layer(
            init=lambda key: {},
            apply=lambda params, x: x,
            fwd=fwd,
            bwd=lambda residuals, dy: ({}, dy),
        )

    net = jaxnn.serial(jaxnn.relu, jaxnn.serial(listening(), listening()))
    params, key, (x, _) = net.init(jax.random.key(0)), jax.random.key(1), batch()
    assert locate_nonfinite(net, jaxnn.squared_error, params, x, x, key) is None
    net.fwd(params, x, key)
    assert keys[:2] == keys[2:]
