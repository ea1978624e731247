"""
Two heads of attention that predict the next letter
===================================================

Attention averages the values with weights that it computes from queries and keys. If the values
are the identity matrix, the output *is* the weights. This shows how two hand-made heads look back
at equal letters, and at the letters after them.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxnn

TEXT = "abracadabra"

# %%
# Each letter is a unit vector. A query meets the keys of the letters up to its own, because the
# head is causal.

letters = sorted(set(TEXT))
one_hot = jax.nn.one_hot(jnp.array([letters.index(letter) for letter in TEXT]), len(letters))
identity = jnp.eye(len(TEXT))


def weights(queries, keys):
    q, k, v = (array[None, :, None, :] for array in (queries, keys, identity))
    return jaxnn.attention(q, k, v, causal=True, scale=6.0)[0, :, 0]


# %%
# In the first head the keys are the letters themselves: a letter looks at all equal letters so far.
# In the second the key of each position is the letter *before* it: a letter looks at the letters
# that followed it earlier. Such an induction head copies them as its prediction.

previous = jnp.roll(one_hot, 1, axis=0).at[0].set(0)
heads = {
    "equal letters": weights(one_hot, one_hot),
    "what followed equal letters": weights(one_hot, previous),
}

for t in (8, 9):
    scores = heads["what followed equal letters"][t] @ one_hot
    print(f"after {TEXT[: t + 1]!r} the second head predicts {letters[int(scores.argmax())]!r}")

# %%
# Each row is a query and sums to 1. Above the diagonal all weights are 0. In the second head, a new
# letter matches no key and spreads its weight evenly.

figure, panels = plt.subplots(1, 2, figsize=(9, 4.3), sharey=True, layout="constrained")
for axes, (title, head) in zip(panels, heads.items(), strict=True):
    image = axes.imshow(head, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(TEXT)), TEXT)
    axes.set_yticks(range(len(TEXT)), TEXT)
    axes.set(title=title, xlabel="key: the letter that is looked at")
panels[0].set_ylabel("query: the letter that looks")
figure.colorbar(image, ax=panels, label="attention weight")
figure.suptitle(
    "Both heads look only back: the first at equal letters, the second one step after them"
)
plt.show()
