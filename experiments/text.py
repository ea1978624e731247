"""What the language models share: text as numbers, training, samples and pictures."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxnn
from experiments import common

plt = common.pyplot()

LOSS = jaxnn.softmax_cross_entropy
HELD_OUT = 0.1  # of the text, its end
MEASURED = 128  # windows of the held-out text that are measured
ROUND = 20  # steps between two looks at the progress


class Text(NamedTuple):
    """A text as numbers.

    Attributes:
        vocabulary: its characters; the number of each is its place.
        x: windows of the text to train on, (M, T).
        target: for each character of `x` the one after it, (M, T).
        held_out_x: windows of the text that is held out.
        held_out_target: the characters after those.
    """

    vocabulary: str
    x: np.ndarray
    target: np.ndarray
    held_out_x: np.ndarray
    held_out_target: np.ndarray

    @property
    def passage(self) -> np.ndarray:
        """The held-out window with the most letters, (T,): prose rather than a table."""
        letters = np.array([character.isalpha() for character in self.vocabulary])
        return self.held_out_x[letters[self.held_out_x].sum(1).argmax()]

    def characters(self, numbers) -> str:
        """The characters of numbers."""
        return "".join(self.vocabulary[n] for n in np.asarray(numbers))


class Trained(NamedTuple):
    """A trained model.

    Attributes:
        params: its parameters.
        steps: the steps at which the losses were taken.
        loss: the mean loss of the training windows of the round before, in nats per character.
        held_out_loss: the mean loss of held-out windows.
    """

    params: Any
    steps: list[int]
    loss: list[float]
    held_out_loss: list[float]


def add_options(parser: common.Parser, *, context: int, batch_size: int, steps: int, rate: float):
    """The options of every language model, with these defaults."""
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="a UTF-8 text to learn (default: the help pages that come with Python)",
    )
    parser.add_integers(
        context=(context, "characters that the model sees at once"),
        batch_size=(batch_size, "windows in each minibatch"),
        steps=(steps, "updates"),
        sample=(400, "characters to write"),
    )
    parser.add_argument(
        "--learning-rate",
        type=common.positive_float,
        default=rate,
        metavar="RATE",
        help="the largest, after the warm-up (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=common.positive_float,
        default=0.7,
        help="of the sample: below 1 likely characters are preferred (default: %(default)s)",
    )
    parser.add_argument(
        "--twin", action="store_true", help="train the same model by jax.grad too, and compare"
    )


def load(parser: common.Parser, args: Namespace) -> Text:
    """The text of the command line, or the help pages of Python, cut into windows.

    Leaves with one line if it cannot be read, or is too short for one minibatch and one held-out
    window.
    """
    if args.text is None:
        text = "\n\n".join(topics[topic] for topic in sorted(topics))
    else:
        try:
            text = args.text.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            parser.error(f"--text {args.text} is not UTF-8 text: {error.reason}")
        except OSError as error:
            parser.error(f"--text {args.text} cannot be read: {error.strerror}")
    vocabulary = "".join(sorted(set(text)))
    place = {character: i for i, character in enumerate(vocabulary)}
    encoded = np.array([place[character] for character in text], np.int32)
    split = round((1 - HELD_OUT) * len(encoded))
    parts = [_windows(part, args.context) for part in (encoded[:split], encoded[split:])]
    (x, target), (held_out_x, held_out_target) = parts
    if len(x) < args.batch_size or not len(held_out_x):
        parser.error(
            f"a text of {len(text):,} characters has {len(x)} windows of {args.context} to train "
            f"on and {len(held_out_x)} held out: too few for --batch-size {args.batch_size}"
        )
    return Text(vocabulary, x, target, held_out_x[:MEASURED], held_out_target[:MEASURED])


def train(net: jaxnn.Layer, gradient: Callable, params, text: Text, args: Namespace) -> Trained:
    """AdamW with clipped gradients and a cosine schedule after a warm-up.

    Args:
        net: the model, from numbers (N, T) to logits (N, T, K).
        gradient: `(params, x, target, key) -> (value, grads)`, by hand or by autodiff.
        params: the parameters to start from; they are left as they are.
        text: the text.
        args: the command line.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, args.learning_rate, max(1, args.steps // 20), max(2, args.steps)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    epoch = jaxnn.epoch_of(gradient, optimizer, args.batch_size)

    @jax.jit
    def held_out_loss(params):
        return jnp.mean(LOSS(net.apply(params, text.held_out_x), text.held_out_target))

    random = np.random.default_rng(args.seed)
    params = jax.tree.map(jnp.copy, params)
    opt_state = optimizer.init(params)
    trained = Trained(None, [], [], [])
    with tqdm(total=args.steps, unit="step") as bar:
        while bar.n < args.steps:
            steps = min(ROUND, args.steps - bar.n, len(text.x) // args.batch_size)
            rows = random.choice(len(text.x), steps * args.batch_size, replace=False)
            key = jax.random.fold_in(jax.random.key(args.seed), bar.n)
            params, opt_state, value = epoch(
                params, opt_state, text.x[rows], text.target[rows], key
            )
            bar.update(steps)
            trained.steps.append(bar.n)
            trained.loss.append(float(value))
            trained.held_out_loss.append(float(held_out_loss(params)))
            bar.set_postfix(loss=f"{value:.3f}", held_out=f"{trained.held_out_loss[-1]:.3f}")
    return trained._replace(params=params)


def run(net: jaxnn.Layer, text: Text, args: Namespace) -> tuple[Trained, dict[str, Any]]:
    """Train, compare with autodiff, write a sample; what is measured goes to the result."""
    gradient = jaxnn.value_and_grad(net, LOSS)
    params = net.init(jax.random.key(args.seed))
    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{len(text.vocabulary)} characters, {n_params:,} parameters; {text.x.size:,} characters "
        f"to train on, {text.held_out_x.size:,} held out"
    )
    batch = text.x[: args.batch_size], text.target[: args.batch_size]
    key = jax.random.key(args.seed)
    errors = common.relative_errors(*common.both_gradients(net, LOSS, params, *batch, key))
    trained = train(net, gradient, params, text, args)
    loss = trained.held_out_loss[-1]
    result = {
        "held_out_loss": loss,
        "perplexity": float(np.exp(loss)),
        "gradient_error": errors,
        "curves": {
            "steps": trained.steps,
            "loss": trained.loss,
            "held_out_loss": trained.held_out_loss,
        },
    }
    leaf = max(errors, key=errors.get)
    print(
        f"{len(errors)} gradients agree with jax.grad; largest relative error {errors[leaf]:.1e}, "
        f"at {leaf}\nheld-out text: {loss:.3f} nats per character, perplexity {np.exp(loss):.2f}"
    )
    if args.twin:
        twin = train(net, common.autodiff(net, LOSS), params, text, args)
        result["held_out_loss_by_autodiff"] = twin.held_out_loss[-1]
        print(f"the same model by jax.grad: {twin.held_out_loss[-1]:.3f} nats per character")
    start = text.passage
    generate = jax.jit(jaxnn.generate, static_argnums=(0, 3))
    key = jax.random.key(args.seed)
    written = generate(
        net, trained.params, start[None], args.sample, key=key, temperature=args.temperature
    )
    result["sample"] = text.characters(written[0])
    print(f"\n{text.characters(start)}|{result['sample']}\n")
    return trained, result


def draw_curves(trained: Trained):
    """Loss by step, of the training and the held-out text."""
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(trained.steps, trained.loss, ".-", label="training, during the round")
    axes.plot(trained.steps, trained.held_out_loss, ".--", label="held out, after it")
    axes.set(xlabel="step", ylabel="mean cross-entropy (nats per character)")
    perplexity = np.exp(trained.held_out_loss[-1])
    axes.set_title(f"Perplexity on held-out text: {perplexity:.2f} characters to choose from")
    axes.legend()
    return figure


def _windows(numbers: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows that do not overlap, and the windows one character further."""
    n = max(0, (len(numbers) - 1) // length)
    cut = numbers[: n * length + 1]
    return cut[:-1].reshape(n, length), cut[1:].reshape(n, length)
