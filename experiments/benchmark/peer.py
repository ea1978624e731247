"""One library trains a network on the digits in this process, and says what it took.

python -m experiments.benchmark.peer LIBRARY DATA SETTINGS

Each library is used as its own introduction shows: with its own module classes, and one call of
Python for each minibatch unless the library itself has a call for more.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """What all libraries do: plain SGD on the mean softmax cross-entropy of a ReLU network.

    Attributes:
        x: images (N, pixels) to train on.
        labels: their classes (N,).
        sizes: units of the layers, inputs and outputs included.
        epochs: passes over the images, each in a new random order.
        batch_size: images in a minibatch; the last one of an epoch is shorter.
        learning_rate: η.
        seed: of the parameters and of the order.
        lap: to be called at the end of each epoch.
    """

    x: np.ndarray
    labels: np.ndarray
    sizes: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    lap: Callable[[], None]

    def minibatches(self, random: np.random.Generator):
        """The images and labels of an epoch."""
        order = random.permutation(len(self.x))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.x[rows], self.labels[rows]


Predict = Callable[[np.ndarray], np.ndarray]


def train_jaxnn(task: Task) -> Predict:
    """jaxnn, with an epoch in one call."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnn

    init_key, order_key = jax.random.split(jax.random.key(task.seed))
    net, optimizer = jaxnn.mlp(task.sizes), optax.sgd(task.learning_rate)
    params = net.init(init_key)
    opt_state = optimizer.init(params)
    epoch = jaxnn.train_epoch(net, jaxnn.softmax_cross_entropy, optimizer, task.batch_size)
    x, labels = jnp.asarray(task.x), jnp.asarray(task.labels)
    keys = [jax.random.fold_in(order_key, number) for number in range(task.epochs)]
    for key in keys:
        params, opt_state, loss = epoch(params, opt_state, x, labels, key)
        loss.block_until_ready()
        task.lap()
    return lambda x: np.argmax(net.apply(params, x), axis=1)


def train_pytorch(task: Task) -> Predict:
    """PyTorch, run eagerly; the data lies in tensors."""
    import torch
    from torch import nn

    torch.manual_seed(task.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = []
    for n_in, n_out in pairwise(task.sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate)
    objective = nn.CrossEntropyLoss()
    x = torch.from_numpy(task.x).to(device)
    labels = torch.from_numpy(task.labels).long().to(device)
    for _ in range(task.epochs):
        for rows in torch.randperm(len(x), device=device).split(task.batch_size):
            optimizer.zero_grad()
            loss = objective(model(x[rows]), labels[rows])
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        task.lap()
    return lambda x: model(torch.from_numpy(x).to(device)).argmax(1).cpu().numpy()


def train_sklearn(task: Task) -> Predict:
    """scikit-learn's `MLPClassifier`, which runs all epochs in one call."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        task.sizes[1:-1],
        solver="sgd",
        alpha=0,
        momentum=0,
        batch_size=task.batch_size,
        learning_rate_init=task.learning_rate,
        max_iter=task.epochs,
        n_iter_no_change=task.epochs,
        tol=0,
        random_state=task.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all the epochs were used: as asked
        model.fit(task.x, task.labels)
    task.lap()
    return model.predict


def train_flax(task: Task) -> Predict:
    """Flax NNX and optax, with a compiled step."""
    import jax
    import optax
    from flax import nnx

    rngs = nnx.Rngs(task.seed)
    layers = []
    for n_in, n_out in pairwise(task.sizes):
        layers += [nnx.Linear(n_in, n_out, rngs=rngs), nnx.relu]
    model = nnx.Sequential(*layers[:-1])
    optimizer = nnx.Optimizer(model, optax.sgd(task.learning_rate), wrt=nnx.Param)

    def objective(model, x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    @nnx.jit
    def step(model, optimizer, x, labels):
        loss, grads = nnx.value_and_grad(objective)(model, x, labels)
        optimizer.update(model, grads)
        return loss

    random = np.random.default_rng(task.seed)
    for _ in range(task.epochs):
        for x, labels in task.minibatches(random):
            loss = step(model, optimizer, x, labels)
        jax.block_until_ready(loss)
        task.lap()
    return lambda x: np.argmax(model(x), axis=1)


def train_equinox(task: Task) -> Predict:
    """Equinox and optax, with a compiled step."""
    import equinox as eqx
    import jax
    import optax

    keys = jax.random.split(jax.random.key(task.seed), len(task.sizes) - 1)
    layers = []
    for key, (n_in, n_out) in zip(keys, pairwise(task.sizes), strict=True):
        layers += [eqx.nn.Linear(n_in, n_out, key=key), eqx.nn.Lambda(jax.nn.relu)]
    model = eqx.nn.Sequential(layers[:-1])
    optimizer = optax.sgd(task.learning_rate)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))

    def objective(model, x, labels):
        logits = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @eqx.filter_jit
    def step(model, opt_state, x, labels):
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, labels)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    random = np.random.default_rng(task.seed)
    for _ in range(task.epochs):
        for x, labels in task.minibatches(random):
            model, opt_state, loss = step(model, opt_state, x, labels)
        jax.block_until_ready(loss)
        task.lap()
    return lambda x: np.argmax(jax.vmap(model)(x), axis=1)


LIBRARIES = {
    "jaxnn": train_jaxnn,
    "PyTorch": train_pytorch,
    "scikit-learn": train_sklearn,
    "Flax NNX": train_flax,
    "Equinox": train_equinox,
}


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes.

    On Linux the kernel's own figure for this program: that of `getrusage` would count the process
    that started it as well.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def seconds_per_epoch(start: float, laps: list[float], epochs: int) -> float:
    """The median after a warm-up of a tenth of the epochs; of a single call, the mean."""
    if len(laps) < epochs:
        return (laps[-1] - start) / epochs
    return float(np.median(np.diff(laps)[epochs // 10 :]))


def main() -> None:
    library, data, settings = sys.argv[1:]
    settings = json.loads(settings)
    laps = []
    with np.load(data) as arrays:
        x, labels, test_x, test_labels = (arrays[name] for name in arrays)
    task = Task(x, labels, lap=lambda: laps.append(time.monotonic()), **settings)
    start = time.monotonic()
    predict = LIBRARIES[library](task)
    figures = {
        "finished_at": laps[-1],
        "seconds_per_epoch": seconds_per_epoch(start, laps, task.epochs),
        "peak_bytes": peak_memory(),
        "accuracy": float(np.mean(predict(test_x) == test_labels)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
