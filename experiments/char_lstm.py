"""A small LSTM: a recurrent network learns to write text, character by character.

python -m experiments.char_lstm
"""

from argparse import Namespace

import numpy as np

import jaxnn
from experiments import common, text

plt = common.pyplot()

SHOWN_CHARACTERS, SHOWN_UNITS = 48, 12  # in the picture of the hidden units


def network(vocabulary: int, dim: int, hidden: int) -> jaxnn.Layer:
    """From numbers (N, T) to the logits of the character after each, (N, T, K)."""
    return jaxnn.serial(
        jaxnn.Embedding(vocabulary, dim),
        jaxnn.batch_first(jaxnn.LSTM(dim, hidden)),
        jaxnn.Linear(hidden, vocabulary),
    )


def hidden_units(net: jaxnn.Layer, params, numbers: np.ndarray) -> np.ndarray:
    """What each hidden unit holds after each character, (T, H)."""
    embed, recurrent, _ = net.layers
    return np.asarray(recurrent.apply(params[1], embed.apply(params[0], numbers[None]))[0])


def draw_hidden_units(hidden: np.ndarray, characters: str):
    """The units that change most slowly: what they hold after each character."""
    change = np.square(np.diff(hidden, axis=0)).mean(0) / hidden.var(0)
    slowest = np.argsort(change)[:SHOWN_UNITS]
    figure, axes = plt.subplots(figsize=(8, 3.6))
    shown = axes.imshow(hidden[:, slowest].T, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(characters)), [repr(c)[1:-1] for c in characters], fontsize=7)
    axes.set_yticks(range(len(slowest)), slowest + 1, fontsize=7)
    axes.set(xlabel="character that was just read", ylabel="hidden unit")
    axes.set_title(f"The {len(slowest)} units of {hidden.shape[1]} that change most slowly")
    figure.colorbar(shown, label="value")
    return figure


def run(args: Namespace, corpus: text.Text) -> None:
    """Train the model, let it write, and write everything to the output folder."""
    net = network(len(corpus.vocabulary), args.dim, args.hidden)
    trained, result = text.run(net, corpus, args)
    shown = corpus.passage[:SHOWN_CHARACTERS]
    hidden = hidden_units(net, trained.params, shown)
    common.write_result(args.output, args, result)
    common.save_pictures(
        args.output,
        curves=text.draw_curves(trained),
        hidden_units=draw_hidden_units(hidden, corpus.characters(shown)),
    )
    print(f"wrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("char_lstm", __doc__.splitlines()[0], trains=True)
    text.add_options(parser, context=64, batch_size=32, steps=800, rate=1e-2)
    parser.add_integers(
        dim=(32, "components of each character"), hidden=(128, "hidden units of the LSTM")
    )
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    corpus = text.load(parser, args)
    parser.run(run, args, corpus)


if __name__ == "__main__":
    main()
