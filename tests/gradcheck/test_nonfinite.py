"""The first NaN or infinity of a training step is found where it arises."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn.gradcheck.nonfinite import locate_nonfinite
from jaxnn.layer import Layer

X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
TARGET = jnp.zeros((3, 2))


class Kept(NamedTuple):
    exponential: jax.Array


def broken_layer(forward=lambda x: x, kept=lambda x: x, dparams=lambda dy: {}, dx=lambda dy: dy):
    """The identity with one of its parts replaced."""
    return Layer(
        init=lambda key: {},
        apply=lambda params, x: forward(x),
        fwd=lambda params, x, key=None: (forward(x), Kept(kept(x))),
        bwd=lambda residuals, dy: (dparams(dy), dx(dy)),
    )


def located(layer, loss=jaxnn.squared_error, x=X, target=TARGET):
    net = jaxnn.serial(jaxnn.Linear(4, 2), jaxnn.serial(jaxnn.tanh, layer), jaxnn.sigmoid)
    return locate_nonfinite(net, loss, net.init(jax.random.key(0)), x, target)


def spoiled(value):
    return lambda array: array.at[2, 1].set(value)


def test_nothing_is_found_where_all_is_finite():
    assert located(jaxnn.relu) is None


@pytest.mark.parametrize(
    ("part", "quantity"),
    [
        ("forward", "output"),
        ("kept", "residual field 'exponential'"),
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
    logarithm = jaxnn.Op(
        jnp.log,
        lambda x: (jnp.log(x), (x,)),
        lambda residuals, dy: (dy / residuals[0],),
        residual_bytes=lambda x: x.nbytes,
        check=lambda x: None,
    )
    found = located(logarithm)
    assert str(found) == (
        f"the output of layer 1.1, <op log(x)>, is nan at index {found.index}; "
        "everything before it is finite"
    )


def test_a_nan_goes_before_an_infinity():
    found = located(broken_layer(lambda x: x.at[0, 0].set(jnp.inf).at[2, 0].set(jnp.nan)))
    assert found.index == (2, 0)


def test_what_was_given_is_named():
    net = jaxnn.mlp((4, 2))
    params = net.init(jax.random.key(0))
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), params)
    find = jax.tree_util.Partial(locate_nonfinite, net, jaxnn.squared_error)
    assert str(find(broken, X, TARGET)) == "params[0]['b'] is nan at index (0,), as it was given"
    assert find(params, X.at[1, 2].set(jnp.inf), TARGET)[:3] == ("x", "", (1, 2))
    assert find(params, X, TARGET.at[0, 1].set(jnp.nan))[:3] == ("target", "", (0, 1))


@pytest.mark.parametrize(("part", "quantity"), [(0, "value"), (1, "gradient")])
def test_the_loss_is_named(part, quantity):
    def fwd(prediction, target):
        y = prediction[:, 0]
        return (y.at[1].set(jnp.inf) if part == 0 else y), (prediction,)

    def bwd(residuals, dy):
        (prediction,) = residuals
        return (jnp.full_like(prediction, jnp.nan) if part == 1 else prediction), None

    loss = jaxnn.Op(
        lambda prediction, target: prediction[:, 0],
        fwd,
        bwd,
        residual_bytes=lambda *args: 0,
        check=lambda *args: None,
    )
    found = located(jaxnn.relu, loss)
    assert found.quantity == quantity
    assert found.place == str(loss)


def test_labels_and_a_single_op_are_fine():
    found = locate_nonfinite(jaxnn.tanh, jaxnn.softmax_cross_entropy, (), X, jnp.array([0, 1, 2]))
    assert found is None


def test_the_key_reaches_each_layer_as_in_training():
    keys = []

    def layer():
        def fwd(params, x, key=None):
            keys.append(key)
            return x, ()

        return broken_layer()._replace(fwd=fwd, bwd=lambda residuals, dy: ({}, dy))

    net = jaxnn.serial(jaxnn.relu, jaxnn.serial(layer(), layer()))
    params, key = net.init(jax.random.key(0)), jax.random.key(1)
    assert locate_nonfinite(net, jaxnn.squared_error, params, X, X, key) is None
    net.fwd(params, X, key)
    assert keys[:2] == keys[2:]
