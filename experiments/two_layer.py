"""Two layers, Linear₁ → f → Linear₂ → g: every f and g, with its tables filled in, and trained.

python -m experiments.two_layer

Regression is of a target scaled to 0 … 1, which every g can reach, with the squared error.
Classification is with the binary cross-entropy: of the probabilities that g = sigmoid gives, or of
the logits that g = identity gives. The output of a ReLU is neither, so it does not classify.

The tables and the five steps are those of R. Kumar, "Homework 1: Backprop", 2022, filled in for
the first batch; each row of a batch is an example, and W is (inputs, outputs).
"""

import argparse
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common, resume
from jaxnn.layer import Params

datasets = common.require("sklearn.datasets")
model_selection = common.require("sklearn.model_selection")
tabulate = partial(common.require("tabulate").tabulate, disable_numparse=True)
plt = common.pyplot()


class Formulas(NamedTuple):
    """An op in formulas.

    Attributes:
        op: an activation y = f(z), or a loss whose mean over a batch is L.
        value: y, or L.
        slope: f'(z) as one more factor of a product, or ∂L/∂ŷ.
    """

    op: jaxnn.Op
    value: str
    slope: str


ACTIVATIONS = {
    "relu": Formulas(jaxnn.relu, "max(0, {z})", " ⊙ 1[{z} > 0]"),
    "sigmoid": Formulas(jaxnn.sigmoid, "σ({z})", " ⊙ {y} ⊙ (1 − {y})"),
    "identity": Formulas(jaxnn.identity, "{z}", ""),
}
SQUARED = Formulas(jaxnn.squared_error, "Σₙ (ŷ − y)²/N", "2·(ŷ − y)/N")
PROBABILITY = Formulas(
    jaxnn.binary_cross_entropy,
    "−Σₙ (y·log ŷ + (1 − y)·log(1 − ŷ))/N",
    "(ŷ − y)/(N·ŷ·(1 − ŷ))",
)
LOGIT = Formulas(jaxnn.sigmoid_cross_entropy, "Σₙ (log(1 + exp ŷ) − y·ŷ)/N", "(σ(ŷ) − y)/N")
LOSSES = {
    "regression": dict.fromkeys(ACTIVATIONS, SQUARED),
    "classification": {"sigmoid": PROBABILITY, "identity": LOGIT},
}
BATCH_SIZE = 32  # by default
MEASURES = {  # of the test examples; RMSE in the units of the data
    "regression": {"rmse": "RMSE", "r_squared": "R²"},
    "classification": {"accuracy": "accuracy"},
}
LOSS_LABELS = {
    "regression": "squared error (target in 0 … 1)",
    "classification": "binary cross-entropy (nats)",
}
LINES = {  # of each g; the widest lies below, and shows where two coincide
    "relu": {"color": "C2", "linestyle": ":"},
    "sigmoid": {"color": "C1", "linestyle": "--"},
    "identity": {"color": "C5", "linewidth": 4, "zorder": 1},
}
GRADIENTS = {"W¹": "xᵀ·Δ₁", "b¹": "Σₙ Δ₁", "W²": "z₂ᵀ·Δ₂", "b²": "Σₙ Δ₂"}


class Data(NamedTuple):
    """Inputs (N, I) and targets (N, 1) in float32, to train and to test on.

    Attributes:
        unit: what a difference of 1 between two targets is in the data set.
    """

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    unit: float


class Network(NamedTuple):
    """A network for a task, untrained."""

    task: str
    f: str
    g: str
    net: jaxnn.Layer
    loss: Formulas
    params: Params


def load(task: str) -> Data:
    """The data of a task, always split in the same way, with about a fifth of it to test on.

    The rest is a whole number of batches of the default size, so that no epoch ends with a noisy
    step of one or a few examples. It also gives the scale that standardises the inputs, and the
    one that takes the targets to 0 … 1.
    """
    if task == "regression":
        x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    else:
        x, y = datasets.load_breast_cancer(return_X_y=True)
    train_size = 4 * len(x) // 5 // BATCH_SIZE * BATCH_SIZE
    x, test_x, y, test_y = model_selection.train_test_split(
        x, y[:, None], train_size=train_size, random_state=0
    )
    mean, deviation, least, unit = x.mean(axis=0), x.std(axis=0), y.min(), float(np.ptp(y))

    def scale(x, y):
        return ((x - mean) / deviation).astype(np.float32), ((y - least) / unit).astype(np.float32)

    return Data(*scale(x, y), *scale(test_x, test_y), unit)


