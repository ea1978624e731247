"""MLP forward and backward in one picture: the values, what each box keeps, and the gradients.

python -m experiments.backprop_graph
"""

import textwrap
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common, resume
from experiments.digits import load

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

MOST_HIDDEN = 4  # hidden layers that one picture holds
LEARNING_RATE = 0.5
TITLES = {"linear": "Linear", "relu": "ReLU"}
FORWARD, BACKWARD = common.PALETTE[:2]
# inches: the picture, from the top of a box to the next, the height of a box, its two sides
WIDTH, STEP, BOX, LEFT, RIGHT = 6.4, 0.95, 0.6, 0.1, 4.1


class Passes(NamedTuple):
    """A forward and a backward pass, with all that is in between.

    Attributes:
        outputs: the output of each layer.
        residuals: what each layer keeps.
        losses: the loss of each example.
        loss_residuals: what the loss keeps.
        deltas: the gradient of the mean loss with respect to each output.
        grads: that with respect to each layer's parameters.
    """

    outputs: list[jax.Array]
    residuals: list[Any]
    losses: jax.Array
    loss_residuals: Any
    deltas: list[jax.Array]
    grads: list[Any]


@dataclass(frozen=True)
class Kept:
    """An array that a box keeps for its backward; `shared` if an earlier box keeps it too."""

    name: str
    shape: tuple[int, ...]
    n_bytes: int
    shared: bool


@dataclass(frozen=True)
class Gradient:
    """A gradient, and its relative error against `jax.grad` of the definitions in float64."""

    shape: tuple[int, ...]
    norm: float
    error: float


@dataclass(frozen=True)
class Box:
    """A stage of the network.

    Attributes:
        title: its name in the picture.
        shape: the shape of its output.
        low: the smallest value of the output.
        high: the largest.
        kept: what it keeps for its backward.
        delta: the gradient of its output.
        grads: those of its parameters.
    """

    title: str
    shape: tuple[int, ...]
    low: float
    high: float
    kept: tuple[Kept, ...]
    delta: Gradient | None = None
    grads: dict[str, Gradient] = field(default_factory=dict)


def passes(net: jaxnn.Layer, loss: jaxnn.Op, params, x: jax.Array, labels: jax.Array) -> Passes:
    """Backpropagation step by step: each layer's `fwd`, then each layer's `bwd` in reverse."""
    outputs, residuals = [], []
    y = x
    for layer, layer_params in zip(net.layers, params, strict=True):
        y, kept = layer.fwd(layer_params, y)
        outputs.append(y)
        residuals.append(kept)
    losses, loss_residuals = loss.fwd(y, labels)

    delta, _ = loss.bwd(loss_residuals, jnp.full_like(losses, 1 / losses.size))
    deltas, grads = [], []
    for layer, kept in zip(reversed(net.layers), reversed(residuals), strict=True):
        deltas.append(delta)
        layer_grads, delta = layer.bwd(kept, delta)
        grads.append(layer_grads)
    return Passes(outputs, residuals, losses, loss_residuals, deltas[::-1], grads[::-1])


def autodiff(net: jaxnn.Layer, loss: jaxnn.Op, params, x, labels, shapes) -> tuple:
    """The deltas and the gradients by `jax.grad` of the definitions, in float64.

    A zero is added to each output, of these shapes: its gradient is that of the output.
    """

    def objective(zeros, params):
        y = x
        with jaxnn.definitions():
            for layer, layer_params, zero in zip(net.layers, params, zeros, strict=True):
                y = layer.apply(layer_params, y) + zero
            return jnp.mean(loss(y, labels))

    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
        zeros = [np.zeros(shape) for shape in shapes]
        return jax.jit(jax.grad(objective, argnums=(0, 1)))(zeros, params)


