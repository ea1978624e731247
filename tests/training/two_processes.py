"""One of two processes that train together; run by `test_two_processes`.

python -m tests.training.two_processes PROCESS PORT FOLDER
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn

N, BATCH, EPOCHS = 24, 8, 2
NET, LOSS = jaxnn.mlp((5, 6, 3)), jaxnn.softmax_cross_entropy
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(N, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, N).astype(np.int32)
MINIBATCHES = [(X[i : i + BATCH], LABELS[i : i + BATCH]) for i in range(0, N, BATCH)]


def initial():
    return jax.tree.map(np.asarray, NET.init(jax.random.key(0)))


def optimizer():
    return optax.adam(1e-2)


def results(put, minibatches, folder: Path, **options) -> dict[str, np.ndarray]:
    """What each part of the library returns, as arrays of the host.

    Args:
        put: brings the arrays of all examples to the devices.
        minibatches: a stream.
        folder: for files.
        **options: of `fit` over the stream.
    """
    x, labels = put(X), put(LABELS)
    found, adam = {}, optimizer()

    step = jaxnn.train_step(NET, LOSS, adam)
    params, _, value = step(initial(), adam.init(initial()), x, labels)
    found |= leaves("step", params, value)

    epoch = jaxnn.train_epoch(NET, LOSS, adam, BATCH)
    params, _, value = epoch(initial(), adam.init(initial()), x, labels, jax.random.key(1))
    found |= leaves("epoch", params, value)

    options |= {"optimizer": adam, "progress": False}
    training = jaxnn.fit(
        *(NET, LOSS, initial(), (x, labels)),
        **{"epochs": 1, "batch_size": BATCH, "checkpoint": folder / "run"},
        **{"optimizer": adam, "progress": False, "metrics": jaxnn.accuracy},
    )
    training = jaxnn.fit(
        *(NET, LOSS, initial(), (x, labels)),
        **{"epochs": EPOCHS, "batch_size": BATCH, "checkpoint": folder / "run"},
        **{"optimizer": adam, "progress": False, "metrics": jaxnn.accuracy},
    )
    measured = jaxnn.evaluate(NET, LOSS, training, (x, labels), batch_size=10)
    found |= leaves("fit", training.params, *training.history["loss"], measured["loss"])
    found |= leaves("accuracy", np.array(training.history["accuracy"]))

    training = jaxnn.fit(NET, LOSS, initial(), minibatches, epochs=EPOCHS, **options)
    found |= leaves("stream", training.params, *training.history["loss"])

    path = folder / "params.safetensors"
    jaxnn.save_params(path, training.params)
    multihost_utils.sync_global_devices("saved")
    found |= leaves("loaded", jaxnn.load_params(path, like=training.params))
    return found


def leaves(name, *tree):
    return {f"{name} {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def main(process: int, port: int, folder: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((2,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def put(array):
        part = np.split(array, 2)[process]
        return jax.make_array_from_process_local_data(sharding, part)

    mine = [tuple(np.split(part, 2)[process] for part in batch) for batch in MINIBATCHES]
    found = results(put, mine, folder, sharding=sharding)
    np.savez(folder / f"process {process}.npz", **found)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