def build(task: str, f: str, g: str, sizes: tuple[int, int, int], seed: int) -> Network:
    net = jaxnn.mlp(sizes, ACTIVATIONS[f].op, ACTIVATIONS[g].op)
    return Network(task, f, g, net, LOSSES[task][g], net.init(jax.random.key(seed)))


def by_name(params: Params) -> dict[str, jax.Array]:
    """The leaves of the two linear layers by their names in `GRADIENTS`."""
    leaves = [layer[leaf] for layer in common.linear_layers(params) for leaf in ("w", "b")]
    return dict(zip(GRADIENTS, leaves, strict=True))


def gradient_errors(network: Network, x, y) -> dict[str, float]:
    """The relative error of each gradient; the referee is `jax.grad`, in float64."""
    gradients = common.both_gradients(network.net, network.loss.op, network.params, x, y)
    errors = common.relative_errors(*map(by_name, gradients))
    return {name: errors[name] for name in GRADIENTS}


def first_step(network: Network, x, y, rate: float) -> dict[str, Any]:
    """One step of gradient descent in five steps, printed with the tables of its batch."""
    net, loss, params = network.net, network.loss.op, network.params
    prediction, kept = net.fwd(params, x)
    losses, loss_kept = loss.fwd(prediction, y)
    d_prediction, _ = loss.bwd(loss_kept, jnp.full_like(losses, 1 / len(x)))
    grads, _ = net.bwd(kept, d_prediction)
    updated = jaxnn.sgd_update(params, grads, rate)

    value, next_value = (float(jnp.mean(loss(net.apply(p, x), y))) for p in (params, updated))
    norms = {name: _norm(grad) for name, grad in by_name(grads).items()}
    errors = gradient_errors(network, x, y)
    steps = [
        ["1 forward", "ŷ, kept = net.fwd(params, x)", f"‖ŷ‖ = {_norm(prediction):.4g}"],
        ["2 loss", "losses, loss_kept = loss.fwd(ŷ, y)", f"L = mean(losses) = {value:.4g}"],
        ["3 zero gradients", "", "nothing to zero: gradients are returned, not added up"],
        ["4 backward", "dŷ, _ = loss.bwd(loss_kept, 1/N)", f"‖dŷ‖ = {_norm(d_prediction):.4g}"],
        ["", "grads, _ = net.bwd(kept, dŷ)", f"‖grads‖ = {np.hypot.reduce([*norms.values()]):.4g}"],
        ["5 update", f"params = sgd_update(params, grads, {rate:g})", f"L = {next_value:.4g} now"],
    ]
    f, g = ACTIVATIONS[network.f], ACTIVATIONS[network.g]
    rows = [
        [name, GRADIENTS[name], str(grad.shape), f"{norms[name]:.4g}", f"{errors[name]:.0e}"]
        for name, grad in by_name(grads).items()
    ]
    print(f"{network.task}: Linear₁ → {network.f} → Linear₂ → {network.g}\n")
    print(tabulate(forward_rows(network, x, value), ["Layer", "Input", "Output", "Shape", "Norm"]))
    print()
    print(tabulate(rows, ["Parameter", "Gradient", "Shape", "Norm", "Error"]))
    print(f"where Δ₂ = {network.loss.slope}{g.slope.format(z='z₃', y='ŷ')}")
    print(f"and   Δ₁ = Δ₂·W²ᵀ{f.slope.format(z='z₁', y='z₂')}\n")
    print(tabulate(steps, ["Step", "Code", "Value"]), end="\n\n\n")
    return {
        "loss": value,
        "next_loss": next_value,
        "gradient_norm": norms,
        "gradient_error": errors,
    }


