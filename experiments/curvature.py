"""Curvature: calibrated probabilities from a Laplace approximation, and the natural gradient.

python -m experiments.curvature
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn
from experiments import common
from experiments.digits import Split, load
from jaxnn.curvature import Kronecker, kronecker_factors

tabulate = common.require("tabulate").tabulate
ndimage = common.require("scipy.ndimage")
threadpoolctl = common.require("threadpoolctl")
plt = common.pyplot()

LOSS = jaxnn.softmax_cross_entropy
ADAM = optax.adam(3e-3)
BATCH_SIZE, NATURAL_BATCH_SIZE = 32, 128
HELD_OUT = 0.2  # of the training images, to choose the prior precision on
PRIOR_PRECISIONS = np.geomspace(1e-2, 1e4, 25)
DRAWS, BINS = 100, 10
LEAST = 5  # images in a bin that the picture shows
ANGLE, NOISE = 20, 0.3  # degrees; standard deviation, where the pixels are from 0 to 1
DAMPING, DECAY = 1e-3, 0.95
TARGET = 0.01  # nats
POINTS = 100  # of a curve
LINES = ("-", "--", "-.")


class Reliability(NamedTuple):
    """The number of images in each bin, their mean confidence, and the fraction that is right."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, Σ (count/N)·|accuracy − confidence|."""
        gaps = np.nan_to_num(abs(self.accuracy - self.confidence))
        return float(self.count @ gaps / self.count.sum())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Group the images by the probability of their prediction, in bins of equal width.

    A bin includes its upper end. The means of an empty bin are NaN.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, of, bins) / count for of in (confidence, right)]
    return Reliability(count, *means)


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of −log p(label), where p is at least the least normal float32."""
    likely = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likely, np.finfo(np.float32).tiny)).mean())


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "confidence": float(probabilities.max(axis=1).mean()),
        "calibration_error": reliability(probabilities, labels).calibration_error,
        "negative_log_likelihood": negative_log_likelihood(probabilities, labels),
    }


def deviations(factors: Kronecker, n: int, prior_precision, noise: jax.Array) -> jax.Array:
    """Turn white noise (draws, I, O) into draws from N(0, (N·A⊗B + τ·I)⁻¹).

    With A = Q·diag(a)·Qᵀ and B = R·diag(b)·Rᵀ, the eigenvectors of the precision are the outer
    products of the columns of Q and R, with the eigenvalues N·aᵢ·bⱼ + τ.
    """
    (a, q), (b, r) = jnp.linalg.eigh(factors.a), jnp.linalg.eigh(factors.b)
    eigenvalues = n * jnp.outer(jnp.maximum(a, 0), jnp.maximum(b, 0)) + prior_precision
    return q @ (noise / jnp.sqrt(eigenvalues)[None]) @ r.T


def draw_deviations(params, factors, n: int, prior_precision, key, draws: int):
    """Draws of parameters minus their mean from the Laplace posterior, along a leading axis."""
    leaves, structure = jax.tree.flatten(params)
    keys = structure.unflatten(jax.random.split(key, len(leaves)))

    def of_array(p, factors, key):
        noise = jax.random.normal(key, (draws, *jnp.atleast_2d(p).shape), p.dtype)
        return deviations(factors, n, prior_precision, noise).reshape(draws, *p.shape)

    return jax.tree.map(of_array, params, factors, keys)


def laplace(net: jaxnn.Layer, params, x, labels) -> Callable:
    """`(x, prior_precision, key) -> probabilities` of the Laplace approximation at `params`.

    The Gauss–Newton matrix is the Hessian of the network linearized at `params`, so each draw goes
    through the linearized network, f(x) + J·(θ − params). The probabilities are the mean of the
    softmax over the draws. Each array of parameters is independent of the others.

    Reference: H. Ritter, A. Botev and D. Barber, "A Scalable Laplace Approximation for Neural
    Networks", 2018; A. Immer, M. Korzepa and M. Bauer, "Improving predictions of Bayesian neural
    nets via local linearization", 2021.
    """
    factors = jax.jit(kronecker_factors(net, LOSS))(params, x, labels)

    @jax.jit
    def probabilities(x, prior_precision, key):
        def of_draw(deviation):
            logits, change = jax.jvp(lambda p: net.apply(p, x), (params,), (deviation,))
            return jaxnn.softmax(logits + change)

        drawn = draw_deviations(params, factors, len(labels), prior_precision, key, DRAWS)
        return jnp.mean(jax.vmap(of_draw)(drawn), axis=0)

    return probabilities


class NaturalState(NamedTuple):
    """The number of updates, and the moving average of the factors, which starts from 0."""

    count: jax.Array
    factors: Any


def precondition(gradient: jax.Array, factors: Kronecker, damping: float) -> jax.Array:
    """(A + √λ·I)⁻¹·g·(B + √λ·I)⁻¹, which is (A + √λ·I)⊗(B + √λ·I) solved for g.

    A vector of parameters is a matrix of one row.
    """
    rows = jnp.atleast_2d(gradient)
    a, b = (factor + damping**0.5 * jnp.eye(len(factor), dtype=rows.dtype) for factor in factors)
    solve = partial(jax.scipy.linalg.solve, assume_a="pos")
    return solve(b, solve(a, rows).T).T.reshape(gradient.shape)


def natural_gradient(damping: float, decay: float) -> optax.GradientTransformationExtraArgs:
    """Precondition the gradient of each array with the Kronecker factors of its curvature.

        updates, state = natural_gradient(damping, decay).update(grads, state, factors=factors)

    Args:
        damping: λ; see `precondition`.
        decay: of the exponential moving average of the factors, whose bias is corrected.

    Reference: J. Martens and R. Grosse, "Optimizing Neural Networks with Kronecker-factored
    Approximate Curvature", 2015, sections 5 and 6.3, with the same damping for both factors.
    """

    def zeros(p):
        rows, columns = jnp.atleast_2d(p).shape
        return Kronecker(jnp.zeros((rows, rows), p.dtype), jnp.zeros((columns, columns), p.dtype))

    def init(params):
        return NaturalState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params))

    def update(grads, state, params=None, *, factors, **others):
        count = state.count + 1
        average = optax.tree.update_moment(factors, state.factors, decay, 1)
        corrected = optax.tree.bias_correction(average, decay, count)
        updates = jax.tree.map(partial(precondition, damping=damping), grads, corrected)
        return updates, NaturalState(count, average)

    return optax.GradientTransformationExtraArgs(init, update)


OPTIMIZERS = {
    "SGD with momentum": (lambda rate: optax.sgd(rate, momentum=0.9), (0.03, 0.1, 0.3, 1.0)),
    "Adam": (optax.adam, (3e-3, 1e-2, 3e-2, 0.1)),
    "natural gradient": (
        lambda rate: optax.chain(natural_gradient(DAMPING, DECAY), optax.scale(-rate)),
        (0.03, 0.1, 0.3, 1.0),
    ),
}  # and the learning rates to choose from


def steps_of(net: jaxnn.Layer, optimizer_of: Callable, data: Split) -> Callable:
    """`(learning_rate, params, opt_state, keys) -> params, opt_state`, a step for each key.

    Each step draws its minibatch with replacement. The compiler drops the factors where the
    optimizer ignores them.
    """
    gradient = jaxnn.value_and_grad(net, LOSS)
    factors_of = kronecker_factors(net, LOSS, samples=1)
    data_x, data_labels = jnp.asarray(data.x), jnp.asarray(data.labels)

    @jax.jit
    def steps(learning_rate, params, opt_state, keys):
        optimizer = optax.with_extra_args_support(optimizer_of(learning_rate))

        def step(carry, key):
            params, opt_state = carry
            drawn, signs = jax.random.split(key)
            rows = jax.random.randint(drawn, (NATURAL_BATCH_SIZE,), 0, len(data_x))
            batch = data_x[rows], data_labels[rows]
            _, grads = gradient(params, *batch)
            factors = factors_of(params, *batch, signs)
            updates, opt_state = optimizer.update(grads, opt_state, params, factors=factors)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, opt_state), keys)[0]

    return steps


class Descent(NamedTuple):
    """A run of an optimizer: the loss of all training images after certain numbers of steps."""

    learning_rate: float
    steps: np.ndarray
    losses: np.ndarray
    seconds_per_step: float

    @property
    def steps_to_target(self) -> float:
        """The measured number of steps from which on the loss is at most the target, or inf."""
        above = np.flatnonzero(~(self.losses <= TARGET))
        stays = above[-1] + 1 if above.size else 0
        return float(self.steps[stays]) if stays < len(self.steps) else math.inf


def descend(net, steps: Callable, optimizer, learning_rate, data: Split, args) -> Descent:
    """Train with the optimizer, and measure the loss after each of at most a hundred stretches.

    The stretches have equally many steps, and the last few steps that fill none are omitted. The
    time of a step is the median over the stretches.
    """
    start, order = jax.random.split(jax.random.key(args.seed))
    params = net.init(start)
    carry = params, optimizer.init(params)
    mean_loss = jax.jit(lambda params: jnp.mean(LOSS(net.apply(params, data.x), data.labels)))
    every = -(-args.steps // POINTS)
    stretches = jax.random.split(order, args.steps // every * every).reshape(-1, every)
    jax.block_until_ready(steps(learning_rate, *carry, stretches[0]))  # compiles
    losses, seconds = [float(mean_loss(params))], []
    for keys in stretches:
        began = time.perf_counter()
        carry = jax.block_until_ready(steps(learning_rate, *carry, keys))
        seconds.append(time.perf_counter() - began)
        losses.append(float(mean_loss(carry[0])))
    numbers = every * np.arange(len(losses))
    return Descent(learning_rate, numbers, np.array(losses), float(np.median(seconds)) / every)


def best_of(descents: list[Descent]) -> Descent:
    """The first that stays below the target; of several or none, the one of lowest last loss."""
    return min(descents, key=lambda d: (d.steps_to_target, np.nan_to_num(d.losses[-1], nan=np.inf)))


def corruptions(x: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The test images as they are, rotated, and with Gaussian noise."""
    noise = np.random.default_rng(seed).normal(0, NOISE, x.shape)
    rotated = ndimage.rotate(x.reshape(-1, 8, 8), ANGLE, axes=(2, 1), reshape=False, order=1)
    return {
        "as they are": x,
        f"rotated by {ANGLE}°": rotated.reshape(x.shape),
        f"noise σ = {NOISE}": np.clip(x + noise, 0, 1).astype(x.dtype),
    }


