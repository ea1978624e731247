"""Handwritten digits: train a classifier and compare each of its gradients with autodiff's.

python -m experiments.digits
"""

import textwrap
import warnings
from argparse import Namespace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn
from experiments import common, resume

datasets = common.require("sklearn.datasets")
model_selection = common.require("sklearn.model_selection")
plt = common.pyplot()

OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9),
    "adam": optax.adam,
}
DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
MOST_MISREAD, MOST_UNITS = 25, 40  # images in one picture


class Dataset(NamedTuple):
    """A set of grey images: its classes, and a learning rate for each optimizer."""

    classes: tuple[str, ...]
    learning_rates: dict[str, float]
    openml_name: str | None = None


DATASETS = {
    "digits": Dataset(DIGITS, {"sgd": 0.8, "momentum": 0.2, "adam": 3e-3}),
    "mnist": Dataset(DIGITS, {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}, "mnist_784"),
    "fashion-mnist": Dataset(
        CLOTHES, {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}, "Fashion-MNIST"
    ),
}


class Split(NamedTuple):
    """Images (N, pixels) between 0 and 1 in float32, and labels (N,), to train and to test on."""

    x: np.ndarray
    labels: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray


def load(name: str) -> Split:
    """A data set by its name in `DATASETS`, always split in the same way.

    The digits are split at random, with a fifth of each class to test on; the two others where
    their authors split them, before the last seventh.

    Raises:
        OSError: it is neither in scikit-learn's cache nor can it be downloaded.
    """
    if name == "digits":
        x, labels = datasets.load_digits(return_X_y=True)
        split = {"test_size": 0.2, "stratify": labels, "random_state": 0}
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error occurred")
            x, labels = datasets.fetch_openml(
                DATASETS[name].openml_name,
                version=1,
                return_X_y=True,
                as_frame=False,
                parser="liac-arff",
                n_retries=1,
            )
        split = {"test_size": len(x) // 7, "shuffle": False}
    x, labels = (x / x.max()).astype(np.float32), labels.astype(np.int32)
    x, test_x, labels, test_labels = model_selection.train_test_split(x, labels, **split)
    return Split(x, labels, test_x, test_labels)


def draw_curves(history: dict[str, list[float]]):
    """Loss and accuracy by epoch, of the training and the test images."""
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(8, 3.4))
    epochs = range(1, len(history["loss"]) + 1)
    loss.plot(epochs, history["loss"], ".-", label="training, during the epoch")
    loss.plot(epochs, history["validation_loss"], ".--", label="test, after it")
    loss.set_yscale("log")
    loss.set(title="Loss", ylabel="mean cross-entropy (nats)")
    accuracy.plot(epochs, 100 * np.array(history["accuracy"]), ".-", label="training")
    test_accuracy = np.array(history["validation_accuracy"])
    accuracy.plot(epochs, 100 * test_accuracy, ".--", label="test")
    accuracy.set(title="Accuracy", ylabel="correct (%)")
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, 1.03 * len(epochs))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.suptitle(
        f"The network reads {history['accuracy'][-1]:.1%} of the training images right, "
        f"{test_accuracy[-1]:.1%} of the test images"
    )
    return figure


def draw_misread(probabilities: np.ndarray, x: np.ndarray, labels: np.ndarray, classes):
    """The test images read wrongly, the surest mistakes first."""
    read, sureness = probabilities.argmax(axis=1), probabilities.max(axis=1)
    misread = np.flatnonzero(read != labels)
    shown = misread[np.argsort(-sureness[misread])][:MOST_MISREAD]
    figure, panels = image_grid(x[shown], columns=5, row_height=2.1, cmap="gray_r", vmin=0, vmax=1)
    for i, panel in zip(shown, panels.flat, strict=False):
        words = textwrap.fill(f"{classes[labels[i]]}, read as {classes[read[i]]}", 20)
        panel.set_title(f"{words}\np = {sureness[i]:.2f}", fontsize=10)
    which = f"The {len(shown)} surest mistakes: the" if len(shown) < len(misread) else "The"
    figure.suptitle(
        f"Misread: {len(misread):,} of {len(labels):,} test images, "
        f"{(sureness[misread] > 0.9).sum():,} of them with a probability above 0.9\n"
        f"{which} true class, the predicted class, and its probability p"
    )
    return figure


