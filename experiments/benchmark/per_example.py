"""Clipping each example's gradient, and curvature, against the ordinary step of the same network.

Where PyTorch and Opacus are installed (they are among the peers), the step by Opacus' ghost
clipping against PyTorch's own step, on the same machine.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn
from experiments.benchmark import report
from experiments.benchmark.processes import NotInstalled
from experiments.benchmark.timing import Contestant, Row, compiled, contest
from jaxnn import curvature, per_example

LOSS = jaxnn.softmax_cross_entropy
OPACUS = "Opacus: "

HEADERS = ("network", "ms", "to ordinary", "quartiles", "MiB", "ordinary MiB", "vmap to it")
LEGEND = (
    "to ordinary: time divided by that of the ordinary step of the same network, forward, backward "
    "and SGD, or of its gradient for curvature; vmap to it: time, and temporary memory, of a step "
    "with vmap(jax.grad) divided by those of the clipped one; MiB: temporary memory"
)


def _pixels(*shape):
    return lambda key: jax.random.normal(key, shape)


def _ids(below, *shape):
    return lambda key: jax.random.randint(key, shape, 0, below)


BLOCK = jaxnn.TransformerBlock(128, 4, causal=True)
POOLED = jaxnn.relu, jaxnn.max_pool.bind(window=2)
NETWORKS: dict[str, tuple[jaxnn.Layer, Callable, Callable]] = {
    "MLP 784-512-512-10, batch 128": (
        jaxnn.mlp((784, 512, 512, 10)),
        _pixels(128, 784),
        _ids(10, 128),
    ),
    "CNN 16 and 32 channels, batch 64": (
        jaxnn.serial(
            *(jaxnn.Conv(1, 16, (3, 3)), *POOLED, jaxnn.Conv(16, 32, (3, 3)), *POOLED),
            *(jaxnn.flatten, jaxnn.Linear(7 * 7 * 32, 10)),
        ),
        _pixels(64, 28, 28, 1),
        _ids(10, 64),
    ),
    "embedding and LSTM, 32 steps, batch 64": (
        jaxnn.serial(
            jaxnn.Embedding(1000, 64),
            jaxnn.batch_first(jaxnn.LSTM(64, 128)),
            jaxnn.Linear(128, 10),
        ),
        _ids(1000, 64, 32),
        _ids(10, 64, 32),
    ),
    "transformer D 128, T 64, batch 64": (
        jaxnn.serial(jaxnn.Embedding(256, 128), BLOCK, BLOCK, jaxnn.Linear(128, 256)),
        _ids(256, 64, 64),
        _ids(256, 64, 64),
    ),
}
OF_PYTORCH = tuple(NETWORKS)[:2]
CURVED = jaxnn.mlp((784, 128, 64, 10))
CURVATURE: dict[str, Callable] = {
    "diag_ggn": lambda: curvature.diag_ggn(CURVED, LOSS),
    "KFAC": lambda: _with_key(curvature.kronecker_factors(CURVED, LOSS, samples=1)),
    "KFLR": lambda: curvature.kronecker_factors(CURVED, LOSS),
}


def rows(seed: int) -> dict[str, Row]:
    """For each network and each curvature, what measures it on a platform for some rounds."""
    found = {name: partial(_clipped, name, seed) for name in NETWORKS}
    found |= {
        f"{name} of 784-128-64-10, batch 128": partial(_curvature, made, seed)
        for name, made in CURVATURE.items()
    }
    found |= {OPACUS + name: partial(_opacus, name, seed) for name in OF_PYTORCH}
    return {name: Row(make, partial(contest, name=name)) for name, make in found.items()}


def _with_key(function):
    return lambda params, x, labels: function(params, x, labels, jax.random.key(0))


def _clipped(name, seed, platform) -> dict[str, Contestant]:
    net, *data = NETWORKS[name]
    key = jax.random.key(seed)
    args = (net.init(key), *(make(key) for make in data))

    def step(gradient):
        def update(params, x, labels):
            value, grads = gradient(params, x, labels)
            return value, jaxnn.sgd_update(params, grads, 0.01)

        return compiled(update, *args)

    sides = {
        "clipped": step(per_example.value_and_clipped_grad(net, LOSS, 1.0)),
        "ordinary": step(jaxnn.value_and_grad(net, LOSS, "sum")),
    }
    if name.startswith("MLP"):
        sides["vmap"] = step(partial(_clipped_by_vmap, net))
    return sides


def _clipped_by_vmap(net, params, x, labels):
    """The same by `vmap(jax.grad)` of the definitions."""

    def of_one(params, x, label):
        with jaxnn.definitions():
            return LOSS(net.apply(params, x[None]), label[None])[0]

    values, grads = jax.vmap(jax.value_and_grad(of_one), (None, 0, 0))(params, x, labels)
    squares = (jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(grads))
    weights = 1 / jnp.maximum(jnp.sqrt(sum(squares)), 1)
    return jnp.sum(values), jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), grads)


def _curvature(made, seed, platform) -> dict[str, Contestant]:
    key = jax.random.key(seed)
    args = CURVED.init(key), _pixels(128, 784)(key), _ids(10, 128)(key)
    gradient = jaxnn.value_and_grad(CURVED, LOSS)
    return {"curvature": compiled(made(), *args), "ordinary": compiled(gradient, *args)}


def _opacus(name, seed, platform) -> dict[str, Contestant]:
    """Ghost clipping and the plain step of PyTorch; nothing is compiled."""
    if platform != "cpu":
        raise NotInstalled("Opacus is measured on a CPU alone")
    if find_spec("opacus") is None:
        raise NotInstalled("opacus is not installed; it is among the peers")
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
    from torch import nn, optim

    x, labels = _of_pytorch(name, seed)
    plain, private = _module(name), _module(name)
    private = GradSampleModuleFastGradientClipping(
        private, max_grad_norm=1.0, use_ghost_clipping=True
    )
    optimizer = optim.SGD(plain.parameters(), 0.01)
    private_optimizer = DPOptimizerFastGradientClipping(
        optim.SGD(private.parameters(), 0.01),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=len(x),
    )
    private_loss = DPLossFastGradientClipping(private, private_optimizer, nn.CrossEntropyLoss())

    def step(net, loss, optimizer):
        def update():
            optimizer.zero_grad()
            loss(net(x), labels).backward()
            optimizer.step()

        return Contestant(update, {})

    return {
        "clipped": step(private, private_loss, private_optimizer),
        "ordinary": step(plain, nn.CrossEntropyLoss(), optimizer),
    }


def _of_pytorch(name, seed):
    """The data of a network as PyTorch has it, channels first."""
    import numpy as np
    import torch

    key = jax.random.key(seed)
    x, labels = (np.asarray(make(key)) for make in NETWORKS[name][1:])
    x = np.moveaxis(x, -1, 1) if x.ndim > 2 else x
    return torch.tensor(x), torch.tensor(labels, dtype=torch.int64)


def _module(name):
    """The same network in PyTorch."""
    from torch import nn

    if name.startswith("MLP"):
        return nn.Sequential(
            *(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(7 * 7 * 32, 10)),
    )


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    first, *_ = figures["seconds"]
    ratio, costs = figures["ratio"], figures["costs"]
    memory = {side: cost.get("temporary_bytes") for side, cost in costs.items()}
    return (
        name,
        report.milliseconds(figures["seconds"][first]),
        report.median(ratio["ordinary"]),
        report.spread(ratio["ordinary"]),
        *(_mebibytes(memory[side]) for side in (first, "ordinary")),
        _to_vmap(figures["seconds"], memory) if "vmap" in memory else "",
    )


def _mebibytes(size: float | None) -> str:
    return "" if size is None else report.mebibytes(size)


def _to_vmap(seconds: dict[str, float], memory: dict[str, Any]) -> str:
    times = seconds["vmap"] / seconds["clipped"]
    return f"{times:.0f} ×, {memory['vmap'] / memory['clipped']:.0f} × the memory"


def draw(measured: dict[str, report.Figures]):
    """The ratio of each row to the ordinary step."""
    figure, axes = report.plt.subplots(figsize=(7, 1 + 0.3 * len(measured)))
    ratios = {name: figures["ratio"]["ordinary"]["median"] for name, figures in measured.items()}
    report.draw_bars(axes, ratios, "Time divided by that of the ordinary step", "%.2f")
    axes.axvline(1, color="#666666", linewidth=1)
    return figure
