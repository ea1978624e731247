"""Training for some epochs: checks, validation, history, callbacks, checkpoints."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from jaxnn.arrays import as_arrays, as_real_arrays, as_scalar
from jaxnn.layer import Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.options import as_option_of
from jaxnn.training.data import (
    Data,
    as_examples,
    batches,
    is_stream,
    require_batch_size,
    require_examples,
    require_finite,
)
from jaxnn.training.evaluate import (
    Metrics,
    evaluator,
    named,
    require_no_state,
    require_prediction,
)
from jaxnn.training.gradient import require_loss
from jaxnn.training.interruption import Interruption, noticed
from jaxnn.training.placement import beside, placements, put_examples
from jaxnn.training.programs import REMEMBERED, remembered
from jaxnn.training.progress import Progress
from jaxnn.training.reduction import require_reduction
from jaxnn.training.resume import ARRAYS, Checkpoint
from jaxnn.training.sources import (
    Programs,
    ResidentExamples,
    Run,
    StreamedMinibatches,
    examples_on_host,
    minibatches_of,
    programs_of,
)
from jaxnn.training.state import NonFiniteError, Training, TrainingInterrupted
from jaxnn.training.steps import Carry, Optimizer, gradient_of, require_optimizer, updates_of

BATCH_SIZE = 32
LEARNING_RATE = 0.1
MEASURED_AT_ONCE = 4096
SHARE_OF_DEVICE_MEMORY = 0.5  # larger data stays on the host


def fit(
    net: Layer | Op,
    loss: Op,
    params: Params | Training,
    data: Data,
    *,
    state: State = None,
    epochs: int = 10,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    learning_rate: float | optax.Schedule | None = None,
    optimizer: Optimizer | None = None,
    reduction: str = "mean",
    clip: float | None = None,
    seed: int = 0,
    validation_data: Data | None = None,
    metrics: Metrics | None = None,
    callbacks: Callable[[Training], bool | None] | Sequence[Callable] = (),
    checkpoint: str | os.PathLike | None = None,
    checkpoint_seconds: float = 60.0,
    sharding: Sharding | None = None,
    progress: bool | None = None,
) -> Training:
    """Train a network for some epochs; the same seed gives the same bits.

    A run that ends early can be resumed. With a folder as `checkpoint` it is saved there at
    intervals, even within an epoch, and the same call resumes from the file, even after a crash.
    Ctrl-C and SIGTERM end it after a whole step and return it in an exception. In each case the
    result has the bits of an uninterrupted run.

    Args:
        net: a layer, or an op of one argument.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters to start from, which are not modified; or the `Training` to resume.
        data: `(x, target)` or `(x, target, weights)`, one row for each example; x and target may be
            trees of arrays, weights multiply the losses. Memory maps, and NumPy arrays that are
            large for the device, stay on the host, and minibatches are moved while the device
            computes. Or an iterable of minibatches, such as a list, a generator or a loader of
            another library; each epoch iterates over it once. A run that resumes iterates from the
            start and skips the minibatches that it has used, so the caller must keep their order.
        state: the initial state of a network that has one; by default `net.init_state()`.
        epochs: the total number of passes over the data, including those before the run was
            stopped.
        batch_size: the examples in each minibatch; by default 32, or all if there are fewer.
        steps_per_epoch: for an iterable, the number of minibatches in an epoch; by default all of
            them. A generator continues in the next epoch.
        learning_rate: η of plain SGD, or an optax schedule `step -> η`; by default 0.1.
        optimizer: an optax transformation instead of SGD, with its own learning rate; it may need
            the loss, the gradient or a function of the parameters, like `optax.lbfgs()`.
        reduction: the reduction of the losses of each minibatch, as in `value_and_grad`.
        clip: optional, the largest norm of one example's gradient; each is clipped to it before the
            sum, as in `jaxnn.per_example.value_and_clipped_grad`.
        seed: the seed of the order of the examples and of random layers.
        validation_data: other examples in the form of `data`, to evaluate on after each epoch.
        metrics: a function `(prediction, target) -> one value per example`, such as `accuracy`, or
            a dict of them. They are measured on `data` unless it is an iterable, and on
            `validation_data`.
        callbacks: functions that are called with the `Training` after each epoch. One that returns
            true ends the run; see `EarlyStopping`.
        checkpoint: a folder to save the run in, and to resume it from if it holds one.
        checkpoint_seconds: the time between two saves.
        sharding: the sharding of each minibatch over several devices, with the examples along the
            first axis; by default that of the arrays of data. With several processes, NumPy arrays
            and minibatches hold the part of each process.
        progress: whether to show a progress bar; by default on a terminal and in a notebook, and
            elsewhere a line every half minute.

    Returns:
        The `Training`, with `params`, `state` and `history`.

    Raises:
        TypeError, ValueError: an argument is invalid, the data is empty or holds a NaN or an
            infinity, a label is out of range, or the checkpoint is of another run.
        NonFiniteError: the loss or a parameter became NaN or infinite.
        TrainingInterrupted: Ctrl-C or SIGTERM ended the run.

    Example:
        >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
        >>> net = jaxnn.mlp((1, 16, 1), activation=jaxnn.tanh)
        >>> params = net.init(jax.random.key(0))
        >>> training = jaxnn.fit(net, jaxnn.squared_error, params, (x, x**2), epochs=200)
        >>> training.history["loss"][-1] < 0.01
        True
    """
    if type(epochs) is not int or epochs < 0:
        raise ValueError(f"fit: epochs must be an integer of at least 0, got {epochs!r}")
    as_option_of("fit", "progress", progress, bool | None)
    seconds_between = as_option_of("fit", "checkpoint_seconds", checkpoint_seconds, float)
    if not seconds_between >= 0:
        raise ValueError(f"fit: checkpoint_seconds must be at least 0, got {checkpoint_seconds}")
    if not isinstance(sharding, Sharding | None):
        raise TypeError(f"fit: sharding must be a sharding of JAX, got {sharding!r:.80}")
    optimizer = _optimizer(optimizer, learning_rate)
    net, metrics = as_layer(net), named(metrics)
    require_loss(loss)
    require_reduction("fit", reduction)
    callbacks = _callbacks(callbacks)
    training = _start(net, params, optimizer, state, seed)

    programs = _programs(net, loss, reduction, clip, optimizer)

    def check(examples):
        require_prediction(net, loss, training.params, training.state, *examples[:2])

    source = _source(programs, data, batch_size, steps_per_epoch, sharding, epochs, training, check)
    training = _on_devices_of(source, sharding, training)
    _check_validation_data(validation_data, epochs - training.epoch, check)
    measure = evaluator(net, loss, metrics, reduction)

    def measured(training):
        found = {}
        if source.examples is not None and metrics:
            minibatches = batches("data", source.examples, MEASURED_AT_ONCE)
            found = measure(training.params, minibatches, training.state)
            del found["loss"]
        if validation_data is not None:
            minibatches = batches("validation_data", validation_data, MEASURED_AT_ONCE)
            after = measure(training.params, minibatches, training.state)
            found |= {f"validation_{name}": number for name, number in after.items()}
        return found

    names = ["loss", *metrics]
    if validation_data is not None:
        names += [f"validation_{name}" for name in names]
    history = {name: training.history.get(name, []) for name in [*names, "seconds"]}
    training = replace(training, history=training.history | history)

    saved = None
    if checkpoint is not None:
        saved = Checkpoint(checkpoint, seconds_between, source.settings)
        training, complete = saved.load(training)
        if complete:
            return training
    no_loss = jax.tree.map(jnp.zeros_like, training.partial_loss)
    ended = False
    with noticed() as interruption, closing(Progress(epochs, training.epoch, progress)) as bar:
        while training.epoch < epochs and not ended:
            begun = time.perf_counter()
            training = _run_epoch(source, training, interruption, saved, bar)
            seconds = time.perf_counter() - begun
            total, divisor = map(float, training.partial_loss)
            value = total if reduction == "sum" or not divisor else total / divisor
            figures = {"loss": value} | measured(training)
            training = training.with_measured(figures | {"seconds": seconds}, no_loss)
            bar.measured(figures)
            bar.at(training.epoch)
            wishes = [callback(training) for callback in callbacks]  # each of them is called
            ended = any(wishes)
        if saved is not None:
            saved.save(training, complete=ended)
        signal_name, _ = _asked(interruption, saved, source.pace)
        if signal_name:
            raise TrainingInterrupted(signal_name, training, saved and saved.path)
    return training


def _run_epoch(source, training, interruption, saved, bar) -> Training:
    """The rest of the steps of an epoch."""
    key = jax.random.fold_in(training.key, training.epoch + 1)
    carry = Carry(training.params, training.opt_state, training.state, *training.partial_loss)
    runs = source.runs(key, training.step, training.epoch)
    run = next(runs, None)
    while run is not None:
        before, begun = carry, time.perf_counter()
        carry, finite = run.advance(before, run.start, run.stop)
        following = next(runs, None)  # moved to the device while it computes
        if not finite:
            raise _non_finite(run, before, training)
        source.pace.took(run.stop - run.start, time.perf_counter() - begun)
        training = _after(training, carry, run.stop)
        if source.steps is not None:
            bar.at(training.epoch + training.step / source.steps)
        signal_name, due = _asked(interruption, saved, source.pace)
        if due or (signal_name and saved is not None):
            saved.save(training)
        if signal_name:
            raise TrainingInterrupted(signal_name, training, saved and saved.path)
        run = following
    return training


def _after(training: Training, carry: Carry, step: int) -> Training:
    return replace(
        training,
        params=carry.params,
        opt_state=carry.opt_state,
        state=carry.state,
        partial_loss=(carry.total, carry.divisor),
        step=step,
    )


def _non_finite(run: Run, carry: Carry, training: Training) -> NonFiniteError:
    """Repeat a run of steps, one by one, to find the step that gave a non-finite number."""
    zero = jnp.zeros_like(carry.total)
    for number in range(run.start, run.stop):
        before = carry
        after, finite = run.advance(before._replace(total=zero, divisor=zero), number, number + 1)
        if not finite:
            break
        carry, _ = run.advance(before, number, number + 1)
    leaf = next(
        (
            jax.tree_util.keystr(path)
            for path, array in jax.tree_util.tree_leaves_with_path(after.params)
            if jnp.issubdtype(array.dtype, jnp.inexact) and not jnp.isfinite(array).all()
        ),
        None,
    )
    value = float(after.total) / (float(after.divisor) or 1.0)
    last = _after(training, before, number)
    return NonFiniteError(training.epoch + 1, number + 1, leaf, value, last)


def _asked(interruption: Interruption, saved: Checkpoint | None, pace) -> tuple[str | None, bool]:
    """Whether a signal asks for the end, and whether a save is due; the same on all processes."""
    signal_name, due = interruption.signal_name, saved is not None and saved.is_due
    if jax.process_count() == 1:
        return signal_name, due
    mine = np.array([signal_name is not None, due, pace.steps], np.int32)
    signalled, due, steps = np.asarray(multihost_utils.process_allgather(mine)).T
    pace.steps = int(steps[0])
    name = (signal_name or "a signal to another process") if signalled.any() else None
    return name, bool(due[0])


@remembered
def _programs(net, loss, reduction, clip, optimizer) -> Programs:
    return programs_of(updates_of(gradient_of(net, loss, reduction, clip), optimizer))


@lru_cache(maxsize=REMEMBERED)
def _sgd(rate) -> optax.GradientTransformation:
    return optax.sgd(rate)


def _check_validation_data(data, epochs, check) -> None:
    """Check validation_data as far as possible before the run."""
    if data is None:
        return
    if not is_stream("validation_data", data):
        examples = as_examples("validation_data", data)
        require_examples(*examples)
        require_finite("validation_data", *examples)
        check(examples)
    elif iter(data) is data and epochs > 1:
        raise ValueError(
            "fit: validation_data is a generator, which can be iterated only once: pass arrays, a "
            "list or a loader"
        )


def _optimizer(optimizer, learning_rate) -> Optimizer:
    if optimizer is None:
        rate = LEARNING_RATE if learning_rate is None else learning_rate
        return _sgd(rate if callable(rate) else _finite(rate))
    require_optimizer(optimizer)
    if learning_rate is not None:
        raise ValueError(
            "fit: learning_rate is only for plain SGD, but an optimizer is given: pass the rate to "
            "the optimizer, such as optimizer=optax.adam(1e-3)"
        )
    return optimizer


def _finite(rate) -> float:
    try:
        as_scalar("fit: learning_rate", rate)
    except TypeError:
        raise TypeError(
            "fit: learning_rate must be a finite number or an optax schedule `step -> η`, got "
            f"{rate!r:.80}"
        ) from None
    return float(rate)


def _callbacks(callbacks) -> tuple[Callable, ...]:
    callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"fit: a callback must be a function of the Training, got {callback!r}")
    return callbacks


def _start(net, params, optimizer, state, seed) -> Training:
    """The run to resume, or the start of a new one."""
    if isinstance(params, Training):
        if state is not None:
            raise ValueError("fit: a Training holds its state; do not pass state as well")
        _require_state_of(optimizer, params)
        return params
    if type(seed) is not int:
        raise TypeError(f"fit: seed must be an integer, got {seed!r}")
    if net.stateful and state is None:
        state = net.init_state()
    require_no_state("fit", net, state)
    params = as_real_arrays("fit: params", params)
    state = as_arrays("fit: state", () if state is None else state)
    zero = jnp.zeros((), float)
    return Training(
        params=params,
        opt_state=optimizer.init(params),
        state=state,
        key=jax.random.key(seed),
        epoch=0,
        step=0,
        partial_loss=(zero, zero),
        history={},
    )


def _require_state_of(optimizer, training: Training) -> None:
    def kinds(tree):
        leaves, structure = jax.tree.flatten(tree)
        return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

    if kinds(training.opt_state) != kinds(jax.eval_shape(optimizer.init, training.params)):
        raise ValueError(
            "fit: the state of the optimizer in the Training is not that of this optimizer; pass "
            "the optimizer, or the kind of learning_rate, that the run was started with"
        )


def _source(programs, data, batch_size, steps_per_epoch, sharding, epochs, training, check):
    """The source of the minibatches, after every check that needs the values of data."""
    if is_stream("data", data):
        if batch_size is not None:
            raise ValueError("fit: data yields minibatches, so their batch_size cannot be chosen")
        if steps_per_epoch is not None:
            require_steps(steps_per_epoch)
        elif iter(data) is data and epochs > training.epoch + 1:
            raise ValueError(
                "fit: data is a generator, which can be iterated only once: pass "
                "steps_per_epoch, a list or a loader, or epochs=1"
            )
        steps = steps_per_epoch or (len(data) if hasattr(data, "__len__") else None)
        minibatches = minibatches_of(data, steps_per_epoch, check)
        return StreamedMinibatches(programs, minibatches, steps, sharding)
    if steps_per_epoch is not None:
        raise ValueError("fit: steps_per_epoch is for an iterable of minibatches")
    examples = as_examples("data", data)
    n = require_examples(*examples)
    batch_size = min(BATCH_SIZE, n) if batch_size is None else batch_size
    require_batch_size(batch_size, n)
    if _stays_on_host(examples):
        check(jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), examples))
        minibatches, steps = examples_on_host(examples, batch_size), -(-n // batch_size)
        source = StreamedMinibatches(programs, minibatches, steps, sharding)
        source.examples = examples
        source.settings = {"batch_size": batch_size, "examples": n}
        return source
    examples = put_examples(examples, sharding)
    require_finite("data", *examples)
    check(examples)
    return ResidentExamples(programs, examples, batch_size)


def require_steps(steps_per_epoch) -> None:
    """Raise unless an epoch has at least one step."""
    if type(steps_per_epoch) is not int or steps_per_epoch < 1:
        raise ValueError(
            f"fit: steps_per_epoch must be a positive integer, got {steps_per_epoch!r}"
        )


def _stays_on_host(examples) -> bool:
    """Whether some array is a memory map, or all together are large for the device."""
    leaves = [leaf for leaf in jax.tree.leaves(examples) if isinstance(leaf, np.ndarray)]
    if any(isinstance(leaf, np.memmap) for leaf in leaves):
        return True
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    size = sum(leaf.nbytes for leaf in leaves)
    return memory is not None and size > SHARE_OF_DEVICE_MEMORY * memory


def _on_devices_of(source, sharding, training: Training) -> Training:
    """The run with its arrays on all the devices of the data."""
    placed = (sharding,) if sharding is not None else placements(source.examples)
    return replace(training, **{name: beside(placed, getattr(training, name)) for name in ARRAYS})