def draw_reliability(found: dict[str, dict[str, np.ndarray]], labels: np.ndarray):
    """The accuracy by confidence, and the number of images by confidence."""
    figure, panels = plt.subplots(
        2, len(found), figsize=(8, 5), sharex=True, sharey="row", height_ratios=(3, 1)
    )
    centres = (np.arange(BINS) + 0.5) / BINS
    for (images, ways), (upper, lower) in zip(found.items(), panels.T, strict=True):
        upper.plot([0, 1], [0, 1], color="#666666", linestyle=":", linewidth=1)
        title = images
        for i, (name, probabilities) in enumerate(ways.items()):
            bins = reliability(probabilities, labels)
            accuracy = np.where(bins.count >= LEAST, bins.accuracy, np.nan)
            upper.plot(bins.confidence, accuracy, "os"[i] + LINES[i], markersize=4, label=name)
            left = centres + (i - 0.5) * 0.4 / BINS
            lower.bar(left, bins.count, 0.4 / BINS, hatch=["", "////"][i], edgecolor="white")
            title += f"\n{name}: ECE {bins.calibration_error:.1%}"
        upper.set_title(title, fontsize=10)
        lower.set(xlabel="confidence", yscale="log", axisbelow=True, xticks=[0, 0.5, 1])
        lower.xaxis.set_major_formatter("{x:g}")
        upper.set(xlim=(0, 1.02), ylim=(-0.02, 1.02))
    panels[0, 0].set_ylabel("fraction right")
    panels[1, 0].set_ylabel("images")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plain, laplace = (
        np.mean([reliability(ways[name], labels).calibration_error for ways in found.values()])
        for name in ways
    )
    figure.suptitle(
        f"Over-confident below the dotted line: mean ECE {plain:.1%} plain, {laplace:.1%} Laplace\n"
        f"(no point for a bin of fewer than {LEAST} images; ECE: expected calibration error)"
    )
    return figure


