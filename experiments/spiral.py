"""Spiral: a linear model and a ReLU network learn to tell its arms apart, as an animation.

python -m experiments.spiral
"""

import math
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

import jaxnn
from experiments import common, resume

tabulate = common.require("tabulate").tabulate
plt = common.pyplot()
colors = common.require("matplotlib.colors")
Image = common.require("PIL.Image")

TURN = 4.0  # radians that an arm turns through
EDGE = 1.15  # of the picture; the arms end at 1
GRID = 240  # pixels on each side of the picture
LEARNING_RATE, BATCH_SIZE = 0.5, 50  # the rate falls to 0 along a cosine
FRAME, PAUSE = 120, 3000  # milliseconds that a frame and the last one stay
MARKERS = "osD^vP"


class Points(NamedTuple):
    """Points of the plane (N, 2) and the arm (N,) of each."""

    x: np.ndarray
    arms: np.ndarray


class Learned(NamedTuple):
    """What training gave, and the class of each pixel at some epochs."""

    n_params: int
    history: dict[str, list[float]]
    regions: dict[int, np.ndarray]


def spiral(rng: np.random.Generator, n_arms: int, n_points: int, noise: float) -> Points:
    """Arms that start at the centre and turn: their angle grows with the radius.

    Args:
        rng: where the noise comes from.
        n_arms: the number of arms.
        n_points: points on each arm.
        noise: the standard deviation of the angle, in radians.
    """
    arms = np.repeat(np.arange(n_arms, dtype=np.int32), n_points)
    radius = np.tile(np.linspace(0.05, 1, n_points), n_arms)
    angle = 2 * math.pi * arms / n_arms + TURN * radius + noise * rng.standard_normal(arms.size)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Points(x.astype(np.float32), arms)


def learn(
    net: jaxnn.Layer, train: Points, test: Points, epochs, shown, seed, folder: Path
) -> Learned:
    """Train a network, and classify every pixel before training and after the shown epochs."""
    side = np.linspace(-EDGE, EDGE, GRID, dtype=np.float32)
    pixels = np.stack(np.meshgrid(side, side), axis=-1)
    classify = jax.jit(lambda params: net.apply(params, pixels).argmax(axis=-1))
    params = net.init(jax.random.key(seed))
    batch_size = min(BATCH_SIZE, len(train.x))
    updates = epochs * math.ceil(len(train.x) / batch_size)

    def regions_if_shown(training):
        return classify(training.params).tolist() if training.epoch in shown else None

    recorder = resume.Recorder(folder, regions_if_shown)
    training = common.fit(
        net,
        jaxnn.softmax_cross_entropy,
        params,
        train,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=optax.cosine_decay_schedule(LEARNING_RATE, updates),
        seed=seed,
        validation_data=test,
        metrics=jaxnn.accuracy,
        callbacks=recorder,
        checkpoint=folder,
        checkpoint_seconds=resume.SECONDS,
    )
    regions = {0: np.asarray(classify(params))} | {
        epoch: np.array(found)
        for epoch, found in enumerate(recorder.epochs(training), 1)
        if found is not None
    }
    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Learned(n_params, training.history, regions)


