"""
Gradient norms find mislabelled digits
======================================

An image with a wrong label contradicts the others, so after a few epochs its gradient is among the
largest. One backward pass gives the norms of the gradients of all images, which sort the data set
for inspection.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxnn
from jaxnn.per_example import per_example_norms

# %%
# Replace a tenth of the labels by wrong ones, and train for a few epochs.

x, labels = load_digits(return_X_y=True)
x = np.float32(x / 16)
random = np.random.default_rng(0)
is_wrong = random.permutation(len(labels)) < len(labels) // 10
labels = np.where(is_wrong, labels + random.integers(1, 10, len(labels)), labels) % 10

net = jaxnn.mlp((64, 64, 10))
training = jaxnn.fit(
    net,
    jaxnn.softmax_cross_entropy,
    net.init(jax.random.key(0)),
    (x, labels),
    epochs=5,
    batch_size=32,
    optimizer=optax.adam(1e-2),
)

# %%
# Sort the images by the norm of their gradient.

norms_of = jax.jit(per_example_norms(net, jaxnn.softmax_cross_entropy))
_, norms = norms_of(training.params, x, labels)
order = np.argsort(-norms)
for inspected in (90, 180, 360):
    found = is_wrong[order[:inspected]].sum()
    print(f"the {inspected} largest norms include {found} of {is_wrong.sum()} wrong labels")

# %%
# The images of largest norm, with their labels. A cross marks a label that was replaced.

figure, panels = plt.subplots(3, 8, figsize=(8, 4), layout="constrained")
for i, axes in zip(order, panels.flat, strict=False):
    axes.imshow(x[i].reshape(8, 8), cmap="gray_r")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"label {labels[i]} {'✗' if is_wrong[i] else ''}", fontsize=10)
right = is_wrong[order[: panels.size]].sum()
figure.suptitle(f"Of the {panels.size} largest gradients, {right} come from wrong labels (✗)")
plt.show()