def boxes(net: jaxnn.Layer, loss: jaxnn.Op, params, x: jax.Array, labels: jax.Array) -> list[Box]:
    """Run both passes and describe every stage, from the input to the loss."""
    with jax.default_matmul_precision("highest"):
        found = passes(net, loss, params, x, labels)
    shapes = [y.shape for y in found.outputs]
    true_deltas, true_grads = autodiff(net, loss, params, x, labels, shapes)
    seen = set()

    def keeps(residuals):
        kept = []
        for path, array in jax.tree_util.tree_leaves_with_path(residuals):
            name = jax.tree_util.keystr(path[-1:], simple=True)
            kept.append(Kept(name, array.shape, array.nbytes, id(array) in seen))
            seen.add(id(array))
        return tuple(kept)

    def gradient(array, expected):
        (error,) = common.relative_errors(array, expected).values()
        return Gradient(array.shape, float(jnp.linalg.norm(array)), error)

    def box(title, y, residuals=(), **gradients):
        return Box(title, y.shape, float(y.min()), float(y.max()), keeps(residuals), **gradients)

    stages = [box("Input", x)]
    for i, (layer, y) in enumerate(zip(net.layers, found.outputs, strict=True)):
        grads = dict(found.grads[i])
        stages.append(
            box(
                f"{TITLES[layer.op.__name__]} {i // 2 + 1}",
                y,
                found.residuals[i],
                delta=gradient(found.deltas[i], true_deltas[i]),
                grads={name: gradient(grads[name], true_grads[i][name]) for name in grads},
            )
        )
    return [*stages, box("Softmax cross-entropy", found.losses, found.loss_residuals)]


def kept_bytes(stages: list[Box]) -> int:
    """The bytes that the boxes keep together, a shared array once."""
    return sum(kept.n_bytes for box in stages for kept in box.kept if not kept.shared)


def worst_error(stages: list[Box]) -> float:
    """The largest relative error of a gradient."""
    return max(g.error for box in stages if box.delta for g in (box.delta, *box.grads.values()))


