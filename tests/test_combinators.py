"""Layers made of layers, with and without state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn.gradcheck import check

X = jax.random.normal(jax.random.key(1), (7, 5))
FIVE = jaxnn.serial(jaxnn.Linear(5, 5), jaxnn.tanh)
LAYERS = {
    "residual": jaxnn.residual(FIVE),
    "residual of an op": jaxnn.residual(jaxnn.tanh),
    "parallel, sum": jaxnn.parallel(FIVE, jaxnn.relu, FIVE),
    "parallel, concatenate": jaxnn.parallel(
        jaxnn.Linear(5, 3), jaxnn.identity, FIVE, combine="concatenate"
    ),
    "batch first": jaxnn.batch_first(jaxnn.serial(jaxnn.Linear(7, 3), jaxnn.softmax)),
    "nested": jaxnn.serial(jaxnn.residual(jaxnn.parallel(FIVE, jaxnn.tanh)), jaxnn.Linear(5, 3)),
}


def mean_subtracted(momentum=0.5, bwd=lambda saved, dy: ((), dy - dy.mean(0, keepdims=True))):
    """A layer y = x − mean of the batch, which remembers the mean for inference."""

    def fwd(params, x, key=None):
        mean = x.mean(0)
        return x - mean[None], mean

    return jaxnn.layer(
        init=lambda key: (),
        apply=lambda params, x, state: x - state["mean"][None],
        fwd=fwd,
        bwd=bwd,
        init_state=lambda: {"mean": jnp.zeros(5)},
        update_state=lambda state, mean: {
            "mean": state["mean"] + momentum * (mean - state["mean"])
        },
    )


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_backward_is_that_of_the_definitions(layer):
    check(layer, layer.init(jax.random.key(0)), X, laws=("value", "gradient")).raise_if_failed()


def test_the_parallel_sum_is_a_sum_and_concatenation_keeps_the_order():
    double = jaxnn.parallel(jaxnn.identity, jaxnn.identity)
    np.testing.assert_array_equal(double.apply(((), ()), X), 2 * X)
    both = jaxnn.parallel(jaxnn.identity, jaxnn.relu, combine="concatenate")
    np.testing.assert_array_equal(both.apply(((), ()), X), jnp.concatenate([X, jaxnn.relu(X)], 1))


def test_the_backward_may_be_compiled_on_its_own():
    layer = LAYERS["parallel, concatenate"]
    params = layer.init(jax.random.key(0))
    y, residuals = jax.jit(layer.fwd)(params, X)
    apart = jax.jit(layer.bwd)(residuals, y)
    together = layer.bwd(layer.fwd(params, X)[1], y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), apart, together)


def test_a_layer_with_state_is_checked_in_its_training_form():
    layer = mean_subtracted()
    check(layer, (), X, laws=("value", "gradient")).raise_if_failed()
    wrong = mean_subtracted(bwd=lambda residuals, dy: ((), dy))
    assert not check(wrong, (), X, laws=("gradient",)).ok


BAD = [
    (lambda: jaxnn.residual(jnp.tanh), TypeError, "expected a Layer or an op"),
    (
        lambda: jaxnn.residual(jaxnn.Linear(5, 3)).apply(
            jaxnn.Linear(5, 3).init(jax.random.key(0)), X
        ),
        ValueError,
        r"residual: the layer gives shape \(7, 3\) for an input of shape \(7, 5\)",
    ),
    (lambda: jaxnn.parallel(), ValueError, "parallel: there is no layer"),
    (
        lambda: jaxnn.parallel(jaxnn.relu, combine="product"),
        ValueError,
        "combine must be 'sum', 'concatenate' or None",
    ),
    (
        lambda: jaxnn.parallel(jaxnn.relu, jaxnn.relu).apply(((),), X),
        ValueError,
        "parallel: params must be a tuple with one entry for each of 2 layers",
    ),
    (
        lambda: jaxnn.parallel(jaxnn.identity, jaxnn.serial(jaxnn.Linear(5, 3))).apply(
            ((), (jaxnn.Linear(5, 3).init(jax.random.key(0)),)), X
        ),
        ValueError,
        r"the outputs have the shapes \[\(7, 5\), \(7, 3\)\], which cannot be combined by 'sum'",
    ),
    (
        lambda: jaxnn.serial(jaxnn.relu).fwd(None, X),
        ValueError,
        "serial: params must be a tuple with one entry for each of 1 layers, got PyTreeDef",
    ),
    (
        lambda: jaxnn.shared(jaxnn.relu).apply((), None),
        ValueError,
        "shared: x must be a tuple with inputs",
    ),
    (
        lambda: backward(jaxnn.shared(jaxnn.relu), (X, X), (X,)),
        ValueError,
        "shared: dy must be a tuple with one entry for each of 2 inputs",
    ),
    (
        lambda: backward(jaxnn.each(jaxnn.relu, jaxnn.relu), (X, X), X),
        ValueError,
        "each: dy must be a tuple with one entry for each of 2 layers",
    ),
    (
        lambda: backward(jaxnn.pick(1, 0), (X, X), (X, X[:1])),
        ValueError,
        r"pick: dy must hold floating-point .* output, \(7, 5\), got float64\[1, 5\]",
    ),
    (
        lambda: backward(jaxnn.parallel(jaxnn.relu, jaxnn.relu, combine="concatenate"), X, X),
        ValueError,
        r"parallel: dy must be an array whose last axis is 10, .* got float64\[7, 5\]",
    ),
    (
        lambda: jaxnn.batch_first(jaxnn.RNN(5, 3)).apply({}, None),
        ValueError,
        r"batch_first: x must be an array \(N, T, …\), got NoneType",
    ),
]


def backward(net, x, dy):
    params = tuple(() for _ in getattr(net, "layers", ()))
    return net.bwd(net.fwd(params, x)[1], dy)


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
@pytest.mark.usefixtures("unannotated")
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()


NETS = {
    "serial": jaxnn.serial(mean_subtracted(), jaxnn.Linear(5, 3)),
    "inside others": jaxnn.serial(
        jaxnn.residual(jaxnn.parallel(jaxnn.tanh, jaxnn.serial(mean_subtracted()))),
        jaxnn.Linear(5, 3),
    ),
}


def means(state):
    return jax.tree.leaves(state)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_the_state_is_carried_through_step_epoch_and_fit(net):
    params, state, optimizer = net.init(jax.random.key(0)), net.init_state(), optax.sgd(0.1)
    labels = jnp.arange(7) % 3
    data = X, labels
    value, grads, after = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)(
        params, state, X, labels
    )
    np.testing.assert_allclose(means(after)[0], 0.5 * X.mean(0))
    assert jax.tree.structure(grads) == jax.tree.structure(params)

    step = jaxnn.train_step(net, jaxnn.softmax_cross_entropy, optimizer)
    stepped, _, once, step_value = step(params, optimizer.init(params), state, X, labels)
    np.testing.assert_allclose(means(once)[0], 0.5 * X.mean(0))
    assert step_value == pytest.approx(value)
    np.testing.assert_allclose(stepped[-1]["b"], params[-1]["b"] - 0.1 * grads[-1]["b"], rtol=1e-12)

    loss = jaxnn.softmax_cross_entropy
    training = jaxnn.fit(net, loss, params, data, epochs=2, validation_data=data)
    np.testing.assert_allclose(means(training.state)[0], 0.75 * X.mean(0))
    assert jax.tree.structure(training.params) == jax.tree.structure(params)
    value = jaxnn.evaluate(net, loss, training, data)["loss"]
    assert value == pytest.approx(training.history["validation_loss"][-1])
    other = jaxnn.evaluate(net, loss, training.params, data, state=state)["loss"]
    assert abs(value - other) > 1e-6


@pytest.mark.usefixtures("standard_promotion")
def test_weight_decay_does_not_touch_the_state():
    net, optimizer = NETS["serial"], optax.adamw(0.1, weight_decay=0.5)
    params, state = net.init(jax.random.key(0)), ({"mean": 3 * jnp.ones(5)}, ())
    centred = X - X.mean(0, keepdims=True) + 3
    step = jaxnn.train_step(net, jaxnn.softmax_cross_entropy, optimizer)
    _, _, state, _ = step(params, optimizer.init(params), state, centred, jnp.arange(7) % 3)
    np.testing.assert_allclose(means(state)[0], 3 * np.ones(5))


def test_the_callback_is_given_the_state():
    seen = []
    net = NETS["serial"]
    jaxnn.fit(
        net,
        jaxnn.softmax_cross_entropy,
        net.init(jax.random.key(0)),
        (X, jnp.arange(7) % 3),
        epochs=2,
        callbacks=lambda training: seen.append((training.epoch, means(training.state)[0])),
    )
    assert [epoch for epoch, _ in seen] == [1, 2]
    np.testing.assert_allclose(seen[0][1], 0.5 * X.mean(0))