def forward_rows(network: Network, x: jax.Array, loss: float) -> list[list[str]]:
    """Layer, input, output, and the output's shape and norm."""
    f, g = ACTIVATIONS[network.f], ACTIVATIONS[network.g]
    rows = [
        ["Linear₁", "x, W¹, b¹", "z₁ = x·W¹ + b¹"],
        [f"f = {network.f}", "z₁", "z₂ = " + f.value.format(z="z₁")],
        ["Linear₂", "z₂, W², b²", "z₃ = z₂·W² + b²"],
        [f"g = {network.g}", "z₃", "ŷ = " + g.value.format(z="z₃")],
    ]
    for row, layer, params in zip(rows, network.net.layers, network.params, strict=True):
        x = layer.apply(params, x)
        row += [str(x.shape), f"{_norm(x):.4g}"]
    return [*rows, ["loss", "ŷ, y", f"L = {network.loss.value}", "()", f"{loss:.4g}"]]


def _norm(array: jax.Array) -> float:
    return float(jnp.linalg.norm(array))


def train(network: Network, data: Data, args: argparse.Namespace) -> dict[str, Any]:
    """Train a network and measure it on the test examples."""
    training = common.fit(
        network.net,
        network.loss.op,
        network.params,
        (data.x, data.y),
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        validation_data=(data.test_x, data.test_y),
        checkpoint=resume.folder(args, f"{network.task} {network.f} {network.g}"),
        checkpoint_seconds=resume.SECONDS,
        progress=False,
    )
    prediction = np.asarray(jaxnn.predict(network.net, training, data.test_x))
    if network.task == "regression":
        mean_square = float(np.mean((prediction - data.test_y) ** 2))
        measured = {
            "rmse": data.unit * mean_square**0.5,
            "r_squared": 1 - mean_square / float(data.test_y.var()),
        }
    else:
        yes = prediction > (0 if network.loss is LOGIT else 0.5)
        measured = {"accuracy": float(np.mean(yes == data.test_y))}
    history = training.history
    return measured | {"train_loss": history["loss"], "test_loss": history["validation_loss"]}


