"""The sources of the minibatches of an epoch, and the compiled runs of steps over them."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.arrays import as_array, as_numpy
from jaxnn.training.data import as_examples, require_examples, shuffled
from jaxnn.training.placement import placements, put_examples, warn_of_idle_devices
from jaxnn.training.steps import steps_of_epoch

SECONDS_OF_A_RUN = 0.25  # the longest that Ctrl-C waits, unless one step takes longer
BYTES_OF_A_BLOCK = 2**24
MINIBATCHES_OF_A_BLOCK = 64


class Run(NamedTuple):
    """Some consecutive steps of an epoch, compiled.

    Attributes:
        start: the first step, counted from 0.
        stop: the step after the last one.
        advance: `(carry, start, stop) -> (carry, finite)`, these steps or some of them; `finite` is
            whether loss and parameters are finite after them.
    """

    start: int
    stop: int
    advance: Callable[[Any, int, int], tuple[Any, jax.Array]]


class Pace:
    """The number of steps in a run, such that it takes about `SECONDS_OF_A_RUN`."""

    def __init__(self):
        self.steps = 1

    def took(self, steps: int, seconds: float) -> None:
        """Adapt to the time that a run took."""
        if seconds < SECONDS_OF_A_RUN / 4 and steps >= self.steps:
            self.steps *= 4
        elif seconds > 2 * SECONDS_OF_A_RUN:
            self.steps = max(1, steps // 2)


class Programs(NamedTuple):
    """The compiled steps of `fit`.

    Attributes:
        resident: `(examples, order, steps_key, carry, start, stop, batch_size, placed)`, the steps
            of an epoch over examples on the device.
        streamed: `(block, first, steps_key, carry, start, stop)`, those over a block of
            minibatches, of which the first belongs to the step `first`.
    """

    resident: Callable
    streamed: Callable


def programs_of(update: Callable) -> Programs:
    """The compiled steps, each of which makes an update; see `updates_of`."""

    @partial(jax.jit, static_argnums=(6, 7))
    def resident(examples, order, steps_key, carry, start, stop, batch_size, placed):
        carry = steps_of_epoch(
            update, examples, order, steps_key, batch_size, placed, carry, start, stop
        )
        return carry, _is_finite(carry)

    @jax.jit
    def streamed(block, first, steps_key, carry, start, stop):
        def step(number, carry):
            batch = jax.tree.map(
                lambda leaf: lax.dynamic_index_in_dim(leaf, number - first, keepdims=False), block
            )
            return carry.after(update, batch, jax.random.fold_in(steps_key, number))

        carry = lax.fori_loop(start, stop, step, carry)
        return carry, _is_finite(carry)

    return Programs(resident, streamed)


class ResidentExamples:
    """Examples that are all on the device.

    Attributes:
        examples: `(x, target, weights)`.
        steps: the number of steps in an epoch.
        settings: the settings that determine the examples of each step.
        pace: the pace of the runs.
    """

    def __init__(self, programs: Programs, examples: tuple, batch_size: int):
        self.examples, self.pace = examples, Pace()
        self._program, self._batch_size = programs.resident, batch_size
        self._placed = placements(examples)
        warn_of_idle_devices(self._placed, batch_size)
        self._n = require_examples(*examples)
        self.steps = -(-self._n // batch_size)
        self.settings = {"batch_size": batch_size, "examples": self._n}

    def runs(self, key, start: int, epoch: int) -> Iterator[Run]:
        """The runs of one epoch from a step on."""
        order, steps_key = shuffled(key, self._n)

        def advance(carry, start, stop):
            return self._program(
                *(self.examples, order, steps_key, carry, start, stop),
                *(self._batch_size, self._placed),
            )

        while start < self.steps:
            stop = min(start + self.pace.steps, self.steps)
            yield Run(start, stop, advance)
            start = stop


class StreamedMinibatches:
    """Minibatches that are moved to the device in blocks, each while the one before is computed.

    Attributes:
        examples: all of them, if they are arrays on the host.
        steps: the number of steps in an epoch, if known.
        settings: the settings that determine the examples of each step, if known.
        pace: unused, since the blocks determine the number of steps in a run.
    """

    def __init__(self, programs: Programs, minibatches: Callable, steps: int | None, sharding):
        self.steps, self.pace = steps, Pace()
        self._program, self._minibatches, self._sharding = programs.streamed, minibatches, sharding
        self.examples: tuple | None = None
        self.settings: dict[str, int] = {}

    def runs(self, key, start: int, epoch: int) -> Iterator[Run]:
        """The runs of one epoch from a step on."""
        _, steps_key = jax.random.split(key)
        for size, block in _blocks(self._minibatches(key, start, epoch), self._sharding):
            yield Run(start, start + size, partial(self._program, block, start, steps_key))
            start += size


def examples_on_host(examples: tuple, batch_size: int) -> Callable:
    """`(key, start, epoch) -> minibatches` of arrays that stay in the host's memory or a file."""
    n = require_examples(*examples)

    def minibatches(key, start, epoch):
        order = np.asarray(shuffled(key, n)[0])
        for first in range(start * batch_size, n, batch_size):
            rows = order[first : first + batch_size]
            yield jax.tree.map(lambda leaf, rows=rows: as_numpy("data", leaf[rows]), examples)

    return minibatches


