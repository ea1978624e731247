"""A run of training that `test_kills` ends again and again.

python -m tests.training.killed FOLDER
"""

import signal
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import jaxnn
from jaxnn.training import resume, sources

N, BATCH, EPOCHS = 150, 8, 12
NET = jaxnn.serial(
    jaxnn.Linear(5, 16), jaxnn.BatchNorm(16), jaxnn.relu, jaxnn.Dropout(0.3), jaxnn.Linear(16, 3)
)


def run(folder: Path) -> jaxnn.Training:
    """Train with everything that has a state: Adam, a schedule, running statistics, dropout."""
    random = np.random.default_rng(0)
    x = random.normal(size=(N, 5)).astype(np.float32)
    labels = random.integers(0, 3, N).astype(np.int32)
    steps = EPOCHS * -(-N // BATCH)
    return jaxnn.fit(
        *(NET, jaxnn.softmax_cross_entropy, NET.init(jax.random.key(0)), (x, labels)),
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, steps)),
        validation_data=(x[:40], labels[:40]),
        metrics=jaxnn.accuracy,
        checkpoint=folder,
        checkpoint_seconds=0.0,
        progress=False,
    )


def figures(training: jaxnn.Training) -> dict[str, np.ndarray]:
    """All that a run has, as arrays; times aside."""
    trees = training.params, training.opt_state, training.state
    arrays = {f"leaf {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(trees))}
    history = {name: np.array(n) for name, n in training.history.items() if name != "seconds"}
    return arrays | history


def main(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    sources.SECONDS_OF_A_RUN = 0.0  # single steps, each of them saved
    save = resume.Checkpoint.save

    def announced(self, *args, **named):
        save(self, *args, **named)
        resume.Checkpoint.save = save
        print("saved", flush=True)

    resume.Checkpoint.save = announced
    np.savez(folder / "result.npz", **figures(run(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
