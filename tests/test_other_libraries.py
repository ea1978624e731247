"""Ops inside other people's modules: the gradients are those of the native layers."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import optimistix
import pytest
from flax import nnx

import jaxnn
from jaxnn import gradcheck
from jaxnn.ops.losses.linear_softmax_cross_entropy import linear_softmax_cross_entropy

N, N_IN, HIDDEN, K = 7, 5, 6, 3

pytestmark = pytest.mark.usefixtures("standard_promotion")


class NnxNative(nnx.Module):
    """Two layers of Flax and the loss of optax."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(N_IN, HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, K, rngs=rngs)

    def loss(self, x, labels):
        logits = self.out(nnx.gelu(self.hidden(x)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class NnxByHand(NnxNative):
    """The same parameters, with the ops of jaxnn."""

    def loss(self, x, labels):
        h = jaxnn.gelu(jaxnn.linear(nnx_params(self.hidden), x))
        logits = jaxnn.linear(nnx_params(self.out), h)
        return jaxnn.softmax_cross_entropy(logits, labels).mean()


class NnxFused(NnxNative):
    """The same parameters, with the last layer and the loss in one."""

    def loss(self, x, labels):
        h = jaxnn.gelu(jaxnn.linear(nnx_params(self.hidden), x))
        return linear_softmax_cross_entropy(nnx_params(self.out), h, labels).mean()


class EquinoxNative(eqx.Module):
    """Two layers of Equinox, which takes one example at a time, and the loss of optax."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        self.hidden = eqx.nn.Linear(N_IN, HIDDEN, dtype=jnp.float32, key=keys[0])
        self.out = eqx.nn.Linear(HIDDEN, K, dtype=jnp.float32, key=keys[1])

    def loss(self, x, labels):
        logits = jax.vmap(lambda x: self.out(jax.nn.gelu(self.hidden(x))))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class EquinoxByHand(EquinoxNative):
    """The same parameters, with the ops of jaxnn, also one example at a time."""

    def loss(self, x, labels):
        def one(x, label):
            h = jaxnn.gelu(jaxnn.linear(equinox_params(self.hidden), x))
            logits = jaxnn.linear(equinox_params(self.out), h)
            return jaxnn.softmax_cross_entropy(logits, label)

        return jax.vmap(one)(x, labels).mean()


class EquinoxFused(EquinoxNative):
    """The same parameters, with the last layer and the loss in one."""

    def loss(self, x, labels):
        h = jaxnn.gelu(jaxnn.linear(equinox_params(self.hidden), x))
        return linear_softmax_cross_entropy(equinox_params(self.out), h, labels).mean()


def nnx_params(linear):
    return {"w": linear.kernel[...], "b": linear.bias[...]}


def equinox_params(linear):
    return {"w": linear.weight.T, "b": linear.bias}


def loss(model, x, labels):
    return model.loss(x, labels)


@pytest.fixture
def batch():
    x = jax.random.normal(jax.random.key(1), (N, N_IN), jnp.float32)
    return x, jax.random.randint(jax.random.key(2), (N,), 0, K)


def assert_same(mine, native, n_leaves):
    mine, native = jax.tree.leaves(mine), jax.tree.leaves(native)
    assert len(mine) == len(native) == n_leaves
    for a, b in zip(mine, native, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("module", [NnxByHand, NnxFused])
def test_flax_nnx(module, batch):
    gradient = nnx.jit(nnx.value_and_grad(loss))
    assert_same(gradient(module(), *batch), gradient(NnxNative(), *batch), 1 + 4)


def test_flax_nnx_under_jax_grad(batch):
    def gradient(model):
        graph, state = nnx.split(model)
        return jax.jit(jax.grad(lambda state: nnx.merge(graph, state).loss(*batch)))(state)

    assert_same(gradient(NnxByHand()), gradient(NnxNative()), 4)


@pytest.mark.parametrize("module", [EquinoxByHand, EquinoxFused])
def test_equinox(module, batch):
    gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    assert_same(gradient(module(), *batch), gradient(EquinoxNative(), *batch), 1 + 4)


def test_equinox_under_jax_grad(batch):
    gradient = jax.jit(jax.grad(loss))
    assert_same(gradient(EquinoxByHand(), *batch), gradient(EquinoxNative(), *batch), 4)


def residuals_of(kind):
    """`θ -> prediction − target` of a module with jaxnn ops or without, and the initial θ."""
    x = jax.random.normal(jax.random.key(1), (N, N_IN))
    target = jax.random.normal(jax.random.key(2), (N, K))
    if kind == "Flax":
        net = nnx.Sequential(
            nnx.Linear(N_IN, HIDDEN, rngs=nnx.Rngs(0), param_dtype=jnp.float64), jaxnn.tanh
        )
        graph, theta = nnx.split(net)
        hidden = lambda theta, x: nnx.merge(graph, theta)(x)  # noqa: E731
    else:
        net = eqx.nn.Linear(N_IN, HIDDEN, key=jax.random.key(0), dtype=jnp.float64)
        theta, static = eqx.partition(net, eqx.is_array)
        hidden = lambda theta, x: jaxnn.tanh(jax.vmap(eqx.combine(theta, static))(x))  # noqa: E731
    out = {"w": jax.random.normal(jax.random.key(3), (HIDDEN, K))}

    def function(theta, args=None):
        return jaxnn.layer_norm({}, jaxnn.linear(out, hidden(theta, x))) - target

    return function, theta


@pytest.mark.parametrize("kind", ["Flax", "Equinox"])
def test_second_order_methods_over_modules_with_ops(kind):
    """Levenberg–Marquardt, a Jacobian as an operator, and the Hessian, each as by autodiff."""
    function, theta = residuals_of(kind)
    flat, unflatten = jax.flatten_util.ravel_pytree(theta)

    def flat_function(flat, args=None):
        return function(unflatten(flat)).ravel()

    def found():
        solution = optimistix.least_squares(
            flat_function,
            optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-6),
            flat,
            max_steps=8,
            throw=False,
        )
        operator = lineax.JacobianLinearOperator(flat_function, flat)
        hessian = jax.jit(jax.hessian(lambda flat: (flat_function(flat) ** 2).sum()))(flat)
        return solution.value, operator.as_matrix(), operator.T.mv(jnp.ones(N * K)), hessian

    mine = found()
    with jaxnn.definitions():
        by_autodiff = found()
    for a, b in zip(mine, by_autodiff, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


LINEAR, LOSS = jaxnn.Linear(N_IN, K), jaxnn.softmax_cross_entropy
SGD = optax.sgd(0.1, momentum=0.9)

# Calls that take parameters, an input and labels; each gives a tree of arrays.
CALLS = {
    "op": lambda params, x, labels: jaxnn.linear(params, x),
    "op.fwd, op.bwd": lambda params, x, labels: jaxnn.linear.bwd(
        jaxnn.linear.fwd(params, x)[1], jnp.ones((N, K), jnp.float32)
    ),
    "cotangent": lambda params, x, labels: jaxnn.relu.bwd(jaxnn.relu.fwd(x)[1], x),
    "loss": lambda params, x, labels: jaxnn.linear_softmax_cross_entropy(params, x, labels),
    "definitions": lambda params, x, labels: jaxnn.linear.definition(params, x),
    "layer.apply": lambda params, x, labels: LINEAR.apply(params, x),
    "layer.fwd, layer.bwd": lambda params, x, labels: LINEAR.bwd(
        LINEAR.fwd(params, x)[1], jnp.ones((N, K), jnp.float32)
    ),
    "jax.grad": lambda params, x, labels: jax.grad(lambda p: jaxnn.linear(p, x).sum())(params),
    "value_and_grad": lambda *batch: jaxnn.value_and_grad(LINEAR, LOSS)(*batch),
    "clipped gradient": lambda *batch: jaxnn.per_example.value_and_clipped_grad(
        LINEAR, LOSS, clip=0.1
    )(*batch),
    "train_step": lambda params, x, labels: jaxnn.train_step(LINEAR, LOSS, SGD)(
        params, SGD.init(params), x, labels
    ),
    "train_epoch": lambda params, x, labels: jaxnn.train_epoch(LINEAR, LOSS, SGD, 4)(
        jax.tree.map(jnp.copy, params), SGD.init(params), x, labels, jax.random.key(0)
    ),
    "fit": lambda params, x, labels: jaxnn.fit(LINEAR, LOSS, params, (x, labels), epochs=2).params,
    "predict": lambda params, x, labels: jaxnn.predict(LINEAR, params, x),
    "convert_convention": lambda params, x, labels: jaxnn.convert_convention(params, "torch"),
    "params_to_torch": lambda params, x, labels: jaxnn.params_to_torch(LINEAR, params, {(): "fc"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_parameter_of_flax_stands_for_its_array(name, batch):
    x, labels = batch
    layer = nnx.Linear(N_IN, K, rngs=nnx.Rngs(0))
    as_params = {"w": layer.kernel, "b": layer.bias}, nnx.Param(x), nnx.Variable(labels)
    as_arrays = {"w": layer.kernel[...], "b": layer.bias[...]}, x, labels
    found, expected = CALLS[name](*as_params), CALLS[name](*as_arrays)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_has_the_tree_of_the_parameters(batch):
    net = jaxnn.serial(jaxnn.Linear(N_IN, K), jaxnn.relu)
    params = jax.tree.map(nnx.Param, net.init(jax.random.key(0)))
    _, grads = jaxnn.value_and_grad(net, LOSS)(params, *batch)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert isinstance(grads[0]["w"], nnx.Param)
    _, grads = jaxnn.value_and_grad(net, LOSS)(list(net.init(jax.random.key(0))), *batch)
    assert isinstance(grads[0]["w"], jax.Array)


def test_the_checker_takes_flax_parameters():
    net = jaxnn.serial(jaxnn.Linear(5, 4), jaxnn.tanh, jaxnn.Linear(4, 3))
    plain = net.init(jax.random.key(0))
    params = jax.tree.map(nnx.Param, plain)
    x, labels = jnp.ones((7, 5)), jnp.zeros(7, jnp.int32)
    assert gradcheck.check(jaxnn.linear, params[0], x).ok
    _, grads = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)(params, x, labels)
    assert gradcheck.diagnose(net, jaxnn.softmax_cross_entropy, params, x, labels, grads).ok
