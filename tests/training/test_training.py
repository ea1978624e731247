"""Training: updates, epochs, fit, and what they say when something is wrong."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn

NET = jaxnn.mlp((5, 6, 3))
CROSS_ENTROPY = jaxnn.softmax_cross_entropy
N = 23


def data(n=N, dtype=jnp.float32):
    x_key, t_key = jax.random.split(jax.random.key(7))
    return jax.random.normal(x_key, (n, 5), dtype), jax.random.randint(t_key, (n,), 0, 3)


def initial(dtype=jnp.float32):
    return jax.tree.map(lambda p: p.astype(dtype), NET.init(jax.random.key(0)))


def assert_same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sgd_update_has_the_bits_of_optax(wrap, dtype):
    params = initial(dtype)
    grads = jax.tree.map(lambda p: (p * 0.37 + 0.1).astype(dtype), params)
    optimizer = optax.sgd(0.1)

    def theirs(params, grads):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    ours = wrap(lambda params, grads: jaxnn.sgd_update(params, grads, 0.1))
    assert_same_bits(ours(params, grads), wrap(theirs)(params, grads))


def test_train_step_is_gradient_then_update():
    x, labels = data()
    params = initial()
    value, grads = jaxnn.value_and_grad(NET, CROSS_ENTROPY)(params, x, labels)
    step = jaxnn.train_step(NET, CROSS_ENTROPY, optax.sgd(0.1))
    new_params, _, step_value = step(params, optax.sgd(0.1).init(params), x, labels)
    np.testing.assert_allclose(step_value, value, rtol=1e-6)
    for new, expected in zip(
        jax.tree.leaves(new_params),
        jax.tree.leaves(jaxnn.sgd_update(params, grads, 0.1)),
        strict=True,
    ):
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-7)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(1e-2),
    "clipped adamw, cosine": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 50))
    ),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_epoch_is_its_steps(optimizer, reduction):
    """Against a plain loop over autodiff: each example once, a short last batch of its own."""
    x, labels = data(dtype=jnp.float64)
    batch_size, key = 5, jax.random.key(3)
    epoch = jaxnn.train_epoch(NET, CROSS_ENTROPY, optimizer, batch_size, reduction)
    start = initial(jnp.float64)
    params, _, value = epoch(start, optimizer.init(start), x, labels, key)

    order = jax.random.permutation(jax.random.split(key)[0], N)
    expected = initial(jnp.float64)
    state, losses = optimizer.init(expected), []

    def objective(params, x, labels):
        hidden = jaxnn.relu.definition(jaxnn.linear.definition(params[0], x))
        logits = jaxnn.linear.definition(params[2], hidden)
        loss = CROSS_ENTROPY.definition(logits, labels)
        return (loss.mean() if reduction == "mean" else loss.sum()), loss

    for i in range(0, N, batch_size):
        rows = order[i : i + batch_size]
        grads, batch_losses = jax.grad(objective, has_aux=True)(expected, x[rows], labels[rows])
        losses.append(batch_losses)
        updates, state = optimizer.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    losses = jnp.concatenate(losses)
    assert losses.size == N
    expected_value = losses.mean() if reduction == "mean" else losses.sum()
    np.testing.assert_allclose(value, expected_value, rtol=1e-10)
    for mine, true in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-8, atol=1e-12)


def test_an_epoch_donates_its_buffers():
    params = initial()
    optimizer = optax.sgd(0.1)
    epoch = jaxnn.train_epoch(NET, CROSS_ENTROPY, optimizer, 5)
    epoch(params, optimizer.init(params), *data(), jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_fit_learns_leaves_its_arguments_alone_and_repeats_itself():
    x, labels = data(200)
    labels = jnp.argmax(x[:, :3], axis=1)
    params = initial()
    before = jax.tree.map(jnp.copy, params)
    seen = []
    options = {
        "epochs": 30,
        "batch_size": 16,
        "learning_rate": 0.5,
        "validation_data": (x[:40], labels[:40]),
        "metrics": jaxnn.accuracy,
    }
    training = jaxnn.fit(
        *(NET, CROSS_ENTROPY, params, (x, labels)),
        **options,
        callbacks=lambda training: seen.append(training.epoch),
    )
    history = training.history
    assert_same_bits(params, before)
    assert seen == list(range(1, 31))
    names = ["loss", "accuracy", "validation_loss", "validation_accuracy", "seconds"]
    assert {name: len(column) for name, column in history.items()} == dict.fromkeys(names, 30)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["accuracy"][-1] > 0.9
    measured = jaxnn.evaluate(
        *(NET, CROSS_ENTROPY, training, options["validation_data"]), metrics=jaxnn.accuracy
    )
    assert history["validation_loss"][-1] == pytest.approx(measured["loss"])
    assert history["validation_accuracy"][-1] == pytest.approx(measured["accuracy"])
    again = jaxnn.fit(NET, CROSS_ENTROPY, params, (x, labels), **options)
    assert_same_bits(training.params, again.params)
    assert history["loss"] == again.history["loss"]
    other = jaxnn.fit(NET, CROSS_ENTROPY, params, (x, labels), **options, seed=1)
    assert not np.array_equal(other.params[0]["w"], training.params[0]["w"])


@pytest.mark.usefixtures("standard_promotion")
def test_fit_follows_a_schedule():
    x, labels = data()
    frozen = optax.piecewise_constant_schedule(0.1, {5: 0.0})
    options = {"batch_size": 5, "learning_rate": frozen}
    one = jaxnn.fit(NET, CROSS_ENTROPY, initial(), (x, labels), epochs=1, **options)
    three = jaxnn.fit(NET, CROSS_ENTROPY, initial(), (x, labels), epochs=3, **options)
    constant = jaxnn.fit(NET, CROSS_ENTROPY, initial(), (x, labels), epochs=1, batch_size=5)
    assert_same_bits(one.params, three.params)
    assert_same_bits(one.params, constant.params)


@pytest.mark.usefixtures("standard_promotion")
def test_fit_takes_any_optimizer_and_numpy_data():
    x, labels = data()
    training = jaxnn.fit(
        NET,
        CROSS_ENTROPY,
        initial(),
        (np.asarray(x), np.asarray(labels)),
        optimizer=optax.adam(1e-2),
        epochs=3,
        batch_size=23,
    )
    assert training.history["loss"][2] < training.history["loss"][0]


def test_fit_for_no_epochs_changes_nothing():
    training = jaxnn.fit(NET, CROSS_ENTROPY, initial(), data(), epochs=0, batch_size=5)
    assert_same_bits(training.params, initial())
    assert training.history == {"loss": [], "seconds": []}


def test_evaluate_goes_through_the_data_in_batches():
    x, labels = data()
    whole = jaxnn.evaluate(NET, CROSS_ENTROPY, initial(), (x, labels), metrics=jaxnn.accuracy)
    parts = jaxnn.evaluate(
        NET, CROSS_ENTROPY, initial(), (x, labels), metrics=jaxnn.accuracy, batch_size=5
    )
    assert parts == pytest.approx(whole, rel=1e-6)
    total = jaxnn.evaluate(NET, CROSS_ENTROPY, initial(), (x, labels), reduction="sum")
    assert total["loss"] == pytest.approx(whole["loss"] * N, rel=1e-6)


def test_accuracy_takes_labels_and_distributions():
    prediction = jnp.array([[0.1, 0.9], [0.8, 0.2]])
    assert jaxnn.accuracy(prediction, jnp.array([1, 1])).tolist() == [1.0, 0.0]
    assert jaxnn.accuracy(prediction, jnp.array([[0.4, 0.6], [0.9, 0.1]])).tolist() == [1.0, 1.0]


def test_a_diverging_run_stops_and_hands_back_finite_parameters():
    x, _ = data()
    target = 1e4 * x[:, :3]
    with pytest.raises(jaxnn.NonFiniteError, match=r"epoch \d+, step \d+.*params\[") as caught:
        jaxnn.fit(NET, jaxnn.squared_error, initial(), (x, target), batch_size=5, learning_rate=1e3)
    error = caught.value
    assert error.epoch >= 1
    assert 1 <= error.step <= 5
    assert error.leaf.startswith("[")
    assert jax.tree.structure(error.training.params) == jax.tree.structure(initial())
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(error.training.params))
    assert len(error.training.history["loss"]) == error.epoch - 1


@pytest.mark.usefixtures("standard_promotion")
def test_the_step_that_diverged_is_the_one_named():
    """A learning rate that explodes at the ninth update: epoch 2, step 4 of 5."""
    x, labels = data()
    schedule = optax.piecewise_constant_schedule(0.1, {8: 1e38})
    with pytest.raises(jaxnn.NonFiniteError) as caught:
        jaxnn.fit(NET, CROSS_ENTROPY, initial(), (x, labels), batch_size=5, learning_rate=schedule)
    assert (caught.value.epoch, caught.value.step) in {(2, 4), (2, 5)}
    assert len(caught.value.training.history["loss"]) == 1


X, LABELS_ = data()
OPTIMIZER = optax.sgd(0.1)


def fit(**changes):
    arguments = {"net": NET, "loss": CROSS_ENTROPY, "params": initial(), "data": (X, LABELS_)}
    arguments |= {"batch_size": 5} | changes
    return jaxnn.fit(**arguments)


BAD = [
    (lambda: fit(data=(X[:0], LABELS_[:0])), ValueError, "there are no examples"),
    (lambda: fit(data=X), TypeError, r"data must be a pair \(x, target\)"),
    (lambda: fit(data=(X, LABELS_[:5])), ValueError, "the same number of examples"),
    (lambda: fit(batch_size=0), ValueError, "batch_size must be a positive integer, got 0"),
    (lambda: fit(batch_size=24), ValueError, "batch_size is 24 but there are only 23 examples"),
    (lambda: fit(batch_size=2.5), ValueError, "batch_size must be a positive integer, got 2.5"),
    (lambda: fit(epochs=-1), ValueError, "epochs must be an integer of at least 0, got -1"),
    (
        lambda: fit(data=(X.at[3, 1].set(jnp.nan), LABELS_)),
        ValueError,
        r"x of data holds nan at index \[3, 1\]",
    ),
    (
        lambda: fit(validation_data=(X.at[2, 0].set(jnp.inf), LABELS_)),
        ValueError,
        r"x of validation_data holds inf at index \[2, 0\]",
    ),
    (lambda: fit(data=(X, LABELS_ + 1)), ValueError, "label 3 is out of range; with 3 classes"),
    (lambda: fit(data=(X[:, :4], LABELS_)), ValueError, "last axis of x must be 5"),
    (lambda: fit(loss=jaxnn.relu), TypeError, r"loss must be an op \(prediction, target\)"),
    (lambda: fit(net=jnp.tanh), TypeError, "expected a Layer or an op"),
    (lambda: fit(reduction="average"), ValueError, "reduction must be 'mean', 'sum', "),
    (
        lambda: fit(loss=jaxnn.squared_error, data=(X, X[:, 0])),
        ValueError,
        "they must be equal, nothing is broadcast",
    ),
    (
        lambda: jaxnn.value_and_grad(NET, CROSS_ENTROPY)(initial(), X[:0], LABELS_[:0]),
        ValueError,
        "the mean over an empty batch is not defined",
    ),
    (
        lambda: jaxnn.value_and_grad(jaxnn.relu, jaxnn.squared_error)((), X[:, 0], X[:, 0]),
        ValueError,
        r"losses of shape \(\) for a batch of 23 examples.*shape \(N, 1\)",
    ),
    (
        lambda: jaxnn.train_epoch(NET, CROSS_ENTROPY, OPTIMIZER, 24)(
            initial(), OPTIMIZER.init(initial()), X, LABELS_, jax.random.key(0)
        ),
        ValueError,
        "batch_size is 24 but there are only 23 examples",
    ),
    (
        lambda: jaxnn.train_step(NET, CROSS_ENTROPY, OPTIMIZER)(None, (), X, LABELS_),
        TypeError,
        "train_step: params must be a tree of arrays, got None",
    ),
    (
        lambda: jaxnn.train_step(NET, CROSS_ENTROPY, OPTIMIZER)(initial(), 0.0, X, LABELS_),
        ValueError,
        "opt_state must be the state of this optimizer, such as",
    ),
    (
        lambda: jaxnn.value_and_grad(NET, CROSS_ENTROPY)(
            initial(), X, LABELS_, None, jnp.ones(23, complex)
        ),
        TypeError,
        "weights must hold real numbers, got complex",
    ),
    (
        lambda: jaxnn.predict(NET, jax.tree.map(lambda p: p.astype(complex), initial()), X),
        TypeError,
        r"predict: params.* must hold real numbers, got complex",
    ),
    (
        lambda: jaxnn.predict(NET, initial(), X, state=jnp.nan),
        ValueError,
        "predict: the network has no state, but state has arrays",
    ),
    (
        lambda: jaxnn.train_epoch(NET, CROSS_ENTROPY, OPTIMIZER, 5)(
            initial(), OPTIMIZER.init(initial()), None, LABELS_, jax.random.key(0)
        ),
        ValueError,
        r"x is \(\) and target is .* the same number of examples",
    ),
    (
        lambda: jaxnn.evaluate(NET, CROSS_ENTROPY, initial(), (X[:0], LABELS_[:0])),
        ValueError,
        "there are no examples",
    ),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_tracing_a_gradient_takes_few_calls_of_this_library():
    """Of a two-layer network; without the run-time checks of annotations, in a fresh process."""
    program = """
import sys, pathlib, jax, jax.numpy as jnp, jaxnn
folder = str(pathlib.Path(jaxnn.__file__).parent)
net = jaxnn.serial(jaxnn.Linear(5, 6), jaxnn.relu, jaxnn.Linear(6, 3))
params, x, labels = net.init(jax.random.key(0)), jnp.ones((7, 5)), jnp.zeros(7, int)
gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
jax.eval_shape(gradient, params, x, labels)
calls = []
def count(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(folder):
        calls.append(frame.f_code.co_name)
traced = jax.jit(lambda *args: gradient(*args))
sys.setprofile(count)
traced.trace(params, x, labels)
sys.setprofile(None)
print(len(calls))
"""
    counted = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(counted.stdout) <= 110, counted.stderr  # a third of them for the options of the loss
