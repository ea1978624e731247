"""Per-example gradients: the images that pull hardest, their noise, clipping, private training.

python -m experiments.per_example
"""

import logging
import math
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn
from experiments import common
from experiments.digits import Split, image_grid, load
from jaxnn.per_example import noise_scale, per_example_norms, value_and_clipped_grad

tabulate = common.require("tabulate").tabulate
dp_accounting = common.require("dp_accounting")
plt = common.pyplot()

LOSS = jaxnn.softmax_cross_entropy
ADAM = optax.adam(1e-2)  # whose steps do not depend on the scale of the gradients
BATCH_SIZE, PRIVATE_BATCH_SIZE = 32, 144  # the second is an expectation
REPLACED, QUANTILE = 0.1, 0.1  # of the training labels; of the norms, to clip to
NOISE_MULTIPLIERS = (0.7, 1.0, 2.0, 4.0)
DELTA = 1e-5
CLIPS = (1e-6, 1e6)  # their squares, the variances of the noise, are far from float32's limits
SHOWN = 10  # images in a row
LINES = ("o-", "s--", "^-.", "D:", "v-")

# It warns of every order of the Rényi divergence that it drops; ε holds with the remaining ones.
logging.getLogger("absl").setLevel(logging.ERROR)


def train(net, epoch, x, labels, epochs: int, keys, measure: Callable, optimizer=lambda key: ADAM):
    """Train once with each key, and measure something after each epoch.

    Each key gives one run its initial parameters, the order of its images and its noise. `epoch` is
    one pass over the images as `jaxnn.epoch_of` returns it, `measure` a function
    `(params, loss of the epoch) -> numbers`, and `optimizer` makes the optimizer of the epoch from
    the key of the noise.

    Returns:
        The last parameters of the first run, and the measured numbers, (numbers, runs, epochs).
    """
    runs = []
    for key in keys:
        start, order, noise = jax.random.split(key, 3)
        params, measured = net.init(start), []
        opt_state = optimizer(noise).init(params)
        for epoch_key in jax.random.split(order, epochs):
            params, opt_state, value = epoch(params, opt_state, x, labels, epoch_key)
            measured.append(jax.device_get(measure(params, value)))
        runs.append((params, measured))
    return runs[0][0], np.array([measured for _, measured in runs]).transpose(2, 0, 1)


def keys_of(args: Namespace) -> jax.Array:
    return jax.random.split(jax.random.key(args.seed), args.runs)


def plain_epoch(net: jaxnn.Layer) -> Callable:
    return jaxnn.epoch_of(jaxnn.value_and_grad(net, LOSS), ADAM, BATCH_SIZE)


def accuracy_of(net: jaxnn.Layer) -> Callable:
    """`(params, x, labels) -> the fraction of the images that the network reads as labelled`."""
    return jax.jit(lambda params, x, labels: jnp.mean(jaxnn.accuracy(net.apply(params, x), labels)))


def norms_of(net: jaxnn.Layer, params, x, labels) -> np.ndarray:
    return np.asarray(jax.jit(per_example_norms(net, LOSS))(params, x, labels)[1])


def fraction_of_half(norms: np.ndarray) -> float:
    """The smallest fraction of the images that carries half of the sum of the norms."""
    falling = np.cumsum(np.sort(norms)[::-1])
    return float(np.searchsorted(falling, falling[-1] / 2) + 1) / len(norms)


