"""Batch sizes: full batch, minibatch and single example, by epoch, by update and by second.

python -m experiments.batch_sizes
"""

import math
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxnn
from experiments import common, resume
from experiments.digits import Split, load

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()

LINES = ("o-", "s--", "D-.")


class Curve(NamedTuple):
    """Training with one batch size.

    Attributes:
        batch_size: images in each update.
        learning_rate: η of SGD.
        cost: epochs (1), updates and seconds of one epoch; the seconds are the median, without
            compilation and measurements.
        losses: the mean loss of the training images after each epoch.
        accuracies: the accuracy on the test images after each epoch.
    """

    batch_size: int
    learning_rate: float
    cost: dict[str, float]
    losses: np.ndarray
    accuracies: np.ndarray

    def cost_to(self, target: float) -> dict[str, float]:
        """The cost of the epochs until the loss is at most the target."""
        epochs = int(np.argmax(self.losses <= target)) + 1
        return {unit: epochs * cost for unit, cost in self.cost.items()}


def learn(
    net: jaxnn.Layer, data: Split, batch_size, learning_rate, epochs, seed, folder: Path
) -> Curve:
    """Train with SGD, and measure after every epoch."""
    loss = jaxnn.softmax_cross_entropy
    training = common.fit(
        net,
        loss,
        net.init(jax.random.key(seed)),
        (data.x, data.labels),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        validation_data=(data.test_x, data.test_labels),
        metrics={"loss_after": loss, "accuracy": jaxnn.accuracy},
        checkpoint=folder,
        checkpoint_seconds=resume.SECONDS,
    )
    history = training.history
    cost = {
        "epochs": 1,
        "updates": math.ceil(len(data.x) / batch_size),
        "seconds": float(np.median(history["seconds"][1:])),
    }
    losses, accuracies = np.array(history["loss_after"]), np.array(history["validation_accuracy"])
    return Curve(batch_size, learning_rate, cost, losses, accuracies)


def draw(curves: dict[str, Curve], target: float):
    """The loss against epochs, updates and seconds, and the test accuracy against epochs."""
    figure, panels = plt.subplots(2, 2, figsize=(7.6, 6.2))
    *loss_panels, accuracy = panels.flat
    epochs = np.arange(1, len(next(iter(curves.values())).losses) + 1)
    for axes, unit in zip(loss_panels, ("epochs", "updates", "seconds"), strict=True):
        axes.axhline(target, color="#666666", linestyle=":", linewidth=1, label="target loss")
        for (name, curve), line in zip(curves.items(), LINES, strict=True):
            axes.plot(
                curve.cost[unit] * epochs,
                curve.losses,
                line,
                markevery=[curve.cost_to(target)["epochs"] - 1],
                label=f"{name}, rate {curve.learning_rate:g}",
            )
        best = min(curves, key=lambda name: curves[name].cost_to(target)[unit])
        axes.set(xscale="log", yscale="log", xlabel=unit, ylabel="training loss (nats)")
        axes.xaxis.set_minor_locator(plt.LogLocator(subs=(2, 5)))
        axes.set_title(f"fewest {unit}: {best}")
    for curve, line in zip(curves.values(), LINES, strict=True):
        accuracy.plot(epochs, 100 * curve.accuracies, line, markevery=[-1])
    accuracy.set(xscale="log", xlabel="epochs", ylabel="test images right (%)")
    accuracy.xaxis.set_minor_locator(plt.LogLocator(subs=(2, 5)))
    last = [curve.accuracies[-1] for curve in curves.values()]
    accuracy.set_title(f"accuracy at the end: {min(last):.1%} to {max(last):.1%}")
    figure.legend(handles=loss_panels[0].get_lines(), loc="outside lower center", ncols=2)
    slowest = max(curves, key=lambda name: curves[name].losses[-1])
    figure.suptitle(
        f"Markers: the training loss first reaches the target of {target:.2g},\n"
        f"the highest of the three final losses ({slowest})"
    )
    return figure


def run(args: Namespace, data: Split) -> None:
    """Train with each batch size and write everything to the output folder."""
    net = jaxnn.mlp((data.x.shape[1], *args.hidden, 10))
    batch_sizes = {
        "full batch": len(data.x),
        f"minibatch of {args.batch_size}": args.batch_size,
        "single example": 1,
    }
    print(
        f"digits: {len(data.x):,} images to train on, {len(data.test_x):,} to test on; "
        f"SGD, epochs {args.epochs}, seed {args.seed}"
    )
    curves = {}
    for (name, batch_size), rate in zip(batch_sizes.items(), args.learning_rates, strict=True):
        print(f"training with {name}, learning rate {rate:g}")
        folder = resume.folder(args, name)
        curves[name] = learn(net, data, batch_size, rate, args.epochs, args.seed, folder)
    print()
    target = max(float(curve.losses[-1]) for curve in curves.values())
    rows = {
        name: {
            "batch_size": curve.batch_size,
            "learning_rate": curve.learning_rate,
            "per_epoch": curve.cost,
            "to_target": curve.cost_to(target),
            "train_loss": curve.losses.tolist(),
            "test_accuracy": curve.accuracies.tolist(),
        }
        for name, curve in curves.items()
    }
    print(
        tabulate(
            [
                [
                    name,
                    row["learning_rate"],
                    row["per_epoch"]["updates"],
                    f"{1e3 * row['per_epoch']['seconds']:.1f}",
                    f"{100 * row['test_accuracy'][-1]:.1f}",
                    row["to_target"]["epochs"],
                    row["to_target"]["updates"],
                    f"{1e3 * row['to_target']['seconds']:.0f}",
                ]
                for name, row in rows.items()
            ],
            headers=[
                "",
                "learning\nrate",
                "updates\nper epoch",
                "ms\nper epoch",
                "test images\nright (%)",
                f"epochs to\nloss {target:.2g}",
                "updates\nto it",
                "ms\nto it",
            ],
        )
    )
    common.write_result(args.output, args, {"target_loss": target, "batches": rows})
    common.save_pictures(args.output, batch_sizes=draw(curves, target))
    print(f"\nwrote result.json and the picture to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("batch_sizes", __doc__.splitlines()[0], trains=True)
    add = partial(parser.add_argument, metavar="N", type=common.positive_int)
    add("--hidden", nargs="+", default=[128], help="units of each hidden layer (default: 128)")
    parser.add_argument(
        "--epochs",
        type=common.integer(2),
        default=100,
        metavar="N",
        help="at least 2: the first includes compilation (default: %(default)s)",
    )
    add("--batch-size", default=32, help="images in a minibatch (default: %(default)s)")
    parser.add_argument(
        "--learning-rates",
        type=common.positive_float,
        nargs=3,
        default=[0.5, 0.5, 0.05],
        metavar=("FULL", "MINI", "SINGLE"),
        help="of the full batch, the minibatch and the single example (default: 0.5 0.5 0.05)",
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    data = load("digits")
    parser.check_batch_size(args.batch_size, len(data.x), "images")
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
