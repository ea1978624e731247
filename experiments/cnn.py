"""Convolution on digits: convolution, batch norm, pooling and dropout against the plain network.

python -m experiments.cnn
"""

from argparse import Namespace

import jax
import numpy as np
import optax

import jaxnn
from experiments import common, resume
from experiments.digits import DIGITS, Split, draw_misread, load, weight_grid

plt = common.pyplot()
tabulate = common.require("tabulate").tabulate

SIDE = 8  # pixels of an image


def convolutional(channels: int, rate: float) -> jaxnn.Layer:
    """Two times convolution, batch norm, ReLU and pooling; then dropout and a linear layer.

    The convolutions have no bias: the batch norm takes the mean away, and a bias with it.
    """
    pool = jaxnn.max_pool.bind(window=2)
    stages = [
        (jaxnn.Conv(n_in, n_out, (3, 3), use_bias=False), jaxnn.BatchNorm(n_out), jaxnn.relu, pool)
        for n_in, n_out in ((1, channels), (channels, 2 * channels))
    ]
    features = 2 * channels * (SIDE // 4) ** 2
    return jaxnn.serial(
        jaxnn.reshape.bind(shape=(-1, SIDE, SIDE, 1)),
        *stages[0],
        *stages[1],
        jaxnn.flatten,
        jaxnn.Dropout(rate),
        jaxnn.Linear(features, len(DIGITS)),
    )


def draw_curves(histories: dict[str, dict[str, list[float]]]):
    """The test images misread, by epoch."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for (name, history), line in zip(histories.items(), (".-", ".--"), strict=True):
        error = 100 * (1 - np.array(history["validation_accuracy"]))
        axes.plot(range(1, len(error) + 1), error, line, label=name)
    axes.set(xlabel="epoch", ylabel="test images misread (%)")
    axes.set_yscale("symlog", linthresh=0.5, linscale=0.3)  # shows an error of 0 too
    axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.2 * max(line.get_ydata().max() for line in axes.lines) + 0.1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    first, second = (1 - history["validation_accuracy"][-1] for history in histories.values())
    axes.set_title(
        f"The convolution misreads {first:.1%} of the test images, the plain network {second:.1%}"
    )
    axes.legend()
    return figure


def draw_filters(w: np.ndarray):
    """The first layer's kernels (h, w, 1, channels)."""
    kernels = w.reshape(-1, w.shape[-1]).T
    balance = kernels.sum(axis=1) / abs(kernels).sum(axis=1)
    order = np.argsort(balance)
    figure, panels = weight_grid(kernels[order], row_height=1.2)
    for i, panel in zip(order, panels.flat, strict=False):
        panel.set_title(f"{balance[i]:+.2f}".replace("-", "−"), fontsize=9)
    cancelling = (abs(balance) < 0.5).sum()
    figure.suptitle(
        f"Kernels whose weights mostly cancel respond to edges: {cancelling} of {len(kernels)}\n"
        "(above each kernel: Σw/Σ|w|; mostly cancelling: between −½ and ½)"
    )
    return figure


def run(args: Namespace, data: Split) -> None:
    """Train both networks in the same way, check the gradients and write everything."""
    loss = jaxnn.softmax_cross_entropy
    nets = {
        "convolution": convolutional(args.channels, args.dropout),
        "plain": jaxnn.mlp((SIDE * SIDE, 128, len(DIGITS))),
    }
    steps = args.epochs * -(-len(data.x) // args.batch_size)
    batch, key = (data.x[: args.batch_size], data.labels[: args.batch_size]), jax.random.key(1)
    trained, rows, result = {}, [], {}
    print(
        f"digits: {len(data.x):,} images to train on, {len(data.test_x):,} to test on\n"
        f"Adam, learning rate {args.learning_rate:g} falling to 0, batches of {args.batch_size}, "
        f"epochs {args.epochs}, seed {args.seed}"
    )
    for name, net in nets.items():
        params = net.init(jax.random.key(args.seed))
        n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{name}: {n_params:,} parameters; comparing its gradients with jax.grad")
        errors = common.relative_errors(*common.both_gradients(net, loss, params, *batch, key))
        print(f"{name}: training")
        training = trained[name] = common.fit(
            net,
            loss,
            params,
            (data.x, data.labels),
            epochs=args.epochs,
            batch_size=args.batch_size,
            optimizer=optax.adam(optax.cosine_decay_schedule(args.learning_rate, steps)),
            seed=args.seed,
            validation_data=(data.test_x, data.test_labels),
            metrics=jaxnn.accuracy,
            checkpoint=resume.folder(args, name),
            checkpoint_seconds=resume.SECONDS,
        )
        result[name] = {
            "test_accuracy": training.history["validation_accuracy"][-1],
            "train_loss": training.history["loss"],
            "gradient_error": errors,
            "parameters": n_params,
        }
        rows.append(
            (
                name,
                n_params,
                f"{result[name]['test_accuracy']:.4f}",
                f"{1e3 * np.median(training.history['seconds']):.0f}",
                f"{max(errors.values()):.0e}",
            )
        )
    headers = ("network", "parameters", "test accuracy", "ms per epoch", "gradient error")
    print("\n" + tabulate(rows, headers) + "\n")

    convolution = trained["convolution"]
    logits = jaxnn.predict(nets["convolution"], convolution, data.test_x)
    probabilities = np.asarray(jaxnn.softmax(logits))
    jaxnn.save_params(
        args.output / "convolution.safetensors",
        {"params": convolution.params, "state": convolution.state},
    )
    common.write_result(args.output, args, result)
    common.save_pictures(
        args.output,
        curves=draw_curves({name: training.history for name, training in trained.items()}),
        filters=draw_filters(np.asarray(convolution.params[1]["w"])),
        misread=draw_misread(probabilities, data.test_x, data.test_labels, DIGITS),
    )
    print(f"wrote result.json, convolution.safetensors and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("cnn", __doc__.splitlines()[0], trains=True)
    parser.add_integers(
        channels=(16, "channels of the first convolution; the second has twice as many"),
        epochs=(30, "passes over the images"),
        batch_size=(64, "images in each minibatch"),
    )
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        default=3e-3,
        metavar="RATE",
        help="of Adam, falling along a cosine (default: %(default)s)",
    )
    parser.add_argument(
        "--dropout",
        type=common.share,
        default=0.3,
        metavar="SHARE",
        help="fraction of the features that training drops (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    data = load("digits")
    parser.check_batch_size(args.batch_size, len(data.x), "images")
    parser.run(run, args, data)


if __name__ == "__main__":
    main()