def replace_labels(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels with a tenth of them replaced by random other ones, and the rows of that tenth."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(REPLACED * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[rows] = (labels[rows] + rng.integers(1, 10, len(rows))) % 10
    return wrong, rows


def noisy_mean(noise_multiplier, clip: float, batch_size: int, key) -> optax.GradientTransformation:
    """From the sum of the clipped gradients to their private mean: add noise, then divide.

    The standard deviation of the noise on the sum is `noise_multiplier·clip`. The divisor is the
    expected number of images, because the number drawn is private too.
    """
    noise = optax.add_noise(eta=(noise_multiplier * clip) ** 2, gamma=0.0, key=key)
    return optax.chain(noise, optax.scale(1 / batch_size))


def private_optimizer(key, noise_multiplier, clip: float) -> optax.GradientTransformation:
    """Adam on the private mean."""
    return optax.chain(noisy_mean(noise_multiplier, clip, PRIVATE_BATCH_SIZE, key), ADAM)


def sampling(n: int) -> tuple[float, int]:
    """The probability with which a step draws each of n images, and the steps of an epoch."""
    return PRIVATE_BATCH_SIZE / n, round(n / PRIVATE_BATCH_SIZE)


def private_epoch(net: jaxnn.Layer, clip: float, n: int) -> Callable:
    """One epoch of DP-SGD with Poisson sampling.

        params, opt_state, value = epoch(params, opt_state, x, labels, key, noise_multiplier)

    Each step draws each of the n images with the same probability, independently of the others. All
    go through the network, and a weight of 0 makes the gradients of those not drawn 0, so that the
    sample is exact and its shape is fixed.
    """
    gradient = value_and_clipped_grad(net, LOSS, clip, reduction="sum")
    rate, steps = sampling(n)

    @jax.jit
    def epoch(params, opt_state, x, labels, key, noise_multiplier):
        optimizer = private_optimizer(key, noise_multiplier, clip)  # its key is that of opt_state

        def step(carry, key):
            params, opt_state = carry
            drawn = jax.random.bernoulli(key, rate, (n,)).astype(x.dtype)
            value, grads = gradient(params, x, labels, None, drawn)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        carry, values = jax.lax.scan(step, (params, opt_state), jax.random.split(key, steps))
        return *carry, jnp.sum(values) / n

    return epoch


def epsilon(noise_multiplier: float, rate: float, steps: int) -> float:
    """ε at δ = 1e-5 of a number of steps that draw each image with the probability `rate`."""
    accountant = dp_accounting.rdp.RdpAccountant()
    noise = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, noise), steps)
    return float(accountant.get_epsilon(DELTA))


def draw_images(norms: np.ndarray, read: np.ndarray, x: np.ndarray, labels: np.ndarray):
    """The training images whose gradients have the largest and the smallest norms."""
    falling = np.argsort(-norms)
    shown = [*falling[:SHOWN], *falling[-SHOWN:]]
    figure, panels = image_grid(x[shown], SHOWN, 1.1, cmap="gray_r", vmin=0, vmax=1)
    for i, panel in zip(shown, panels.flat, strict=True):
        words = f"{labels[i]}" if read[i] == labels[i] else f"{labels[i]} read as {read[i]}"
        panel.set_title(f"{words}\n{norms[i]:#.2g}", fontsize=9)
    for panel, name in zip(panels[:, 0], ("largest", "smallest"), strict=True):
        panel.set_ylabel(name)
    figure.suptitle(
        f"{fraction_of_half(norms):.1%} of the training images carry half of the sum of the norms\n"
        "(above each image: its label, and the norm of its gradient)"
    )
    return figure