def draw_boundaries(models: dict[str, Learned], points: Points, epoch: int, title: str):
    """The region that each model gives to each arm after an epoch; 0 is before training."""
    n_arms = points.arms.max() + 1
    palette = np.array([colors.to_rgb(color) for color in common.PALETTE[:n_arms]])
    shades = colors.ListedColormap([*(0.6 + 0.4 * palette), "black"])
    figure, panels = plt.subplots(1, len(models), figsize=(6, 3.6), sharey=True)
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        regions = model.regions[epoch]
        axes.imshow(
            np.where(is_border(regions), n_arms, regions),
            cmap=shades,
            vmin=0,
            vmax=n_arms,
            extent=(-EDGE, EDGE, -EDGE, EDGE),
            origin="lower",
        )
        for arm in range(n_arms):
            x1, x2 = points.x[points.arms == arm].T
            axes.plot(x1, x2, MARKERS[arm], color=f"C{arm}", markersize=2.5)
        right = f": {model.history['validation_accuracy'][epoch - 1]:.0%} right" if epoch else ""
        axes.set(title=name + right, xlabel="x₁", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.grid(visible=False)
    panels[0].set_ylabel("x₂")
    figure.suptitle(title)
    return figure


def is_border(regions: np.ndarray) -> np.ndarray:
    """Whether the next pixel, to the right or above, is of another region."""
    border = np.zeros(regions.shape, bool)
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    border[:-1] |= regions[:-1] != regions[1:]
    return border


def draw_accuracy(models: dict[str, Learned]):
    """Accuracy on the fresh points by epoch."""
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for (name, model), line in zip(models.items(), (".-", ".--"), strict=True):
        accuracy = model.history["validation_accuracy"]
        axes.plot(range(1, len(accuracy) + 1), 100 * np.array(accuracy), line, label=name)
    axes.set(xlabel="epoch", ylabel="fresh points right (%)", ylim=(0, 102))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center right")
    ends = (f"{name} {m.history['validation_accuracy'][-1]:.0%}" for name, m in models.items())
    axes.set_title("Fresh points right at the end: " + ", ".join(ends))
    return figure


def write_animation(path: Path, models: dict[str, Learned], points: Points) -> None:
    """A GIF of the boundaries as they form, with a pause at the end."""
    frames = []
    epochs = models["ReLU network"].regions
    for epoch in common.progress(list(epochs), "animation", "frame"):
        title = f"epoch {epoch}" if epoch else "before training"
        figure = draw_boundaries(models, points, epoch, title)
        figure.canvas.draw()
        frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))
        plt.close(figure)
    durations = [FRAME] * (len(frames) - 1) + [PAUSE]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def run(args: Namespace) -> None:
    """Train both models and write everything to the output folder."""
    rng = np.random.default_rng(args.seed)
    train, test = (spiral(rng, args.arms, args.points, args.noise) for _ in range(2))
    shown = set(np.round(args.epochs * np.linspace(0, 1, args.frames) ** 2).astype(int).tolist())
    nets = {
        "linear model": jaxnn.mlp((2, args.arms)),
        "ReLU network": jaxnn.mlp((2, *args.hidden, args.arms)),
    }
    print(
        f"{args.arms} arms of {args.points} points, angle ± {args.noise:g} rad\n"
        f"SGD, learning rate {LEARNING_RATE:g} falling to 0, batches of {BATCH_SIZE}, epochs "
        f"{args.epochs}, seed {args.seed}"
    )
    models = {}
    for name, net in nets.items():
        print(f"training the {name}")
        folder = resume.folder(args, name)
        models[name] = learn(net, train, test, args.epochs, shown, args.seed, folder)
    accuracies = {name: model.history["validation_accuracy"][-1] for name, model in models.items()}
    print()
    print(
        tabulate(
            [
                [name, model.n_params, 100 * model.history["accuracy"][-1], 100 * accuracies[name]]
                for name, model in models.items()
            ],
            headers=["", "parameters", "training points right (%)", "fresh points right (%)"],
            floatfmt=".1f",
        )
    )
    title = (
        f"Straight boundaries get {accuracies['linear model']:.0%} of fresh points right, "
        f"bent ones {accuracies['ReLU network']:.0%}"
    )
    common.write_result(
        args.output,
        args,
        {
            "test_accuracy": accuracies,
            "test_accuracy_by_epoch": {
                name: model.history["validation_accuracy"] for name, model in models.items()
            },
        },
    )
    common.save_pictures(
        args.output,
        spiral=draw_boundaries(models, train, args.epochs, title),
        accuracy=draw_accuracy(models),
    )
    print("\ndrawing the animation")
    write_animation(args.output / "spiral.gif", models, train)
    print(f"wrote result.json, the pictures and spiral.gif to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("spiral", __doc__.splitlines()[0], trains=True)
    add = partial(parser.add_argument, metavar="N", help="default: %(default)s")
    add("--arms", type=common.integer(2, len(MARKERS)), default=5)
    add("--points", type=common.positive_int, default=150, help="on each arm (default: 150)")
    parser.add_argument(
        "--noise",
        type=common.positive_float,
        default=0.2,
        metavar="ANGLE",
        help="standard deviation of the angle in radians, at most π (default: %(default)s)",
    )
    add(
        "--hidden",
        type=common.positive_int,
        nargs="+",
        default=[64, 64],
        help="units of each hidden layer of the ReLU network (default: 64 64)",
    )
    add("--epochs", type=common.positive_int, default=100)
    add("--frames", type=common.integer(2), default=40, help="at most (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.noise > math.pi:
        parser.error(f"--noise is {args.noise:g} radians, more than half a turn")
    parser.make_folder(args.output)
    parser.run(run, args)


if __name__ == "__main__":
    main()
