"""A small LSTM: a recurrent network learns to write text, character by character.

python -m experiments.char_lstm
"""

from argparse import Namespace

import numpy as np

import jaxnn
from experiments import common, text

plt = common.pyplot()

SHOWN_CHARACTERS, SHOWN_UNITS = 48, 6  # in each half of the picture of the hidden units


def network(vocabulary: int, dim: int, hidden: int) -> jaxnn.Layer:
    """From numbers (N, T) to the logits of the character after each, (N, T, K)."""
    return jaxnn.serial(
        jaxnn.Embedding(vocabulary, dim),
        jaxnn.batch_first(jaxnn.LSTM(dim, hidden)),
        jaxnn.Linear(hidden, vocabulary),
    )


def hidden_units(net: jaxnn.Layer, params, numbers: np.ndarray) -> np.ndarray:
    """The output of each hidden unit after each character, (N, T, H)."""
    embed, recurrent, _ = net.layers
    return np.asarray(recurrent.apply(params[1], embed.apply(params[0], numbers)))


def draw_hidden_units(hidden: np.ndarray, passage: np.ndarray, characters: str):
    """The outputs of the slowest and the fastest units, after each character of the passage.

    A unit is slow if its outputs after two consecutive characters correlate.

    Args:
        hidden: the outputs from which the correlations come, (N, T, H).
        passage: the outputs to draw, (T', H).
        characters: the text of the passage.
    """
    centred = hidden - hidden.mean((0, 1))
    products = (centred[:, 1:] * centred[:, :-1]).mean((0, 1))
    correlation = products / np.maximum(centred.var((0, 1)), np.finfo(np.float32).tiny)
    order = np.argsort(-correlation)
    shown = np.r_[order[:SHOWN_UNITS], order[SHOWN_UNITS:][-SHOWN_UNITS:]]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.32 * len(shown)))
    places = np.arange(len(characters))
    for row, unit in enumerate(shown):
        outputs = passage[:, unit]
        axes.bar(places, -0.45 * outputs, 1, row, color=np.where(outputs > 0, "C0", "C1"))
    axes.set_xticks(places, text.visible(characters), fontsize=9)
    names = [f"unit {unit + 1}, r = {correlation[unit]:.2f}" for unit in shown]
    axes.set_yticks(range(len(shown)), [name.replace("-", "−") for name in names])
    axes.grid(axis="x", visible=False)
    axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xlabel("character that was just read")
    slowest, fastest = correlation[order[[0, -1]]]
    axes.set_title(
        "Slow and fast memory: a unit's outputs after consecutive characters correlate\n"
        f"by {slowest:.2f} in the slowest unit, by {fastest:.2f} in the fastest".replace("-", "−")
    )
    return figure


def run(args: Namespace, corpus: text.Text) -> None:
    """Train the model, let it write, and write everything to the output folder."""
    net = network(len(corpus.vocabulary), args.dim, args.hidden)
    trained, result = text.run(net, corpus, args)
    shown = corpus.passage[:SHOWN_CHARACTERS]
    hidden = hidden_units(net, trained.params, corpus.held_out_x)
    (passage,) = hidden_units(net, trained.params, shown[None])
    common.write_result(args.output, args, result)
    common.save_pictures(
        args.output,
        curves=text.draw_curves(trained),
        hidden_units=draw_hidden_units(hidden, passage, corpus.characters(shown)),
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