def times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def size(n_bytes: int) -> str:
    for unit, bytes_each in (("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= bytes_each:
            return f"{n_bytes / bytes_each:.1f} {unit}"
    return f"{n_bytes} B"


def number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def table(stages: list[Box]) -> str:
    """What the picture shows, a row for each box."""
    rows = []
    for box in stages:
        kept = ", ".join(kept.name + "*" * kept.shared for kept in box.kept)
        gradients = box.delta, box.grads.get("w"), box.grads.get("b")
        rows.append(
            (
                *(box.title, times(box.shape), f"{number(box.low)} … {number(box.high)}"),
                *(kept, size(kept_bytes([box]))),
                *(gradient and number(gradient.norm) for gradient in gradients),
            )
        )
    headers = ("box", "output", "range", "keeps", "bytes", "‖δ‖", "‖dw‖", "‖db‖")
    return tabulate(rows, headers, colalign=("left", "right", *2 * ["left"], *4 * ["right"]))


@plt.rc_context({"font.size": 9})
def draw_graph(stages: list[Box], moment: str, mean_loss: float):
    """The network from the input down to the loss; the gradients go up again on the right."""
    height = STEP * len(stages)
    figure, axes = plt.subplots(figsize=(WIDTH, height + 0.5))
    axes.set(xlim=(0, WIDTH), ylim=(-height, 0.02))
    axes.set_axis_off()
    figure.suptitle(
        f"{moment}: mean loss {number(mean_loss)} nats, residuals of {size(kept_bytes(stages))}.\n"
        f"Backward, ‖δ‖ goes from {number(stages[-2].delta.norm)} at the logits "
        f"to {number(stages[1].delta.norm)} at {stages[1].title}."
    )
    for i, box in enumerate(stages):
        draw_box(axes, box, -STEP * i)
    for i, box in enumerate(stages[:-1]):
        draw_arrows(axes, box, -STEP * i - BOX, -STEP * (i + 1))
    axes.text(
        *(RIGHT + 0.15, BOX / 2 - height + STEP - BOX),
        f"the backward pass begins:\n∂mean/∂Lₙ = 1/{stages[-1].shape[0]}",
        va="center",
        color=BACKWARD,
    )
    note = (
        "δ is the gradient of the mean loss with respect to the output of the box above it.\n"
        "x* is the array of an earlier box, counted there. "
        f"Largest relative error against jax.grad: {worst_error(stages):.0e}.".replace("-", "−")
    )
    axes.text(LEFT, -height, note, va="bottom", color="#555555", fontsize=8)
    return figure


def draw_box(axes, box: Box, top: float) -> None:
    """A box with its output and what it keeps, and beside it the gradients of its parameters."""
    middle = top - BOX / 2
    axes.add_patch(plt.Rectangle((LEFT, top), RIGHT - LEFT, -BOX, fc="#f4f4f4", ec="black"))
    axes.text(LEFT + 0.1, top - 0.15, box.title, va="center", weight="bold")
    output = f"output {times(box.shape)}, {number(box.low)} … {number(box.high)}"
    axes.text(RIGHT - 0.1, top - 0.15, output, ha="right", va="center", color=FORWARD)
    if box.kept:
        kept = ", ".join(f"{kept.name}{'*' * kept.shared} {times(kept.shape)}" for kept in box.kept)
        text = textwrap.fill(f"keeps {kept}: {size(kept_bytes([box]))}", 58)
        axes.text(LEFT + 0.1, top - 0.28, text, va="top", fontsize=8)
    if box.grads:
        arrow(axes, (RIGHT, middle), (RIGHT + 0.35, middle), BACKWARD, "--")
    gradients = "\n".join(
        f"d{name} {times(gradient.shape)}, norm {number(gradient.norm)}"
        for name, gradient in box.grads.items()
    )
    axes.text(RIGHT + 0.4, middle, gradients, va="center", color=BACKWARD)


def draw_arrows(axes, box: Box, top: float, bottom: float) -> None:
    """The output down to the next box, and its gradient up from there."""
    middle = (top + bottom) / 2
    arrow(axes, (0.9, top), (0.9, bottom), FORWARD, "-")
    if box.delta is None:
        axes.text(1.05, middle, "forward", va="center", color=FORWARD)
        axes.text(2.15, middle, "the input needs no δ", va="center", color="#555555")
        return
    arrow(axes, (2.0, bottom), (2.0, top), BACKWARD, "--")
    text = f"δ {times(box.delta.shape)}, norm {number(box.delta.norm)}"
    axes.text(2.15, middle, text, va="center", color=BACKWARD)


def arrow(axes, start, end, color, line) -> None:
    look = {"arrowstyle": "-|>", "color": color, "linestyle": line, "linewidth": 1.6}
    axes.annotate("", end, start, arrowprops=look | {"shrinkA": 0, "shrinkB": 0})


def run(args: Namespace, data) -> None:
    """Look at one batch before and after the training, and write everything."""
    sizes = (data.x.shape[1], *args.hidden, 10)
    layers = [layer for pair in pairwise(sizes) for layer in (jaxnn.Linear(*pair), jaxnn.relu)]
    net, loss = jaxnn.serial(*layers[:-1]), jaxnn.softmax_cross_entropy
    batch = jnp.asarray(data.x[: args.batch_size]), jnp.asarray(data.labels[: args.batch_size])
    params = net.init(jax.random.key(args.seed))
    moments = {"before": ("Before the training", params)}
    if args.epochs:
        epochs = common.count(args.epochs, "epoch")
        print(f"training a {'-'.join(map(str, sizes))} ReLU network for {epochs}\n")
        training = common.fit(
            *(net, loss, params, (data.x, data.labels)),
            epochs=args.epochs,
            learning_rate=LEARNING_RATE,
            seed=args.seed,
            checkpoint=resume.folder(args, "network"),
            checkpoint_seconds=resume.SECONDS,
        )
        moments["after"] = (f"After {epochs}", training.params)

    result, figures = {}, {}
    for name, (moment, moment_params) in moments.items():
        stages = boxes(net, loss, moment_params, *batch)
        mean_loss = jaxnn.evaluate(net, loss, moment_params, batch)["loss"]
        result[name] = {
            "loss": mean_loss,
            "kept_bytes": kept_bytes(stages),
            "gradient_error": worst_error(stages),
            "boxes": [asdict(box) for box in stages],
        }
        figures[name] = draw_graph(stages, moment, mean_loss)
        print(f"{moment}: mean loss of {len(batch[0])} digits {mean_loss:.4g} nats")
        print(table(stages))
        print(
            f"kept in all {size(kept_bytes(stages))} (* is the same array as in an earlier box); "
            f"largest relative error against jax.grad {worst_error(stages):.1e}\n"
        )
    common.write_result(args.output, args, result)
    common.save_pictures(args.output, **figures)
    print(f"wrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("backprop_graph", __doc__.splitlines()[0], trains=True)
    add = partial(parser.add_argument, metavar="N", type=common.positive_int)
    layers = f"units of each hidden layer, at most {MOST_HIDDEN} layers (default: 64 32)"
    add("--hidden", nargs="+", default=[64, 32], help=layers)
    add("--batch-size", default=64, help="images in the batch shown (default: %(default)s)")
    epochs = "of training before the second picture; 0: none (default: %(default)s)"
    add("--epochs", type=common.integer(0), default=5, help=epochs)
    args = parser.parse_args(arguments)
    if len(args.hidden) > MOST_HIDDEN:
        parser.error(f"--hidden takes at most {MOST_HIDDEN} layers, got {len(args.hidden)}")
    parser.make_folder(args.output)
    data = load("digits")
    parser.check_batch_size(args.batch_size, len(data.x), "images")
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
