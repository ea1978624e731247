"""Metrics against NumPy, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn

RANDOM = np.random.default_rng(2)
N, K = 29, 7
PREDICTION = RANDOM.normal(size=(N, K)).astype(np.float32)
PREDICTION[3] = PREDICTION[3, 0]  # all equal: the first counts as largest
LABELS = RANDOM.integers(0, K, N)
IGNORED = -1
METRICS = [jaxnn.accuracy, jaxnn.top_k_accuracy, jaxnn.confusion_matrix]


@pytest.mark.parametrize("k", [1, 3, K])
def test_top_k(k):
    order = np.argsort(-PREDICTION, axis=1, kind="stable")[:, :k]
    expected = (order == LABELS[:, None]).any(1)
    found = jaxnn.top_k_accuracy(jnp.asarray(PREDICTION), jnp.asarray(LABELS), k=k)
    np.testing.assert_array_equal(found, expected)
    if k == 1:
        ours = jaxnn.accuracy(jnp.asarray(PREDICTION), jnp.asarray(LABELS))
        np.testing.assert_array_equal(found, ours)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_classes_along_another_axis_and_narrow_labels(dtype):
    labels = jnp.asarray(LABELS.astype(dtype))
    for metric in METRICS:
        along_last = metric(jnp.asarray(PREDICTION), labels)
        along_first = metric(jnp.asarray(PREDICTION.T), labels, axis=0)
        np.testing.assert_array_equal(along_first, along_last)


def test_confusion_counts_each_pair_of_classes():
    labels = LABELS.copy()
    labels[[1, 5]] = IGNORED
    labels[2] = K  # no class at all
    expected = np.zeros((K, K), int)
    for label, row in zip(labels, PREDICTION, strict=True):
        if 0 <= label < K:
            expected[label, row.argmax()] += 1
    found = jaxnn.confusion_matrix(jnp.asarray(PREDICTION), jnp.asarray(labels))
    np.testing.assert_array_equal(found, expected)
    others = jaxnn.confusion_matrix(
        jnp.asarray(PREDICTION), jnp.asarray(LABELS), ignore_label=int(LABELS[0])
    )
    assert others[LABELS[0]].sum() == 0
    assert others.sum() == (LABELS[0] != LABELS).sum()


def test_rows_that_a_metric_ignores_are_left_out_of_its_mean():
    labels = LABELS.copy()
    labels[::3] = IGNORED
    measured = jaxnn.evaluate(
        jaxnn.serial(),
        jaxnn.softmax_cross_entropy.bind(ignore_label=IGNORED),
        (),
        (PREDICTION, labels),
        metrics={
            "accuracy": jaxnn.accuracy,
            "own": lambda *args: jaxnn.accuracy(*args, ignore_label=IGNORED),
        },
        batch_size=10,
    )
    counted = labels != IGNORED
    expected = (PREDICTION.argmax(1) == labels)[counted].mean()
    assert measured["accuracy"] == pytest.approx(expected)
    assert measured["own"] == pytest.approx(expected)


BAD = [
    (PREDICTION, LABELS[:, None], ValueError, r"target must be labels, shape \(29,\)"),
    (PREDICTION, LABELS[:-1], ValueError, r"target must be labels, shape \(29,\)"),
    (PREDICTION, LABELS.astype(np.float32), TypeError, "labels must be integers"),
    (PREDICTION, LABELS > 3, TypeError, "labels must be integers"),
    (PREDICTION.argmax(1), LABELS, TypeError, "prediction must be floating point"),
    (PREDICTION, LABELS.astype(str), TypeError, "target must be an array of numbers"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("prediction", "target", "error", "words"), BAD)
def test_bad_input_gets_one_clear_sentence(metric, prediction, target, error, words):
    with pytest.raises(error, match=words):
        metric(prediction, target)
    for axis in (2, -3, None, 1.0, True):
        with pytest.raises(ValueError, match="axis must be one of the 2 axes"):
            metric(jnp.asarray(PREDICTION), jnp.asarray(LABELS), axis=axis)
    for label in (0.5, "0", (1,), True):
        with pytest.raises(TypeError, match="option ignore_label must be an integer"):
            metric(jnp.asarray(PREDICTION), jnp.asarray(LABELS), ignore_label=label)
    for k in (0, K + 1, 2.0, True):
        with pytest.raises(ValueError, match="k must be between 1 and the 7 classes"):
            jaxnn.top_k_accuracy(jnp.asarray(PREDICTION), jnp.asarray(LABELS), k=k)


def test_predict_is_apply_in_parts():
    net = jaxnn.mlp((5, 6, 3))
    x = RANDOM.normal(size=(N, 5))
    params = net.init(jnp.zeros(2, jnp.uint32))
    np.testing.assert_allclose(
        jaxnn.predict(net, params, x, batch_size=8), net.apply(params, jnp.asarray(x)), rtol=1e-12
    )
    for bad, words in ((x[:0], "no examples"), (np.float32(3), "first axis"), ((), "first axis")):
        with pytest.raises(ValueError, match=words):
            jaxnn.predict(net, params, bad)


@pytest.mark.usefixtures("unannotated")
def test_a_validation_split_holds_out_each_example_once():
    x, weights = np.arange(N)[:, None], np.arange(N) + 100
    kept, held_out = jaxnn.validation_split((x, {"a": x + 1}, weights), 0.3, seed=4)
    assert [len(part) for part in (kept, held_out)] == [3, 3]
    assert len(held_out[0]) == round(0.3 * N)
    for a, tree, w in (kept, held_out):
        np.testing.assert_array_equal(tree["a"], a + 1)
        np.testing.assert_array_equal(w, a[:, 0] + 100)
    assert sorted([*kept[0][:, 0], *held_out[0][:, 0]]) == list(range(N))
    again = jaxnn.validation_split((x, x), 0.3, seed=4)
    np.testing.assert_array_equal(again[1][0], held_out[0])
    other = jaxnn.validation_split((x, x), 0.3, seed=5)
    assert not np.array_equal(other[1][0], held_out[0])
    for fraction in (0.0, 1.0, 1, True, "half", float("nan")):
        with pytest.raises(ValueError, match="fraction must be a number between 0 and 1"):
            jaxnn.validation_split((x, x), fraction)
    with pytest.raises(ValueError, match="at least two examples"):
        jaxnn.validation_split((x[:1], x[:1]), 0.5)
    with pytest.raises(TypeError, match="x of data must be an array or a tree of arrays, got None"):
        jaxnn.validation_split((None, x), 0.5)
    with pytest.raises(TypeError, match="target of data must hold real numbers, got complex"):
        jaxnn.validation_split((x, x + 1j), 0.5)


@pytest.mark.usefixtures("unannotated")
def test_sgd_update_neither_broadcasts_nor_promotes():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    for grads, words in (
        ({"w": jnp.ones(3, jnp.bfloat16)}, r"params\['w'\] is bfloat16\[2, 3\] and its gradient"),
        ({"w": jnp.ones((2, 3), jnp.float32)}, r"gradient float32\[2, 3\]"),
        ({"v": jnp.ones((2, 3), jnp.bfloat16)}, "must be the same tree"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxnn.sgd_update(params, grads, 0.1)
    for rate in (jnp.ones(3), float("nan"), "fast"):
        with pytest.raises(TypeError, match="sgd_update: learning_rate must be"):
            jaxnn.sgd_update(params, params, rate)
    rate = jnp.float32(0.5)
    assert jaxnn.sgd_update(params, params, rate)["w"].dtype == jnp.bfloat16
