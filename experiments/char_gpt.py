"""A small GPT: a decoder-only transformer learns to write text, character by character.

python -m experiments.char_gpt
"""

from argparse import Namespace

import jax.numpy as jnp
import numpy as np

import jaxnn
from experiments import common, text

plt = common.pyplot()

SHOWN = 16  # characters in the picture of the attention


def network(vocabulary: int, dim: int, heads: int, blocks: int, context: int) -> jaxnn.Layer:
    """From numbers (N, T) to the logits of the character after each, (N, T, K).

    A character sees no more than `context` characters back, so that a sample may be longer than the
    windows of the training.
    """
    block = jaxnn.TransformerBlock(
        *(dim, heads),
        causal=True,
        window=(context - 1, 0),
        rotary=True,
        use_bias=False,
        norm=jaxnn.RMSNorm,
    )
    return jaxnn.serial(
        jaxnn.Embedding(vocabulary, dim),
        *[block] * blocks,
        jaxnn.RMSNorm(dim),
        jaxnn.Linear(dim, vocabulary),
    )


def attention_maps(net: jaxnn.Layer, params, numbers: np.ndarray, heads: int) -> np.ndarray:
    """How much each character (third axis) looks at each (last): (blocks, heads, T, T)."""
    maps = []
    x = net.layers[0].apply(params[0], numbers[None])
    for block, block_params in zip(net.layers[1:-2], params[1:-2], strict=True):
        norm_params, attention_params = block_params[0]
        normalised = jaxnn.rms_norm(norm_params, x)
        q, k = (
            jaxnn.rotary_embedding(
                jaxnn.linear(attention_params[n], normalised).reshape(*x.shape[:2], heads, -1)
            )
            for n in ("q", "k")
        )
        scores = jnp.einsum("nthd,nshd->nhts", q, k)[0] / q.shape[-1] ** 0.5
        seen = jnp.tril(jnp.ones(scores.shape[1:], bool))
        maps.append(jaxnn.softmax(jnp.where(seen[None], scores, -jnp.inf)))
        x = block.apply(block_params, x)
    return np.asarray(jnp.stack(maps))


def draw_attention(maps: np.ndarray, characters: str):
    """Each head as a grid: the row is a character, the columns those it looks at."""
    blocks, heads, n, _ = maps.shape
    figure, panels = plt.subplots(
        *(blocks, heads),
        figsize=(1.9 * heads + 1.2, 2.1 * blocks + 1),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    back = (maps * distance).sum(-1).mean(-1)
    for (block, head), panel in np.ndenumerate(panels):
        shown = panel.imshow(maps[block, head], cmap="Blues", vmin=0, vmax=1)
        panel.set_title(
            f"block {block + 1}, head {head + 1}: {back[block, head]:.1f} back", fontsize=9
        )
        panel.grid(False)
        panel.tick_params(length=0)
        panel.set_xticks(range(n), text.visible(characters), fontsize=8)
        panel.set_yticks(range(n), text.visible(characters), fontsize=8)
    figure.colorbar(shown, ax=panels, shrink=0.7, label="attention weight")
    figure.supxlabel("key: the character that is looked at", fontsize=10)
    figure.supylabel("query: the character that looks", fontsize=10)
    figure.suptitle(
        f"The heads look {back.min():.1f} to {back.max():.1f} characters back on average"
    )
    return figure


def run(args: Namespace, corpus: text.Text) -> None:
    """Train the model, let it write, and write everything to the output folder."""
    net = network(len(corpus.vocabulary), args.dim, args.heads, args.blocks, args.context)
    trained, result = text.run(net, corpus, args)
    shown = corpus.passage[:SHOWN]
    maps = attention_maps(net, trained.params, shown, args.heads)
    common.write_result(args.output, args, result)
    common.save_pictures(
        args.output,
        curves=text.draw_curves(trained),
        attention=draw_attention(maps, corpus.characters(shown)),
    )
    print(f"wrote result.json and the pictures to {args.output}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("char_gpt", __doc__.splitlines()[0], trains=True)
    text.add_options(parser, context=64, batch_size=32, steps=800, rate=3e-3)
    parser.add_integers(
        dim=(64, "components of each character"),
        heads=(4, "heads of the attention; twice as many must divide --dim"),
        blocks=(2, "transformer blocks"),
    )
    args = parser.parse_args(arguments)
    if args.dim % (2 * args.heads):
        parser.error(f"--dim {args.dim} is not a multiple of twice --heads {args.heads}")
    parser.make_folder(args.output)
    corpus = text.load(parser, args)
    parser.run(run, args, corpus)


if __name__ == "__main__":
    main()
