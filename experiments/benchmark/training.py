"""Epochs of whole networks, against the same code with jax.value_and_grad."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Jaxpr

import jaxnn
from experiments import char_gpt, char_lstm, cnn, common
from experiments.benchmark import report
from experiments.benchmark.timing import Contestant, Row, compiled, contest, costs

SQUARE = 2048  # rows and columns of the matrices whose product is this machine's rate

HEADERS = (
    "network",
    "batch",
    "ms per epoch",
    "to autodiff",
    "quartiles",
    "Gflop/s",
    "of the product's",
    "MiB",
    "autodiff MiB",
)
LEGEND = (
    "to autodiff: time of an epoch divided by that of the same epoch with jax.value_and_grad; "
    "Gflop/s: the operations of the network's matrix products and convolutions, by the time of the "
    f"whole epoch; of the product's: that rate divided by the rate of one product of {SQUARE} × "
    f"{SQUARE} matrices, measured in turn with the epochs; MiB: temporary memory"
)


class Case(NamedTuple):
    """A network and data to train it on for an epoch.

    Attributes:
        net: the network.
        batch_size: examples in each minibatch.
        n: examples.
        x: `(key, n) -> x`.
        target: `(key, n) -> labels`.
    """

    net: jaxnn.Layer
    batch_size: int
    n: int
    x: Callable
    target: Callable


def _pixels(*shape):
    return lambda key, n: 0.3 * jax.random.normal(key, (n, *shape))  # the spread of MNIST's


def _numbers(below, *shape):
    return lambda key, n: jax.random.randint(key, (n, *shape), 0, below)


def _perceptron(sizes, batch_size, n):
    return Case(jaxnn.mlp(sizes), batch_size, n, _pixels(sizes[0]), _numbers(sizes[-1]))


CASES = {
    "64-128-10": _perceptron((64, 128, 10), 64, 1437),
    "784-512-512-10": _perceptron((784, 512, 512, 10), 128, 3840),
    "784-2048-2048-10": _perceptron((784, 2048, 2048, 10), 512, 2048),
    "CNN": Case(cnn.convolutional(16, 0.3), 64, 1437, _pixels(64), _numbers(10)),
    "LSTM": Case(
        char_lstm.network(64, dim=32, hidden=128), 32, 640, _numbers(64, 64), _numbers(64, 64)
    ),
    "transformer": Case(
        char_gpt.network(64, dim=64, heads=4, blocks=2, context=64),
        32,
        320,
        _numbers(64, 64),
        _numbers(64, 64),
    ),
}


def rows(seed: int) -> dict[str, Row]:
    """For each network, what measures it on a platform for a number of rounds."""
    return {
        name: Row(partial(_compiled, case, seed), partial(_measured, name, case))
        for name, case in CASES.items()
    }


def _compiled(case, seed, platform):
    """An epoch both ways and the product, and the operations of the epoch's products."""
    params_key, x_key, target_key, key = jax.random.split(jax.random.key(seed), 4)
    params = case.net.init(params_key)
    x, target = case.x(x_key, case.n), case.target(target_key, case.n)
    loss = jaxnn.softmax_cross_entropy
    ways = {"jaxnn": jaxnn.value_and_grad, "autodiff": common.autodiff}
    contestants = {
        side: _epoch(way(case.net, loss), case, params, x, target, key)
        for side, way in ways.items()
    }
    square = jax.random.normal(key, (SQUARE, SQUARE))
    contestants["product"] = compiled(jnp.matmul, square, square)
    state = case.net.init_state() if case.net.stateful else None

    def objective(params):
        with jaxnn.definitions():
            return jnp.mean(loss(case.net.apply(params, x, state), target))

    return contestants, product_flops(jax.make_jaxpr(jax.grad(objective))(params).jaxpr)


def _measured(name, case, programs, rounds):
    contestants, flops = programs
    figures = contest(contestants, rounds, name)
    ratio = figures["ratio"].pop("product")  # a high one is a low share of the product's rate
    return figures | {
        "batch_size": case.batch_size,
        "flops_per_second": flops / figures["seconds"]["jaxnn"],
        "share_of_product_rate": {
            quartile: flops / (2 * SQUARE**3) / ratio[opposite]
            for quartile, opposite in (("q1", "q3"), ("median", "median"), ("q3", "q1"))
        },
    }


def _epoch(gradient, case, params, x, target, key) -> Contestant:
    optimizer = optax.sgd(0.1)
    params = jax.tree.map(jnp.copy, params)
    stateful = case.net.stateful
    state = (case.net.init_state(),) if stateful else ()
    carry = [params, optimizer.init(params), *state]
    epoch = jaxnn.epoch_of(gradient, optimizer, case.batch_size, stateful=stateful)
    program = epoch.lower(*carry, x, target, key).compile()

    def run_epoch():
        nonlocal carry
        *carry, value = epoch(*carry, x, target, key)
        jax.block_until_ready((carry, value))

    run_epoch()  # compiles what is called
    return Contestant(run_epoch, costs(program))


def product_flops(jaxpr: Jaxpr) -> float:
    """The operations of all matrix products and convolutions, those in a scan for each step."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            total += 2 * out.size * math.prod(lhs[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            n_out = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out.size * kernel.size / n_out
        times = equation.params["length"] if name == "scan" else 1
        total += times * sum(product_flops(inner) for inner in _inner(equation.params))
    return total


def _inner(params):
    """The programs that an equation calls."""
    return [value for value in jax.tree.leaves(list(params.values())) if hasattr(value, "eqns")]


def draw(measured: dict[str, report.Figures]):
    """Each network's time and memory, divided by autodiff's."""
    return report.draw_ratios(measured, "An epoch of training: jaxnn against jax.value_and_grad")


def cells(name: str, figures: report.Figures) -> tuple:
    """One line of the table."""
    memory = [figures["costs"][side]["temporary_bytes"] for side in ("jaxnn", "autodiff")]
    return (
        name,
        str(figures["batch_size"]),
        report.milliseconds(figures["seconds"]["jaxnn"]),
        report.median(figures["ratio"]["autodiff"]),
        report.spread(figures["ratio"]["autodiff"]),
        f"{figures['flops_per_second'] / 1e9:.0f}",
        report.median(figures["share_of_product_rate"]),
        *map(report.mebibytes, memory),
    )
