"""Vanishing gradients: how much of the gradient each layer passes back, by activation and depth.

python -m experiments.gradient_flow
"""

from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common, resume
from experiments.backprop_graph import passes
from experiments.digits import Split, load

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

N_CLASSES = 10
LEARNING_RATE = 0.02
MOST_DEPTHS = 10  # depths to compare
LEAST_WIDTH = 32  # narrower, all the ReLUs of a layer may be dead


class Case(NamedTuple):
    """An activation with an initialisation of the weights.

    Attributes:
        activation: the op.
        w_init: one of `jax.nn.initializers`.
        largest_slope: the maximum of the activation's derivative.
        line: how its lines are drawn.
    """

    activation: jaxnn.Op
    w_init: Callable
    largest_slope: float
    line: str


CASES = {
    "sigmoid, Xavier": Case(jaxnn.sigmoid, jax.nn.initializers.glorot_uniform(), 0.25, "o-"),
    "tanh, Xavier": Case(jaxnn.tanh, jax.nn.initializers.glorot_uniform(), 1.0, "s--"),
    "ReLU, Xavier": Case(jaxnn.relu, jax.nn.initializers.glorot_uniform(), 1.0, "^:"),
    "ReLU, He": Case(jaxnn.relu, jax.nn.initializers.he_uniform(), 1.0, "D-."),
}


class Flow(NamedTuple):
    """The norms of the gradients of one network, first hidden layer to last.

    Attributes:
        delta: with respect to the input z of each activation.
        after: with respect to its output a.
        dw: with respect to the weights of each layer.
    """

    delta: list[float]
    after: list[float]
    dw: list[float]


class Factors(NamedTuple):
    """By what a step back multiplies the norm of the gradient, the geometric mean over the layers.

    Attributes:
        activation: from a to z, on average.
        largest: the same in the layer where it is largest.
        weights: from z to the a of the layer before, on average.
        layer: both together.
    """

    activation: float
    largest: float
    weights: float
    layer: float


def network(case: Case, n_inputs: int, width: int, depth: int) -> jaxnn.Layer:
    """Hidden layers of equal width, and a linear one for the classes."""
    layers = []
    for n_in, n_out in pairwise((n_inputs, *depth * [width], N_CLASSES)):
        layers += [jaxnn.Linear(n_in, n_out, w_init=case.w_init), case.activation]
    return jaxnn.serial(*layers[:-1])


def measure(case: Case, x: np.ndarray, labels: np.ndarray, width: int, depth: int, seed: int):
    """The `Flow` of one batch through a new network; in float64, which no depth underflows."""
    with jax.enable_x64(True):
        net = network(case, x.shape[1], width, depth)
        params = net.init(jax.random.key(seed))
        x, labels = jnp.asarray(x, jnp.float64), jnp.asarray(labels)
        found = passes(net, jaxnn.softmax_cross_entropy, params, x, labels)
        norms = [float(jnp.linalg.norm(delta)) for delta in found.deltas]
        dw = [float(jnp.linalg.norm(grads["w"])) for grads in common.linear_layers(found.grads)]
    return Flow(norms[0:-1:2], norms[1::2], dw[:-1])


def factors(flow: Flow) -> Factors:
    """What the activations and the weights do to the gradient between the last layer and the first.

    The last layer's own activation is omitted, so that there are as many of the one as of the
    other, and their product is the factor of a layer.
    """
    delta, after = np.array(flow.delta), np.array(flow.after)
    activation, weights = delta / after, after[:-1] / delta[1:]
    mean, mean_weights = (float(np.exp(np.log(f).mean())) for f in (activation[:-1], weights))
    return Factors(mean, float(activation.max()), mean_weights, mean * mean_weights)


def draw_flow(by_layer: dict[str, Flow], first_dw: dict[str, list[float]], depths: list[int]):
    """The gradient by layer in the deepest network, and the first layer's by depth."""
    figure, (layers, by_depth) = plt.subplots(1, 2, figsize=(9, 4.4))
    depth = depths[-1]
    numbers = np.arange(1, depth + 1)
    for name, flow in by_layer.items():
        layers.plot(numbers, flow.delta, CASES[name].line, markersize=4, label=name)
        by_depth.plot(depths, first_dw[name], CASES[name].line, markersize=4, label=name)
    last = by_layer["sigmoid, Xavier"].delta[-1]
    quarter = last * 0.25 ** (depth - numbers)
    layers.plot(numbers, quarter, color="black", linewidth=0.8, label="¼ per layer")
    sigmoid, relu = (by_layer[name] for name in ("sigmoid, Xavier", "ReLU, He"))
    ratio, relu_ratio = (flow.delta[0] / flow.delta[-1] for flow in (sigmoid, relu))
    layers.set(
        title=f"Last layer to first: × {ratio:.1g} with the sigmoid,\n"
        f"× {relu_ratio:.1g} with ReLU and He".replace("-", "−"),
        xlabel="hidden layer (the gradient comes from the right)",
        ylabel="norm of ∂loss/∂z of the layer",
    )
    by_depth.set(
        title=f"Gradient of the first of {depth} layers:\n"
        f"{sigmoid.dw[0]:.1g} with the sigmoid, {relu.dw[0]:.1g} with ReLU and He".replace(
            "-", "−"
        ),
        xlabel="hidden layers of the network",
        ylabel="norm of ∂loss/∂W of the first layer",
    )
    for axes in (layers, by_depth):
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = layers.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(
        f"Each layer multiplies the gradient by {factors(sigmoid).layer:.2f} with the sigmoid, "
        f"by {factors(relu).layer:.2f} with ReLU and He's initialisation"
    )
    return figure