def draw_noise(losses: np.ndarray, scales: np.ndarray, n: int):
    """The training loss and the noise scale by epoch."""
    figure, (loss, noise) = plt.subplots(1, 2, figsize=(8, 3.6))
    epochs = range(1, len(losses) + 1)
    loss.plot(epochs, losses, ".-")
    noise.plot(epochs, scales, ".-")
    for size, name, up in ((BATCH_SIZE, "a minibatch", -11), (n, "all training images", 3)):
        noise.axhline(size, color="#666666", linestyle=":", linewidth=1)
        noise.annotate(f"{name}: {size:,}", (1, size), (0, up), textcoords="offset points", size=9)
    noise.margins(y=0.12)
    loss.set(title="Training loss", ylabel="mean cross-entropy (nats)")
    noise.set(title="Noise scale tr Σ/‖G‖²", ylabel="images")
    for axes in (loss, noise):
        axes.set(xlabel="epoch", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(
        f"The noise outweighs the gradient in batches below {scales[0]:,.0f} images after the "
        f"first epoch,\nbelow {scales[-1]:,.0f} after the last"
    )
    return figure


def draw_clipping(learned: dict[str, np.ndarray]):
    """The accuracy on the test images and the wrong labels repeated, by epoch."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.8))
    for (name, measured), line in zip(learned.items(), LINES, strict=False):
        for axes, runs in zip(panels, measured, strict=True):
            _plot_runs(axes, runs, line, name)
    panels[0].set(title="Accuracy", xlabel="epoch", ylabel="test images right (%)")
    panels[1].set(title="Memorising", xlabel="epoch", ylabel="wrong labels repeated (%)")
    _add_legend(figure, panels[0], "training")
    plain, clipped = (measured[0, :, -1].mean() for measured in learned.values())
    figure.suptitle(
        f"A tenth of the labels is wrong: {plain:.1%} of the test images right, "
        f"{clipped:.1%} with clipping"
    )
    return figure


def draw_privacy(learned: dict[float, np.ndarray], epsilons: dict[float, dict[int, float]]):
    """The accuracy on the test images by epoch, and by the ε that the epochs have cost."""
    figure, (by_epoch, by_epsilon) = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
    for (noise, runs), line in zip(learned.items(), LINES, strict=True):
        color = _plot_runs(by_epoch, runs, line, f"{noise:g}" if noise else "none")
        if noise:
            right = 100 * runs.mean(axis=0)[np.array(list(epsilons[noise])) - 1]
            by_epsilon.plot(epsilons[noise].values(), right, line, color=color, markersize=4)
    best, *_, last = (runs[:, -1].mean() for runs in learned.values())
    by_epsilon.axhline(100 * best, color="C0", linewidth=1)
    by_epsilon.annotate(
        "no noise", (0.03, 100 * best), (0, -12), by_epsilon.get_yaxis_transform(), "offset points"
    )
    by_epoch.set(title="By epoch", xlabel="epoch", ylabel="test images right (%)")
    by_epsilon.set(title="By the privacy spent", xlabel="ε at δ = 1e-5", xscale="log")
    by_epsilon.xaxis.set_major_formatter("{x:g}")
    _add_legend(figure, by_epoch, "noise multiplier")
    *_, spent = epsilons[noise].values()
    figure.suptitle(
        f"Private training: {best:.1%} right without noise, {last:.1%} at ε = {spent:.1f}"
    )
    return figure


def _plot_runs(axes, runs: np.ndarray, line: str, name: str) -> str:
    """The mean of some runs in percent by epoch, and the range that they span."""
    epochs, runs = np.arange(1, runs.shape[1] + 1), 100 * runs
    every = -(-len(epochs) // 10)
    (mean,) = axes.plot(epochs, runs.mean(axis=0), line, markersize=4, markevery=every, label=name)
    color = mean.get_color()
    axes.fill_between(epochs, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, lw=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return color


def _add_legend(figure, axes, title: str) -> None:
    title += " (line: mean of the runs, area: their range)"
    entries = axes.get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=len(entries[0]), title=title)


def _percent(runs: np.ndarray) -> list[str]:
    """The mean and the range of some runs, after the last epoch."""
    last = 100 * runs[:, -1]
    return [f"{last.mean():.1f}", f"{last.min():.1f} to {last.max():.1f}"]


def learn_plainly(args: Namespace, net: jaxnn.Layer, data: Split):
    """The norms of the images after plain training, and the noise scale during it."""
    estimate = jax.jit(noise_scale(net, LOSS))

    def measure(params, value):
        found = estimate(params, data.x, data.labels)
        return value, sum(jax.tree.leaves(found.variance)), found.squared_norm

    params, measured = train(
        net, plain_epoch(net), data.x, data.labels, args.epochs, keys_of(args), measure
    )
    losses, variances, squares = measured.mean(axis=1)
    scales = np.divide(variances, squares, out=np.full_like(squares, np.inf), where=squares > 0)
    norms = norms_of(net, params, data.x, data.labels)
    read = np.asarray(jaxnn.predict(net, params, data.x)).argmax(axis=1)
    print(
        f"1. Which images pull hardest: {fraction_of_half(norms):.1%} of the training images carry "
        f"half of the sum\nof the norms, which fall from {norms.max():.2g} to {norms.min():.2g}\n\n"
        f"2. The noise scale: {scales[0]:.0f} images after the first epoch, {scales[-1]:.0f} after "
        f"the last,\nwhile the training loss goes from {losses[0]:.2g} to {losses[-1]:.2g}\n"
    )
    result = {
        "fraction_of_images_with_half_of_the_norms": fraction_of_half(norms),
        "train_loss": losses.tolist(),
        "noise_scale": [float(scale) if scale < math.inf else None for scale in scales],
    }
    return result, {
        "images": draw_images(norms, read, data.x, data.labels),
        "noise_scale": draw_noise(losses, scales, len(data.x)),
    }


def compare_clipping(args: Namespace, net: jaxnn.Layer, data: Split):
    """Training on labels of which a tenth is wrong, plainly and with clipped gradients.

    The norm to clip to is a low quantile of those after the first epoch of plain training.
    """
    labels, rows = replace_labels(data.labels, args.seed)
    accuracy, plain = accuracy_of(net), plain_epoch(net)

    def measure(params, value):
        return (
            accuracy(params, data.test_x, data.test_labels),
            accuracy(params, data.x[rows], labels[rows]),
        )

    params, _ = train(net, plain, data.x, labels, 1, keys_of(args)[:1], measure)
    clip = float(np.quantile(norms_of(net, params, data.x, labels), QUANTILE))
    gradient = value_and_clipped_grad(net, LOSS, clip, reduction="mean")
    ways = {"plain": plain, f"clipped to {clip:#.2g}": jaxnn.epoch_of(gradient, ADAM, BATCH_SIZE)}
    learned = {
        name: train(net, epoch, data.x, labels, args.epochs, keys_of(args), measure)[1]
        for name, epoch in ways.items()
    }
    print("3. Clipping, where a tenth of the training labels is wrong")
    table = [
        (name, *_percent(right), f"{100 * right.mean(axis=0).max():.1f}", _percent(repeated)[0])
        for name, (right, repeated) in learned.items()
    ]
    headers = ("", "test images\nright (%)", "range", "in the best\nepoch (%)")
    print(tabulate(table, (*headers, "wrong labels\nrepeated (%)"), disable_numparse=True))
    result = {
        name: {"test_accuracy": right.tolist(), "wrong_labels_repeated": repeated.tolist()}
        for name, (right, repeated) in learned.items()
    }
    return {"clip": clip, "clipping": result}, {"clipping": draw_clipping(learned)}


def learn_privately(args: Namespace, net: jaxnn.Layer, data: Split):
    """Private training with several noise multipliers, and the ε of each.

    ε counts one run, and not that the learning rate and the clip were chosen on these images.
    """
    accuracy, epoch = accuracy_of(net), private_epoch(net, args.clip, len(data.x))
    rate, steps = sampling(len(data.x))

    def measure(params, value):
        return (accuracy(params, data.test_x, data.test_labels),)

    learned = {}
    for noise in (0.0, *NOISE_MULTIPLIERS):
        noisy = partial(epoch, noise_multiplier=noise)
        optimizer = partial(private_optimizer, noise_multiplier=noise, clip=args.clip)
        _, (learned[noise],) = train(
            net, noisy, data.x, data.labels, args.epochs, keys_of(args), measure, optimizer
        )
    counted = sorted({round(number) for number in np.geomspace(1, args.epochs, 12)})
    epsilons = {
        noise: {number: epsilon(noise, rate, number * steps) for number in counted}
        for noise in NOISE_MULTIPLIERS
    }
    spent = {0.0: math.inf} | {noise: of[args.epochs] for noise, of in epsilons.items()}
    print(
        f"\n4. Private training: {args.epochs * steps} steps, each image drawn with "
        f"probability {rate:.3f}, gradients clipped to {args.clip:g}"
    )
    table = [
        (noise or "none", f"{spent[noise]:.2f}", *_percent(runs)) for noise, runs in learned.items()
    ]
    headers = ("noise\nmultiplier", "ε at\nδ = 1e-5", "test images\nright (%)", "range")
    print(tabulate(table, headers, disable_numparse=True))
    print(
        "ε is that of one run: whether an image is among the training images or not multiplies\n"
        "the probability of any outcome by at most exp(ε), apart from a probability of δ."
    )
    result = {
        f"noise multiplier {noise:g}": {
            "epsilon": spent[noise] if noise else None,
            "test_accuracy": runs.tolist(),
        }
        for noise, runs in learned.items()
    }
    return {"private": result}, {"privacy": draw_privacy(learned, epsilons)}


def run(args: Namespace, data: Split) -> None:
    """Go through the four parts and write everything to the output folder."""
    net = jaxnn.mlp((data.x.shape[1], args.hidden, 10))
    print(
        f"digits: {len(data.x):,} images to train on, {len(data.test_x):,} to test on; Adam, "
        f"hidden units {args.hidden}, epochs {args.epochs}, runs {args.runs}, seed {args.seed}\n"
    )
    result, pictures = {}, {}
    for part in (learn_plainly, compare_clipping, learn_privately):
        measured, drawn = part(args, net, data)
        result |= measured
        pictures |= drawn
    common.write_result(args.output, args, result)
    common.save_pictures(args.output, **pictures)
    print(f"\nwrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("per_example", __doc__.splitlines()[0])
    parser.add_integers(
        hidden=(64, "units of the hidden layer"),
        epochs=(40, "passes over the training images"),
        runs=(5, "times to train each network"),
    )
    parser.add_argument(
        "--clip",
        type=common.positive_float,
        default=1.0,
        metavar="NORM",
        help="largest norm of an image's gradient in private training (default: %(default)g)",
    )
    args = parser.parse_args(arguments)
    if not CLIPS[0] <= args.clip <= CLIPS[1]:
        parser.error(f"--clip is {args.clip:g} but must be from {CLIPS[0]:g} to {CLIPS[1]:g}")
    parser.make_folder(args.output)
    parser.run(run, args, load("digits"))


if __name__ == "__main__":
    main()
