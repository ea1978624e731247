"""Reductions: each one's value and gradient against the formula it stands for, by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn

NET = jaxnn.Linear(5, 3)
IGNORED = -1
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((23, 5))
LABELS = np.where(RANDOM.random(23) < 0.3, IGNORED, RANDOM.integers(0, 3, 23))
WEIGHTS = RANDOM.uniform(0.5, 2.0, 23)
CLASS_WEIGHTS = np.array([0.5, 2.0, 3.0])
TARGET = RANDOM.standard_normal((23, 3))
LOSS = jaxnn.softmax_cross_entropy.bind(ignore_label=IGNORED, class_weights=CLASS_WEIGHTS)


def params():
    return jax.tree.map(lambda p: p.astype(float), NET.init(jax.random.key(0)))


def labelled(params, reduction, x, labels, weights):
    """The loss of labels with class weights as PyTorch's CrossEntropyLoss reduces it."""
    log_p = jax.nn.log_softmax(x @ params["w"] + params["b"][None])
    counts = jnp.where(labels == IGNORED, 0, jnp.asarray(CLASS_WEIGHTS)[labels])
    losses = -counts * log_p[jnp.arange(len(x)), labels]
    n = {"mean": len(x), "sum": 1, "weighted_mean": jnp.sum(weights * counts)}
    n["element_mean"] = 3 * len(x)
    return jnp.sum(weights * losses) / n[reduction]


def squared(params, reduction, x, target, weights):
    losses = jnp.sum((x @ params["w"] + params["b"][None] - target) ** 2, -1)
    n = {"mean": len(x), "sum": 1, "weighted_mean": jnp.sum(weights), "element_mean": 3 * len(x)}
    return jnp.sum(weights * losses) / n[reduction]


CASES = {"labels": (LOSS, labelled, LABELS), "squares": (jaxnn.squared_error, squared, TARGET)}
REDUCTIONS = ["mean", "sum", "weighted_mean", "element_mean"]


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), a, b)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "sample weights"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_formula(case, reduction, weights):
    loss, formula, target = CASES[case]
    x, target = jnp.asarray(X), jnp.asarray(target)
    given = jnp.ones(23) if weights is None else jnp.asarray(weights)
    truth = jax.value_and_grad(formula)(params(), reduction, x, target, given)
    f = jaxnn.value_and_grad(NET, loss, reduction)
    close(f(params(), x, target, weights=weights), truth)
    data = (x, target) if weights is None else (x, target, weights)
    measured = jaxnn.evaluate(NET, loss, params(), data, reduction=reduction, batch_size=7)
    close(measured["loss"], float(truth[0]))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_epoch_reduces_as_if_its_minibatches_were_one_batch(reduction):
    """The value of an epoch that updates nothing; its minibatches differ in their weights."""
    f = jaxnn.value_and_grad(NET, LOSS, reduction)
    value, _ = f(params(), X, LABELS, weights=WEIGHTS)
    still = optax.sgd(0.0)
    epoch = jaxnn.train_epoch(NET, LOSS, still, 10, reduction)
    *_, of_epoch = epoch(params(), still.init(params()), X, LABELS, jax.random.key(1), WEIGHTS)
    close(of_epoch, value)


def test_steps_and_fit_take_weights():
    optimizer, x, labels = optax.sgd(0.1), jnp.asarray(X), jnp.asarray(LABELS)
    _, grads = jaxnn.value_and_grad(NET, LOSS, "weighted_mean")(params(), x, labels, None, WEIGHTS)
    expected = jaxnn.sgd_update(params(), grads, 0.1)
    step = jaxnn.train_step(NET, LOSS, optimizer, "weighted_mean")
    close(step(params(), optimizer.init(params()), x, labels, None, WEIGHTS)[0], expected)
    training = jaxnn.fit(
        *(NET, LOSS, params(), (X, LABELS, WEIGHTS)),
        epochs=1,
        batch_size=23,
        reduction="weighted_mean",
        metrics=jaxnn.accuracy,
        validation_data=(X, LABELS),
    )
    fitted, history = training.params, training.history
    close(fitted, expected)
    y = X @ np.asarray(fitted["w"]) + np.asarray(fitted["b"])
    counted = LABELS != IGNORED
    right = (y.argmax(-1) == LABELS)[counted]
    close(history["accuracy"], [(right * WEIGHTS[counted]).sum() / WEIGHTS[counted].sum()])
    close(history["validation_accuracy"], [right.mean()])


def test_a_batch_in_which_nothing_counts_has_loss_and_gradient_zero():
    f = jaxnn.value_and_grad(NET, LOSS, "weighted_mean")
    value, grads = f(params(), jnp.asarray(X), jnp.full(23, IGNORED))
    close((value, grads), jax.tree.map(jnp.zeros_like, (value, grads)))
    data = X, np.full(23, IGNORED)
    measured = jaxnn.evaluate(
        NET, LOSS, params(), data, metrics=jaxnn.accuracy, reduction="weighted_mean"
    )
    assert measured == {"loss": 0.0, "accuracy": 0.0}


def test_a_row_of_weight_zero_may_hold_anything():
    x = jnp.asarray(X).at[3].set(jnp.nan)
    weights = jnp.asarray(WEIGHTS).at[3].set(0)
    f = jaxnn.value_and_grad(jaxnn.serial(), jaxnn.squared_error)
    value, _ = f((), x, jnp.zeros_like(x), None, weights)
    assert jnp.isfinite(value)


def test_accuracy_omits_ignored_rows():
    prediction = jnp.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    labels = jnp.array([0, -1, 0], jnp.int8)
    counted = jaxnn.accuracy(prediction, labels, ignore_label=-1)
    np.testing.assert_array_equal(counted, [1, np.nan, 0])
    np.testing.assert_array_equal(
        jaxnn.accuracy(prediction.T[None], labels[None], axis=1, ignore_label=-1), [counted]
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_single_numbers_never_become_one_number(reduction):
    """Predictions (N,) where (N, 1) was meant: refused wherever they would be summed."""
    net = jaxnn.serial(NET, jaxnn.reshape.bind(shape=(-1,)))
    target, optimizer = jnp.ones(69), optax.sgd(0.1)
    words = r"a single number per example has shape \(N, 1\)"
    x = jnp.asarray(X)
    calls = [
        lambda: jaxnn.value_and_grad(net, jaxnn.squared_error, reduction)(
            (params(), ()), x, target
        ),
        lambda: jaxnn.train_step(net, jaxnn.squared_error, optimizer, reduction)(
            (params(), ()), optimizer.init((params(), ())), x, target
        ),
        lambda: jaxnn.evaluate(
            NET, jaxnn.squared_error, params(), (X, TARGET), reduction=reduction, metrics=jnp.vdot
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize(
    ("weights", "words"),
    [(jnp.ones(5), "weights have shape"), (jnp.ones(()), "weights have shape")],
)
def test_weights_that_do_not_fit_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        jaxnn.value_and_grad(NET, LOSS)(
            params(), jnp.asarray(X), jnp.asarray(LABELS), None, weights
        )