def minibatches_of(stream, steps_per_epoch: int | None, check: Callable) -> Callable:
    """`(key, start, epoch) -> minibatches` of an iterable, without those already used."""
    once = iter(stream) is stream
    begun = checked = False

    def minibatches(key, start, epoch):
        nonlocal begun, checked
        skipped = start
        if once and not begun:
            skipped += epoch * (steps_per_epoch or 0)
        begun, source = True, iter(stream)
        if skipped and next(islice(source, skipped - 1, skipped), None) is None:
            raise ValueError(
                f"data ended within the first {skipped} minibatches, which the run has already used"
            )
        stop = None if steps_per_epoch is None else steps_per_epoch - start
        number = start
        for number, minibatch in enumerate(islice(source, stop), start + 1):
            examples = as_examples(f"minibatch {number} of data", minibatch)
            require_examples(*examples)
            if not checked:
                check(jax.tree.map(partial(as_array, "a minibatch of data"), examples))
                checked = True
            yield examples
        if number == 0 or (steps_per_epoch is not None and number < steps_per_epoch):
            expected = "" if steps_per_epoch is None else f" of {steps_per_epoch}"
            raise ValueError(
                f"data yielded {number} minibatches{expected} in epoch {epoch + 1}; a generator "
                "yields them only once, a list or a loader again in each epoch"
            )

    return minibatches


def _is_finite(carry):
    params = [leaf for leaf in jax.tree.leaves(carry.params) if _is_floating(leaf)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in (carry.total, *params)]).all()


def _is_floating(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _blocks(minibatches, sharding) -> Iterator[tuple[int, Any]]:
    """Consecutive minibatches of equal shapes as one tree, with their number."""
    block: _Block | None = None
    for minibatch in minibatches:
        if block is not None and not block.takes(minibatch):
            yield block.size, block.on_device(sharding)
            block = None
        if block is None:
            block = _Block(minibatch)
        block.add(minibatch)
        if block.is_due:
            yield block.size, block.on_device(sharding)
            block = None
    if block is not None:
        yield block.size, block.on_device(sharding)


class _Block:
    """A block of minibatches of one shape; one that is already on a device is a block by itself."""

    def __init__(self, minibatch):
        self.kind = _kind(minibatch)
        self.size, self.begun = 0, time.perf_counter()
        leaves = jax.tree.leaves(minibatch)
        self.resident = any(isinstance(leaf, jax.Array) for leaf in leaves)
        total = max(sum(leaf.nbytes for leaf in leaves), 1)
        fits = min(max(BYTES_OF_A_BLOCK // total, 1), MINIBATCHES_OF_A_BLOCK)
        self.capacity = 1 if self.resident else fits
        if not self.resident:
            self.arrays = jax.tree.map(
                lambda leaf: np.zeros((self.capacity, *leaf.shape), leaf.dtype), minibatch
            )

    def takes(self, minibatch) -> bool:
        return _kind(minibatch) == self.kind

    def add(self, minibatch) -> None:
        if self.resident:
            self.arrays = jax.tree.map(lambda leaf: leaf[None], minibatch)
        else:
            pairs = zip(jax.tree.leaves(self.arrays), jax.tree.leaves(minibatch), strict=True)
            for room, leaf in pairs:
                room[self.size] = leaf
        self.size += 1

    @property
    def is_due(self) -> bool:
        if self.size == self.capacity:
            return True
        # processes that compute together must have equal blocks, which a clock cannot ensure
        late = time.perf_counter() - self.begun > SECONDS_OF_A_RUN
        return late and jax.process_count() == 1

    def on_device(self, sharding):
        if self.resident:
            return self.arrays
        return put_examples(self.arrays, sharding, leading=1)


def _kind(minibatch):
    leaves, structure = jax.tree.flatten(minibatch)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