def draw_curves(results: list[dict[str, Any]]):
    """The test loss by epoch, in a row of panels for each task and a column for each f."""
    tasks, fs = (list(dict.fromkeys(result[key] for result in results)) for key in ("task", "f"))
    size = max(6, 2.7 * len(fs)), 2.4 * len(tasks) + 0.8
    figure, grid = plt.subplots(
        len(tasks), len(fs), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for result in results:
        axes = grid[tasks.index(result["task"]), fs.index(result["f"])]
        epochs = range(1, len(result["test_loss"]) + 1)
        label = f"g = {result['g']}{' (starts dead)' * starts_dead(result)}"
        axes.plot(epochs, result["test_loss"], **LINES[result["g"]], label=label)
        axes.set(title=f"{result['task']}, f = {result['f']}", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8)
    for task, row in zip(tasks, grid, strict=True):
        row[0].set_ylabel(LOSS_LABELS[task])
        row[0].yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
        row[0].yaxis.set_major_formatter("{x:g}")
        row[0].yaxis.set_minor_formatter("")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    ranges = (
        f"{task} {_range([r for r in results if r['task'] == task], lambda r: r['test_loss'][-1])}"
        for task in tasks
    )
    figure.suptitle("Test loss at the end, f → g, from best to worst:\n" + "\n".join(ranges))
    return figure


def draw_gradients(results: list[dict[str, Any]]):
    """The norm of the gradient of each parameter before training, in a row for each network."""
    figure, axes = plt.subplots(figsize=(8, 1.8 + 0.28 * len(results)))
    rows = range(len(results))
    for name, marker in zip(GRADIENTS, "os^D", strict=True):
        norms = [result["gradient_norm"][name] for result in results]
        axes.plot(norms, rows, marker, fillstyle="none", markeredgewidth=1.6, label=name)
    for row, result in enumerate(results):
        if starts_dead(result):
            text = "dead ReLU: the output and all gradients of this batch are 0"
            axes.text(4e-4, row, text, va="center", backgroundcolor="white", fontsize=9)
    axes.set_xscale("symlog", linthresh=1e-3)  # a ReLU output can leave every gradient at 0
    axes.set_xlim(left=-3e-4)
    axes.set_yticks(rows, [f"{r['task']}, {r['f']} → {r['g']}" for r in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel("norm of the gradient of the first batch")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    living = [result for result in results if not starts_dead(result)]
    dead = len(results) - len(living)
    figure.suptitle(
        "Norm of ∂L/∂W¹ before training, f → g:\n"
        + _range(living or results, lambda r: r["gradient_norm"]["W¹"])
        + f", apart from {common.count(dead, 'dead network')}" * bool(dead)
    )
    return figure


def starts_dead(result) -> bool:
    """Whether the ReLU of the output is 0 for the whole first batch, and so every gradient."""
    return result["g"] == "relu" and not any(result["gradient_norm"].values())


def _range(results, measure):
    """The least and the greatest of a measure, as text."""
    ends = [pick(results, key=measure) for pick in (min, max)]
    texts = [f"{measure(end):#.2g} ({end['f']} → {end['g']})" for end in ends]
    return " to ".join(dict.fromkeys(texts))


def run(args: argparse.Namespace, data: dict[str, Data]) -> None:
    """Print the tables, train, and write everything to the output folder."""
    networks = [
        build(task, f, g, (data[task].x.shape[1], args.hidden, 1), args.seed)
        for task, f, g in product(data, args.f, args.g)
        if g in LOSSES[task]
    ]
    steps = []
    for network in networks:
        x, y = (jnp.asarray(array[: args.batch_size]) for array in data[network.task][:2])
        steps.append(first_step(network, x, y, args.learning_rate))
    print(f"training {common.count(len(networks), 'network')}\n")
    bar = common.progress(networks, "training", "network")
    results = [
        {"task": network.task, "f": network.f, "g": network.g}
        | step
        | train(network, data[network.task], args)
        for network, step in zip(bar, steps, strict=True)
    ]

    for task, of in data.items():
        measures = MEASURES[task]
        rows = [
            [
                *(result["f"], result["g"]),
                *(f"{result[name][-1]:.4f}" for name in ("train_loss", "test_loss")),
                *(f"{result[name]:.4g}" for name in measures),
                f"{max(result['gradient_error'].values()):.0e}",
            ]
            for result in results
            if result["task"] == task
        ]
        headers = ["f", "g", "train loss", "test loss", *measures.values(), "gradient error"]
        print(f"{task}: {len(of.x)} examples to train on, {len(of.test_x)} to test on")
        print(tabulate(rows, headers), "\n")
    common.write_result(args.output, args, {"networks": results})
    common.save_pictures(
        args.output, learning_curves=draw_curves(results), gradients=draw_gradients(results)
    )
    print(f"wrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("two_layer", __doc__.splitlines()[0], trains=True)
    for option, choices in (("--task", LOSSES), ("--f", ACTIVATIONS), ("--g", ACTIVATIONS)):
        parser.add_argument(
            option, nargs="+", choices=choices, default=list(choices), help="default: all"
        )
    add = partial(parser.add_argument, metavar="N", type=common.positive_int)
    add("--hidden", default=16, help="units of the hidden layer (default: %(default)s)")
    add("--epochs", default=50, help="default: %(default)s")
    add("--batch-size", default=BATCH_SIZE, help="default: %(default)s")
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        default=0.1,
        metavar="RATE",
        help="default: %(default)s",
    )
    args = parser.parse_args(arguments)
    data = {task: load(task) for task in args.task if any(g in LOSSES[task] for g in args.g)}
    if not data:
        parser.error("--task classification takes --g sigmoid or identity, not relu")
    most = min(len(of.x) for of in data.values())
    if args.batch_size > most:
        parser.error(f"--batch-size is {args.batch_size} but there are {most} examples to train on")
    parser.make_folder(args.output)
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
