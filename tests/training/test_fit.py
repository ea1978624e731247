"""`fit`: runs that stop and go on, streams, optimizers, callbacks."""

import signal
import threading
import time
from itertools import count, cycle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn
from jaxnn.training import fit as fit_module, sources

NET = jaxnn.serial(jaxnn.Linear(5, 6), jaxnn.BatchNorm(6), jaxnn.Dropout(0.3), jaxnn.Linear(6, 3))
LOSS = jaxnn.softmax_cross_entropy
N, BATCH = 23, 5
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(N, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, N).astype(np.int32)
SGD = optax.sgd(0.1)
MINIBATCHES = [(X[i : i + BATCH], LABELS[i : i + BATCH]) for i in range(0, N, BATCH)]

pytestmark = pytest.mark.usefixtures("standard_promotion", "listening")


@pytest.fixture
def listening():
    """Ctrl-C is not ignored, as it is by a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ADAM = optax.adam(optax.cosine_decay_schedule(1e-2, 100))


def fit(params=None, data=(X, LABELS), **options):
    options = {"optimizer": ADAM, "epochs": 3, "progress": False} | options
    if not sources_are_minibatches(data):
        options = {"batch_size": BATCH} | options
    params = NET.init(jax.random.key(0)) if params is None else params
    return jaxnn.fit(NET, LOSS, params, data, **options)


def sources_are_minibatches(data):
    return not isinstance(data, tuple)


def assert_same_run(found, expected):
    """Every bit of two runs, times aside."""
    for name in ("params", "opt_state", "state", "partial_loss"):
        left, right = getattr(found, name), getattr(expected, name)
        assert jax.tree.structure(left) == jax.tree.structure(right)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert (found.epoch, found.step) == (expected.epoch, expected.step)
    times_aside = [
        {name: column for name, column in run.history.items() if name != "seconds"}
        for run in (found, expected)
    ]
    assert times_aside[0] == times_aside[1]


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_dtype_promotion("standard"):
        return fit()


def test_an_epoch_of_fit_is_train_epoch(alone):
    optimizer = ADAM
    params, state = NET.init(jax.random.key(0)), NET.init_state()
    epoch = jaxnn.train_epoch(NET, LOSS, optimizer, BATCH)
    opt_state, losses = optimizer.init(params), []
    for number in (1, 2, 3):
        key = jax.random.fold_in(jax.random.key(0), number)
        params, opt_state, state, value = epoch(params, opt_state, state, X, LABELS, key)
        losses.append(float(value))
    assert alone.history["loss"] == pytest.approx(losses, rel=1e-6)
    for mine, theirs in zip(jax.tree.leaves(alone.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_one_and_two_epochs_are_three(alone):
    assert_same_run(fit(fit(epochs=1)), alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("data", [(X, LABELS), MINIBATCHES], ids=["arrays", "stream"])
def test_a_signal_ends_a_run_that_goes_on_with_the_same_bits(number, data, monkeypatch, tmp_path):
    monkeypatch.setattr(sources.Pace, "took", lambda *_: None)  # runs of one step
    monkeypatch.setattr(sources, "MINIBATCHES_OF_A_BLOCK", 1)
    expected, seen = fit(data=data), []
    asked = fit_module._asked

    def interrupted(*args):
        seen.append(args)
        if len(seen) == 7:
            signal.raise_signal(number)
        return asked(*args)

    monkeypatch.setattr(fit_module, "_asked", interrupted)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(jaxnn.TrainingInterrupted, match="after step 2 of epoch 2") as caught:
        fit(data=data, checkpoint=tmp_path)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert (caught.value.training.epoch, caught.value.training.step) == (1, 2)
    assert_same_run(fit(caught.value.training, data=data), expected)
    assert_same_run(fit(data=data, checkpoint=tmp_path), expected)


def test_a_signal_at_the_very_end_is_not_lost(alone, tmp_path):
    def late(training):
        if training.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(jaxnn.TrainingInterrupted, match=r"Ctrl-C ended training after epoch 3;"):
        fit(callbacks=late, checkpoint=tmp_path)
    assert_same_run(fit(checkpoint=tmp_path), alone)


def test_signals_are_left_alone_in_other_threads():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(epochs=1, optimizer=SGD)))
    thread.start()
    thread.join()
    assert results[0].epoch == 1


def test_a_checkpoint_is_written_in_the_middle_of_an_epoch(alone, monkeypatch, tmp_path):
    monkeypatch.setattr(sources.Pace, "took", lambda *_: None)
    saved = []
    save = fit_module.Checkpoint.save

    def failing(self, training, complete=False):
        save(self, training, complete)
        saved.append((training.epoch, training.step))
        if len(saved) == 8:
            raise OSError("no space left on device")

    monkeypatch.setattr(fit_module.Checkpoint, "save", failing)
    with pytest.raises(OSError, match="no space"):
        fit(checkpoint=tmp_path, checkpoint_seconds=0.0)
    assert saved[-1] == (1, 3)
    assert_same_run(fit(checkpoint=tmp_path), alone)
    assert_same_run(fit(checkpoint=tmp_path), alone)  # nothing is left to do


def test_a_checkpoint_of_another_run_is_refused(monkeypatch, tmp_path):
    fit(epochs=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="was started with another seed"):
        fit(seed=1, checkpoint=tmp_path)
    net = jaxnn.mlp((5, 3))
    with pytest.raises(ValueError, match="does not fit this network and this optimizer"):
        jaxnn.fit(net, LOSS, net.init(jax.random.key(0)), (X, LABELS), checkpoint=tmp_path)
    monkeypatch.setattr(fit_module, "_asked", lambda *_: ("Ctrl-C", False))
    with pytest.raises(jaxnn.TrainingInterrupted):
        fit(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="stopped within an epoch with batch_size 5"):
        fit(checkpoint=tmp_path, batch_size=4)


def test_a_run_that_a_callback_ended_stays_ended(tmp_path):
    def stop(training):
        return training.epoch == 2

    ended = fit(callbacks=[stop], checkpoint=tmp_path)
    assert ended.epoch == 2
    assert_same_run(fit(callbacks=[stop], checkpoint=tmp_path), ended)


def test_a_stream_is_moved_in_blocks_whatever_their_size(monkeypatch):
    expected = fit(data=MINIBATCHES)
    monkeypatch.setattr(sources, "MINIBATCHES_OF_A_BLOCK", 3)
    assert_same_run(fit(data=MINIBATCHES), expected)
    assert_same_run(fit(data=[tuple(map(jnp.asarray, m)) for m in MINIBATCHES]), expected)


def test_a_memory_map_gives_the_bits_of_the_arrays(alone, tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", X.dtype, X.shape)
    x[:] = X
    streamed = fit(data=(x, LABELS), metrics=jaxnn.accuracy)
    assert streamed.history["loss"] == pytest.approx(alone.history["loss"], rel=1e-6)
    assert len(streamed.history["accuracy"]) == 3
    for mine, theirs in zip(
        jax.tree.leaves(streamed.params), jax.tree.leaves(alone.params), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_large_arrays_of_the_host_stay_there(alone, monkeypatch):
    monkeypatch.setattr(fit_module, "_stays_on_host", lambda examples: True)
    streamed = fit()
    assert streamed.history["loss"] == pytest.approx(alone.history["loss"], rel=1e-6)


def test_a_generator_lasts_for_epochs_of_a_given_length():
    four = MINIBATCHES[:4]
    expected = fit(data=four)
    assert_same_run(fit(data=cycle(four), steps_per_epoch=4), expected)
    interrupted = fit(data=cycle(four), steps_per_epoch=4, epochs=1)
    assert_same_run(fit(interrupted, data=cycle(four), steps_per_epoch=4), expected)


def test_a_generator_gives_each_minibatch_to_one_step():
    six = [*MINIBATCHES, (X[:3], LABELS[:3])]
    expected = None
    for epoch in range(3):
        expected = fit(expected, data=six[2 * epoch : 2 * epoch + 2], epochs=epoch + 1)
    assert_same_run(fit(data=iter(six), steps_per_epoch=2), expected)
    half = fit(data=iter(six), steps_per_epoch=2, epochs=2)
    assert_same_run(fit(half, data=iter(six), steps_per_epoch=2), expected)


def test_a_stream_may_have_weights_and_trees_and_minibatches_of_other_libraries():
    class Loader:
        def __len__(self):
            return len(MINIBATCHES)

        def __iter__(self):
            for x, labels in MINIBATCHES:
                yield [Tensor(x), Tensor(labels), Tensor(np.ones(len(x), np.float32))]

    class Tensor:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    weighted = fit(data=Loader())
    assert weighted.history["loss"] == pytest.approx(fit(data=MINIBATCHES).history["loss"], 1e-6)


def test_fewer_examples_than_the_default_batch():
    net = jaxnn.mlp((5, 3))
    training = jaxnn.fit(net, LOSS, net.init(jax.random.key(0)), (X, LABELS), epochs=1)
    assert training.epoch == 1


class TestOptimizers:
    @pytest.mark.parametrize(
        "optimizer",
        [
            optax.lbfgs(),
            optax.polyak_sgd(),
            optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
            optax.MultiSteps(optax.adam(0.05), 2),
        ],
        ids=["lbfgs", "polyak_sgd", "reduce_on_plateau", "MultiSteps"],
    )
    def test_each_is_given_what_it_asks_for(self, optimizer):
        x = jnp.asarray(X)
        target = x @ jnp.ones((5, 1), jnp.float32)
        net = jaxnn.Linear(5, 1)
        training = jaxnn.fit(
            *(net, jaxnn.squared_error, net.init(jax.random.key(0)), (x, target)),
            optimizer=optimizer,
            epochs=20,
        )
        losses = training.history["loss"]
        assert losses[-1] < 0.3 * losses[0]

    def test_accumulation_is_the_larger_batch(self):
        """Two minibatches of 4 with MultiSteps are one of 8, over examples that divide evenly."""
        x, target = jnp.asarray(X[:16]), jnp.asarray(X[:16, :2])
        net = jaxnn.Linear(5, 2)
        start, loss = net.init(jax.random.key(0)), jaxnn.squared_error
        options = {"epochs": 2, "batch_size": 4}
        small = optax.MultiSteps(optax.sgd(0.1), 2)
        accumulated = jaxnn.fit(net, loss, start, (x, target), optimizer=small, **options)
        large = jaxnn.fit(
            *(net, loss, start, (x, target)), optimizer=optax.sgd(0.1), epochs=2, batch_size=8
        )
        for a, b in zip(
            jax.tree.leaves(accumulated.params), jax.tree.leaves(large.params), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5)

    def test_the_gradient_of_the_function_is_the_hand_written_one(self):
        """A planted factor in the backward reaches an optimizer that differentiates value_fn."""
        seen = {}

        def init(params):
            return ()

        def update(updates, state, params, *, value, grad, value_fn):
            seen["value"], seen["grad"] = value, grad
            seen["of function"] = jax.value_and_grad(value_fn)(params)
            return jax.tree.map(jnp.zeros_like, updates), state

        doubled = jaxnn.layer(
            init=lambda key: jnp.ones(()),
            apply=lambda s, x: s * x,
            fwd=lambda s, x, key: (s * x, x),
            bwd=lambda x, dy: (2 * jnp.vdot(x, dy), dy),
        )
        optimizer = optax.GradientTransformationExtraArgs(init, update)
        step = jaxnn.train_step(doubled, jaxnn.squared_error, optimizer)
        with jax.disable_jit():
            step(jnp.ones(()), (), jnp.ones((3, 2)), jnp.zeros((3, 2)))
        value, grad = seen["of function"]
        assert (float(value), float(grad)) == (float(seen["value"]), float(seen["grad"]))
        assert float(grad) == pytest.approx(2 * 2 * float(value))

    def test_the_same_array_twice_can_be_donated(self):
        shared = jnp.ones((3, 3))
        net = jaxnn.serial(jaxnn.Linear(3, 3), jaxnn.relu, jaxnn.Linear(3, 3))
        params = tuple(p and {"w": shared, "b": jnp.zeros(3)} for p in net.init(jax.random.key(0)))
        optimizer = optax.sgd(0.1)
        epoch = jaxnn.train_epoch(net, jaxnn.squared_error, optimizer, 2)
        x = jax.random.normal(jax.random.key(1), (4, 3))
        trained, *_ = epoch(params, optimizer.init(params), x, x, jax.random.key(0))
        assert not np.array_equal(trained[0]["w"], trained[2]["w"])


class TestCallbacks:
    def test_early_stopping_counts_epochs_without_improvement(self):
        stop = jaxnn.EarlyStopping("loss", patience=2, min_delta=0.1)
        rows = [
            ([1.0], False),
            ([1.0, 0.95], False),
            ([1.0, 0.95, 0.91], True),
            ([1.0, 0.95, 0.8], False),
            ([1.0, float("nan"), float("nan")], True),
        ]
        for losses, ends in rows:
            assert stop(training_with(loss=losses)) is ends
        largest = jaxnn.EarlyStopping("accuracy", mode="max", patience=1)
        assert largest(training_with(accuracy=[0.5, 0.4]))
        assert not largest(training_with(accuracy=[0.5, 0.6]))

    def test_keep_best_writes_the_parameters_of_the_best_epoch(self, tmp_path):
        path = tmp_path / "best.safetensors"
        keep = jaxnn.KeepBest(path, "loss")
        for number, losses in enumerate(([3.0], [3.0, 1.0], [3.0, 1.0, 2.0])):
            keep(training_with(loss=losses, params={"w": jnp.full(3, float(number))}))
        loaded = jaxnn.load_params(path, like={"w": jnp.zeros(3)})
        np.testing.assert_array_equal(loaded["w"], 1.0)

    @pytest.mark.parametrize("log", [jaxnn.LogCSV, jaxnn.LogJSONLines])
    def test_a_log_has_each_epoch_once_after_a_crash(self, log, tmp_path):
        path = tmp_path / "logs" / "log"
        first = log(path)
        first(training_with(loss=[3.0]))
        first(training_with(loss=[3.0, 2.0]))
        first(training_with(loss=[3.0, 2.0, 9.0]))  # after the last checkpoint
        text = path.read_text()
        resumed = log(path)
        resumed(training_with(loss=[3.0, 2.0, 1.0]))
        assert path.read_text() == text.replace("9.0", "1.0")

    def test_tensorboard_reads_what_was_logged(self, tmp_path):
        pytest.importorskip("tensorboardX")
        log = jaxnn.LogTensorBoard(tmp_path)
        log(training_with(loss=[3.0]))
        log(training_with(loss=[3.0, 2.0]))
        log._writer.close()  # waits for the thread that writes
        (events,) = tmp_path.iterdir()
        assert events.read_bytes().count(b"loss") == 2

    def test_a_number_that_is_not_measured_is_named(self):
        with pytest.raises(ValueError, match="no 'validation_loss'; it has 'loss'"):
            jaxnn.EarlyStopping()(training_with(loss=[1.0]))


def training_with(params=(), **history):
    (column, *_) = history.values()
    return jaxnn.Training(params, (), (), jax.random.key(0), len(column), 0, (0.0, 0.0), history)


BAD = [
    ({"optimizer": "adam"}, TypeError, "optimizer must be an optax gradient transformation"),
    ({"optimizer": optax.adam}, TypeError, "optimizer must be an optax gradient transformation"),
    ({"learning_rate": 0.1}, ValueError, "learning_rate is only for plain SGD"),
    ({"optimizer": None, "learning_rate": "fast"}, TypeError, "learning_rate must be a finite"),
    ({"optimizer": None, "learning_rate": np.nan}, TypeError, "learning_rate must be a finite"),
    ({"progress": "bar"}, TypeError, "option progress must be True or False"),
    ({"checkpoint_seconds": np.nan}, ValueError, "checkpoint_seconds must be at least 0"),
    ({"sharding": "data"}, TypeError, "sharding must be a sharding of JAX"),
    ({"reduction": ["mean"]}, ValueError, "reduction must be 'mean', 'sum', "),
    ({"seed": 0.5}, TypeError, "seed must be an integer"),
    ({"epochs": True}, ValueError, "epochs must be an integer"),
    ({"steps_per_epoch": 3}, ValueError, "steps_per_epoch is for an iterable"),
    ({"data": MINIBATCHES, "batch_size": 5}, ValueError, "batch_size cannot be chosen"),
    ({"data": iter(MINIBATCHES)}, ValueError, "generator, which can be iterated only once"),
    ({"data": [], "epochs": 1}, ValueError, "yielded 0 minibatches in epoch 1"),
    ({"data": count(), "epochs": 1}, TypeError, r"must be a pair \(x, target\)"),
    ({"data": "digits"}, TypeError, "got a str"),
    ({"data": [(X[:5], LABELS[:4])]}, ValueError, "the same number of examples"),
    ({"validation_data": iter(MINIBATCHES)}, ValueError, "validation_data is a generator"),
    ({"metrics": {"loss": jaxnn.accuracy}}, ValueError, "'loss' cannot be a name"),
    ({"metrics": "accuracy"}, TypeError, "metrics must be a function"),
    ({"callbacks": [3]}, TypeError, "a callback must be a function of the Training"),
    ({"data": (X, LABELS.astype(object))}, TypeError, "target of data must be an array of numbers"),
    ({"data": (np.ma.array(X), LABELS)}, TypeError, "x of data is a masked array"),
]


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(("changes", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_gets_one_clear_sentence(changes, error, words):
    with pytest.raises(error, match=words) as caught:
        fit(**changes)
    assert "\n" not in str(caught.value)


def test_an_optimizer_that_does_not_fit_the_run_is_refused(alone):
    with pytest.raises(ValueError, match="not that of this optimizer"):
        fit(alone, optimizer=optax.sgd(0.1))


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    from jaxnn.training import progress

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    fit(progress=None, epochs=1)
    assert "fit: 1 of 1 epochs, loss" in capsys.readouterr().err
    fit(progress=False, epochs=1)
    assert capsys.readouterr().err == ""
    fit(progress=True, epochs=1)
    assert "1/1" in capsys.readouterr().err


def test_a_slow_stream_is_moved_before_its_block_is_full(monkeypatch):
    monkeypatch.setattr(sources, "SECONDS_OF_A_RUN", 0.0)
    sizes = []

    def minibatches():
        for minibatch in MINIBATCHES:
            time.sleep(0.001)
            yield minibatch

    sizes = [size for size, _ in sources._blocks(minibatches(), None)]
    assert sizes == [1] * len(MINIBATCHES)
