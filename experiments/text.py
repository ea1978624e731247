"""What the language models share: text as numbers, training, samples and pictures."""

import json
import zlib
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
from experiments import common, resume
from jaxnn.training.interruption import noticed

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

    @property
    def checksum(self) -> int:
        """A number that differs for another text."""
        return zlib.crc32(self.vocabulary.encode() + self.x.tobytes() + self.held_out_x.tobytes())

    def characters(self, numbers) -> str:
        """The characters of numbers."""
        return "".join(self.vocabulary[n] for n in np.asarray(numbers))


class Trained(NamedTuple):
    """A model, trained for some steps.

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


class Round(NamedTuple):
    """Where training stands after a round.

    Attributes:
        trained: the model.
        opt_state: the state of the optimizer.
        random: the generator of the order of the windows.
    """

    trained: Trained
    opt_state: Any
    random: np.random.Generator

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.trained.steps[-1] if self.trained.steps else 0

    def save(self, path: Path, text: Text) -> None:
        """Write the round to a file, whole or not at all."""
        params, *curves = self.trained
        facts = {
            "curves": curves,
            "random": self.random.bit_generator.state,
            "text": text.checksum,
        }
        arrays = {"params": params, "opt_state": self.opt_state}
        jaxnn.save_params(path, arrays, metadata={"round": json.dumps(facts)})

    def load(self, path: Path, text: Text) -> "Round":
        """The round in a file.

        Raises:
            resume.CannotResume: it is of another text.
        """
        facts = json.loads(jaxnn.load_metadata(path)["round"])
        if facts["text"] != text.checksum:
            raise resume.CannotResume("the text has changed since the run was begun")
        like = {"params": self.trained.params, "opt_state": self.opt_state}
        arrays = jaxnn.load_params(path, like)
        self.random.bit_generator.state = facts["random"]
        return Round(Trained(arrays["params"], *facts["curves"]), arrays["opt_state"], self.random)


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


def train(
    net: jaxnn.Layer, gradient: Callable, params, text: Text, args: Namespace, folder: Path
) -> Trained:
    """AdamW with clipped gradients and a cosine schedule after a warm-up.

    Args:
        net: the model, from numbers (N, T) to logits (N, T, K).
        gradient: `(params, x, target, key) -> (value, grads)`, by hand or by autodiff.
        params: the parameters to start from; they do not change.
        text: the text.
        args: the command line.
        folder: where each round is saved, and from where training goes on.

    Raises:
        FloatingPointError: the loss left the finite numbers, or has more than doubled.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended training after a round.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, args.learning_rate, max(1, args.steps // 20), max(2, args.steps)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    epoch = jaxnn.epoch_of(gradient, optimizer, args.batch_size)

    @jax.jit
    def held_out_loss(params):
        return jnp.mean(LOSS(net.apply(params, text.held_out_x), text.held_out_target))

    file, lines = folder / "round.safetensors", common.Lines()
    folder.mkdir(parents=True, exist_ok=True)
    done = Round(
        Trained(jax.tree.map(jnp.copy, params), [], [], []),
        optimizer.init(params),
        np.random.default_rng(args.seed),
    )
    if file.is_file():
        done = done.load(file, text)
    bar = tqdm(total=args.steps, initial=done.step, unit="step", disable=None)
    with bar, noticed() as interruption:
        while done.step < args.steps:
            steps = min(ROUND, args.steps - done.step, len(text.x) // args.batch_size)
            done = _after_round(done, steps, epoch, held_out_loss, text, args)
            done.save(file, text)
            if interruption.signal_name is not None:
                raise KeyboardInterrupt(f"{interruption.signal_name} after step {done.step}")
            loss, held_out = done.trained.loss[-1], done.trained.held_out_loss[-1]
            bar.update(steps)
            bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{held_out:.3f}")
            lines.say(
                f"step {done.step} of {args.steps}: loss {loss:.3f}, held-out text {held_out:.3f}"
            )
    common.refuse_divergence(float(held_out_loss(params)), done.trained.held_out_loss[-1])
    return done.trained


def _after_round(done: Round, steps: int, epoch, held_out_loss, text: Text, args) -> Round:
    """Train for some more steps, and measure."""
    (params, taken_at, losses, held_out_losses), opt_state, random = done
    rows = random.choice(len(text.x), steps * args.batch_size, replace=False)
    key = jax.random.fold_in(jax.random.key(args.seed), done.step)
    params, opt_state, loss = epoch(params, opt_state, text.x[rows], text.target[rows], key)
    held_out = held_out_loss(params)
    step = done.step + steps
    if not np.isfinite([loss, held_out]).all():
        raise FloatingPointError(f"training met a non-finite loss before step {step}")
    trained = Trained(
        params,
        [*taken_at, step],
        [*losses, float(loss)],
        [*held_out_losses, float(held_out)],
    )
    return Round(trained, opt_state, random)


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
    print("comparing its gradients with those of jax.grad")
    errors = common.relative_errors(*common.both_gradients(net, LOSS, params, *batch, key))
    print(f"training for {common.count(args.steps, 'step')}")
    trained = train(net, gradient, params, text, args, resume.folder(args, "model"))
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
        print("training the same model by jax.grad")
        folder = resume.folder(args, "twin")
        twin = train(net, common.autodiff(net, LOSS), params, text, args, folder)
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
    axes.set_title(
        f"The model hesitates between {perplexity:.2f} characters (its perplexity on held-out text)"
    )
    axes.legend()
    return figure


def visible(characters: str) -> list[str]:
    """A printable label for each character."""
    return ["␣" if character == " " else repr(character)[1:-1] for character in characters]


def _windows(numbers: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows that do not overlap, and the windows one character further."""
    n = max(0, (len(numbers) - 1) // length)
    cut = numbers[: n * length + 1]
    return cut[:-1].reshape(n, length), cut[1:].reshape(n, length)