def draw_first_layer(w: np.ndarray):
    """The weights of each hidden unit as an image, the largest norm first."""
    norms = np.linalg.norm(w, axis=0)
    shown = np.argsort(-norms)[:MOST_UNITS]
    figure, _ = weight_grid(w.T[shown], row_height=0.9)
    side = round(len(w) ** 0.5)
    grid = w.reshape(side, side, -1)
    correlation = np.corrcoef(grid[:, 1:].ravel(), grid[:, :-1].ravel())[0, 1]
    which = f"the {len(shown)} of largest norm, of " if len(shown) < len(norms) else ""
    figure.suptitle(
        "Weights of pixels side by side, independent before training, correlate: "
        f"r = {correlation:.2f}\n(the units of the first layer: {which}{len(norms)})"
    )
    return figure


def draw_gradient_norms(norms: list[list[dict[str, float]]]):
    """The norm of the gradient of each leaf of each layer by epoch, from before the training on."""
    figure, axes = plt.subplots(figsize=(7, 4.4))
    for number in range(len(norms[0])):
        for leaf, line in (("w", "-"), ("b", "--")):
            axes.plot(
                [layers[number][leaf] for layers in norms],
                line,
                color=f"C{number}",
                marker=f"${number + 1}$",
                markersize=7,
                markevery=-(-len(norms) // 12),
                label=f"layer {number + 1}, {leaf}",
            )
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch (0: before training)", ylabel="norm of the gradient of one batch")
    first, last = (
        np.linalg.norm([norm for layer in norms[i] for norm in layer.values()]) for i in (0, -1)
    )
    figure.suptitle(f"Training takes the norm of a batch's gradient from {first:.2g} to {last:.2g}")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def image_grid(images, columns, row_height, **shading):
    """A figure with a grid of square images, and its axes."""
    rows = max(1, -(-len(images) // columns))
    figure, panels = plt.subplots(
        rows, columns, figsize=(8, row_height * rows + 0.6), squeeze=False
    )
    figure.get_layout_engine().set(h_pad=0.08)
    for panel in panels.flat[len(images) :]:
        panel.set_axis_off()
    for image, panel in zip(images, panels.flat, strict=False):
        side = round(image.size**0.5)
        panel.imshow(image.reshape(side, side), **shading)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color="#888888", linewidth=0.5)
    return figure, panels


def weight_grid(images, row_height):
    """Like `image_grid`, of weights: colour for their sizes, a minus sign on negative ones."""
    largest = abs(images).max()
    figure, panels = image_grid(
        images, columns=8, row_height=row_height, cmap="RdBu_r", vmin=-largest, vmax=largest
    )
    for image, panel in zip(images, panels.flat, strict=False):
        side = round(image.size**0.5)
        y, x = np.divmod(np.flatnonzero(image < -largest / 5), side)
        panel.scatter(x, y, 900 / side**2, "white", marker="_", linewidths=6 / side)
    figure.colorbar(panels[0, 0].images[0], ax=panels, label="weight", shrink=0.8)
    figure.supxlabel("−: negative, by more than a fifth of the largest weight", fontsize=10)
    return figure, panels


def run(args: Namespace, data: Split) -> None:
    """Train, check and write everything to the output folder."""
    classes = DATASETS[args.dataset].classes
    sizes = (data.x.shape[1], *args.hidden, len(classes))
    net = jaxnn.mlp(sizes)
    loss = jaxnn.softmax_cross_entropy
    params = net.init(jax.random.key(args.seed))
    gradient = jaxnn.value_and_grad(net, loss)
    batch = data.x[: args.batch_size], data.labels[: args.batch_size]

    @jax.jit
    def norms_of_leaves(params):
        return jax.tree.map(jnp.linalg.norm, gradient(params, *batch)[1])

    def gradient_norms(params):
        return jax.tree.map(float, common.linear_layers(norms_of_leaves(params)))

    def gradient_errors(params):
        return common.relative_errors(*common.both_gradients(net, loss, params, *batch))

    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{args.dataset}: a {'-'.join(map(str, sizes))} ReLU network, {n_params:,} parameters; "
        f"{len(data.x):,} images to train on, {len(data.test_x):,} to test on\n"
        f"{args.optimizer}, learning rate {args.learning_rate:g}, batches of {args.batch_size}, "
        f"epochs {args.epochs}, seed {args.seed}"
    )
    errors_before = gradient_errors(params)
    folder = resume.folder(args, "network")
    recorder = resume.Recorder(folder, lambda training: gradient_norms(training.params))
    training = common.fit(
        net,
        loss,
        params,
        (data.x, data.labels),
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=OPTIMIZERS[args.optimizer](args.learning_rate),
        seed=args.seed,
        validation_data=(data.test_x, data.test_labels),
        metrics=jaxnn.accuracy,
        callbacks=recorder,
        checkpoint=folder,
        checkpoint_seconds=resume.SECONDS,
    )
    history = training.history
    errors_after = gradient_errors(training.params)

    gradient_error = {leaf: max(errors_before[leaf], errors_after[leaf]) for leaf in errors_before}
    test_accuracy = history["validation_accuracy"][-1]
    seconds = float(np.median(history["seconds"][1:] or history["seconds"]))

    print(f"\nrelative error of each gradient\n{'leaf':10} {'shape':>9} {'before':>9} {'after':>9}")
    for leaf, array in zip(errors_before, jax.tree.leaves(params), strict=True):
        shape = "×".join(map(str, array.shape))
        print(f"{leaf:10} {shape:>9} {errors_before[leaf]:9.1e} {errors_after[leaf]:9.1e}")
    print(f"\ntest accuracy {test_accuracy:.4f}, {1e3 * seconds:.1f} ms per epoch")

    common.write_result(
        args.output,
        args,
        {
            "test_accuracy": test_accuracy,
            "train_loss": history["loss"],
            "gradient_error": gradient_error,
            "seconds_per_epoch": seconds,
        },
    )
    jaxnn.save_params(args.output / "params.safetensors", training.params)
    probabilities = np.asarray(jaxnn.softmax(jaxnn.predict(net, training, data.test_x)))
    common.save_pictures(
        args.output,
        curves=draw_curves(history),
        misread=draw_misread(probabilities, data.test_x, data.test_labels, classes),
        first_layer=draw_first_layer(np.asarray(training.params[0]["w"])),
        gradient_norms=draw_gradient_norms([gradient_norms(params), *recorder.epochs(training)]),
    )
    print(f"wrote result.json, params.safetensors and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("digits", __doc__.splitlines()[0], trains=True)
    parser.add_argument("--dataset", choices=DATASETS, default="digits", help="default: digits")
    add = partial(parser.add_argument, metavar="N", type=common.positive_int)
    add("--hidden", nargs="+", default=[128], help="units of each hidden layer (default: 128)")
    add("--epochs", default=50, help="default: %(default)s")
    add("--batch-size", default=64, help="default: %(default)s")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="default: sgd")
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        metavar="RATE",
        help="by default one that suits the data set and the optimizer",
    )
    args = parser.parse_args(arguments)
    args.learning_rate = args.learning_rate or DATASETS[args.dataset].learning_rates[args.optimizer]
    parser.make_folder(args.output)
    try:
        data = load(args.dataset)
    except OSError as error:
        parser.error(
            f"{args.dataset} is not in scikit-learn's cache and cannot be downloaded: {error}"
        )
    parser.check_batch_size(args.batch_size, len(data.x), "images")
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