def draw_descents(descents: dict[str, list[Descent]]):
    """The training loss by step and by millisecond; the learning rates not chosen are faint."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 4.4), sharey=True)
    best = {name: best_of(runs) for name, runs in descents.items()}
    for color, (name, runs) in enumerate(descents.items()):
        for run in runs:
            look = {"linewidth": 0.8, "alpha": 0.25}
            if run is best[name]:
                look = {"label": f"{name}, rate {run.learning_rate:g}"}
            for axes, scale in zip(panels, (1, 1e3 * run.seconds_per_step), strict=True):
                axes.plot(scale * run.steps, run.losses, LINES[color], color=f"C{color}", **look)
    for axes, unit, cost in (
        (panels[0], "steps", lambda run: run.steps_to_target),
        (panels[1], "milliseconds", lambda run: 1e3 * run.steps_to_target * run.seconds_per_step),
    ):
        costs = {name: cost(run) for name, run in best.items()}
        first = min(costs, key=costs.get)
        winner = f"{first}, {costs[first]:.0f}" if costs[first] < math.inf else "not reached"
        axes.axhline(TARGET, color="#666666", linestyle=":", linewidth=1)
        axes.set(xlabel=unit, xscale="symlog", yscale="log", title=f"Fewest {unit}: {winner}")
        axes.set_xlim(0)
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("mean cross-entropy (nats)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        f"The way to a training loss of {TARGET:g} (dotted; faint: the learning rates not chosen)"
    )
    return figure


def calibrate(args: Namespace, net: jaxnn.Layer, data: Split):
    """Train until the network is over-confident, and compare it with its Laplace approximation."""
    n = round((1 - HELD_OUT) * len(data.x))  # `load` has shuffled the images
    key, predict_key = jax.random.split(jax.random.key(args.seed))
    training = common.fit(
        net,
        LOSS,
        net.init(key),
        (data.x[:n], data.labels[:n]),
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        optimizer=ADAM,
        seed=args.seed,
    )
    probabilities = laplace(net, training.params, data.x[:n], data.labels[:n])

    def held_out_loss(prior_precision):
        predicted = probabilities(data.x[n:], prior_precision, predict_key)
        return negative_log_likelihood(np.asarray(predicted), data.labels[n:])

    prior_precision = float(min(PRIOR_PRECISIONS, key=held_out_loss))
    found = {
        images: {
            "plain": np.asarray(jaxnn.softmax(jaxnn.predict(net, training.params, x))),
            "Laplace": np.asarray(probabilities(x, prior_precision, predict_key)),
        }
        for images, x in corruptions(data.test_x, args.seed).items()
    }
    return prior_precision, found, training.history["loss"][-1]


def report_calibration(args: Namespace, net: jaxnn.Layer, data: Split):
    """Print the accuracy and the calibration of the network and its Laplace approximation."""
    prior_precision, found, last_loss = calibrate(args, net, data)
    result = {
        images: {name: scores(p, data.test_labels) for name, p in ways.items()}
        for images, ways in found.items()
    }
    print(
        f"1. A Laplace approximation: training loss {last_loss:.2g} after "
        f"{common.count(args.epochs, 'epoch')},\n"
        f"prior precision {prior_precision:.3g}, the most likely for the held-out training images"
    )
    table = [
        (images, name, *of.values()) for images, ways in result.items() for name, of in ways.items()
    ]
    headers = ("test images", "", "right", "mean\nconfidence", "calibration\nerror", "−log p")
    print(tabulate(table, headers, floatfmt=("", "", ".1%", ".1%", ".1%", ".3f")))
    measured = {"prior_precision": prior_precision, "calibration": result}
    return measured, {"reliability": draw_reliability(found, data.test_labels)}


def report_descent(args: Namespace, net: jaxnn.Layer, data: Split):
    """Print the steps and the seconds to the target, with the best learning rate of each."""
    descents = {}
    for name, (optimizer_of, rates) in OPTIMIZERS.items():
        steps = steps_of(net, optimizer_of, data)
        descents[name] = [
            descend(net, steps, optimizer_of(rate), rate, data, args) for rate in rates
        ]
    best = {name: best_of(runs) for name, runs in descents.items()}
    result = {
        name: {
            "learning_rate": found.learning_rate,
            "train_loss": found.losses.tolist(),
            "seconds_per_step": found.seconds_per_step,
            "steps_to_target": steps if (steps := found.steps_to_target) < math.inf else None,
        }
        for name, found in best.items()
    }
    print(
        f"\n2. The natural gradient: batches of {NATURAL_BATCH_SIZE}, damping {DAMPING:g}, "
        f"{common.count(args.steps, 'step')}; target: a training loss of {TARGET:g}"
    )
    table = []
    for name, of in result.items():
        steps, milliseconds = of["steps_to_target"], 1e3 * of["seconds_per_step"]
        to_target = steps and steps * milliseconds
        row = (name, of["learning_rate"], of["train_loss"][-1], milliseconds, steps, to_target)
        table.append(row)
    headers = (
        "",
        "learning\nrate",
        "last\nloss",
        "ms per\nstep",
        "steps to\ntarget",
        "ms to\ntarget",
    )
    formats = ("", "g", ".1e", ".2f", ".0f", ".0f")
    print(tabulate(table, headers, floatfmt=formats, missingval="not reached"))
    return {"descent": result}, {"descent": draw_descents(descents)}


def run(args: Namespace, data: Split) -> None:
    """Go through the two parts and write everything to the output folder.

    LAPACK works with one thread, because several that wait for each other cost more than matrices
    of this size take.
    """
    net = jaxnn.mlp((data.x.shape[1], args.hidden, 10))
    print(
        f"digits: {len(data.x):,} images to train on, {len(data.test_x):,} to test on; "
        f"hidden units {args.hidden}, seed {args.seed}\n"
    )
    result, pictures = {}, {}
    with threadpoolctl.threadpool_limits(1, "blas"):
        for part in (report_calibration, report_descent):
            measured, drawn = part(args, net, data)
            result |= measured
            pictures |= drawn
    common.write_result(args.output, args, result)
    common.save_pictures(args.output, **pictures)
    print(f"\nwrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("curvature", __doc__.splitlines()[0])
    parser.add_integers(
        hidden=(64, "units of the hidden layer"),
        epochs=(100, "passes over the training images, before the Laplace approximation"),
        steps=(600, "steps of each optimizer that is compared"),
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    parser.run(run, args, load("digits"))


if __name__ == "__main__":
    main()