def draw_training(histories: dict[str, dict[str, list[float]]], depth: int):
    """Loss and accuracy by epoch of networks that differ in nothing else."""
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(9, 4.4))
    for name, history in histories.items():
        epochs = range(1, len(history["loss"]) + 1)
        loss.plot(epochs, history["loss"], CASES[name].line, markersize=4, label=name)
        right = 100 * np.array(history["accuracy"])
        accuracy.plot(epochs, right, CASES[name].line, markersize=4)
    guess = {"color": "black", "linewidth": 0.8, "zorder": 1}
    loss.axhline(np.log(N_CLASSES), **guess, label="guessing")
    accuracy.axhline(100 / N_CLASSES, **guess)
    loss.set(ylabel="loss: mean cross-entropy (nats)", ylim=(0, None))
    accuracy.set(ylabel="training images read correctly (%)", ylim=(0, 102))
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    sigmoid, relu = (histories[name]["accuracy"][-1] for name in ("sigmoid, Xavier", "ReLU, He"))
    figure.suptitle(
        f"{depth} hidden layers, {common.count(len(epochs), 'epoch')}: the sigmoid network reads "
        f"{sigmoid:.1%} of the training images,\nReLU with He's initialisation {relu:.1%}"
    )
    return figure


def run(args: Namespace, data: Split) -> None:
    """Measure the gradients of new networks, train some, and write everything."""
    depths = sorted({round(depth) for depth in np.linspace(2, args.depth, MOST_DEPTHS)})
    batch = data.x[: args.batch_size], data.labels[: args.batch_size]
    flows = {name: [] for name in CASES}
    networks = [(name, depth) for name in CASES for depth in depths]
    print(f"measuring the gradients of {len(networks)} networks, at most {args.depth} layers deep")
    for name, depth in common.progress(networks, "gradients", "network"):
        flows[name].append(measure(CASES[name], *batch, args.width, depth, args.seed))

    histories = {}
    for name, case in CASES.items():
        print(f"training the network of {name}, {args.train_depth} layers deep")
        net = network(case, data.x.shape[1], args.width, args.train_depth)
        training = common.fit(
            net,
            jaxnn.softmax_cross_entropy,
            net.init(jax.random.key(args.seed)),
            (data.x, data.labels),
            epochs=args.epochs,
            learning_rate=LEARNING_RATE,
            seed=args.seed,
            metrics=jaxnn.accuracy,
            checkpoint=resume.folder(args, name),
            checkpoint_seconds=resume.SECONDS,
        )
        histories[name] = training.history

    deepest = {name: flow[-1] for name, flow in flows.items()}
    first_dw = {name: [flow.dw[0] for flow in each] for name, each in flows.items()}
    found = {name: factors(flow) for name, flow in deepest.items()}
    print(
        f"\n{args.depth} hidden layers of {args.width} units, a batch of {args.batch_size}: "
        "what one layer multiplies\nthe norm of the gradient by, on the way back"
    )
    rows = [
        (name, CASES[name].largest_slope, *factor, deepest[name].dw[0])
        for name, factor in found.items()
    ]
    headers = ("", "max f'", "f", "f, largest", "W", "f and W", "first ‖dW‖")
    print(tabulate(rows, headers, floatfmt=("", *5 * [".3f"], ".1e")))
    print(
        f"\n{args.train_depth} hidden layers after {common.count(args.epochs, 'epoch')} of training"
    )
    rows = [(name, each["loss"][-1], each["accuracy"][-1]) for name, each in histories.items()]
    print(tabulate(rows, ("", "loss (nats)", "accuracy"), floatfmt=".3f"))

    common.write_result(
        args.output,
        args,
        {
            "depths": depths,
            "cases": {
                name: {
                    "factors": found[name]._asdict(),
                    "largest_slope": CASES[name].largest_slope,
                    "deepest": deepest[name]._asdict(),
                    "first_layer_weight_gradient": first_dw[name],
                    "train_loss": histories[name]["loss"],
                    "train_accuracy": histories[name]["accuracy"],
                }
                for name in CASES
            },
        },
    )
    common.save_pictures(
        args.output,
        flow=draw_flow(deepest, first_dw, depths),
        training=draw_training(histories, args.train_depth),
    )
    print(f"\nwrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("gradient_flow", __doc__.splitlines()[0], trains=True)

    def add(option, type, default, text):
        text = f"{text} (default: %(default)s)"
        parser.add_argument(option, type=type, default=default, metavar="N", help=text)

    add("--depth", common.integer(2, 100), 20, "hidden layers of the deepest network")
    add("--width", common.integer(LEAST_WIDTH), 64, "units of a hidden layer")
    add("--batch-size", common.positive_int, 256, "images to take the gradient of")
    add("--train-depth", common.positive_int, 8, "hidden layers of the networks to train")
    add("--epochs", common.positive_int, 20, "passes over the data")
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    data = load("digits")
    parser.check_batch_size(args.batch_size, len(data.x), "images")
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
