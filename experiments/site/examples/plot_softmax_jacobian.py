r"""
The Jacobian of softmax
=======================

Every output of softmax depends on every input, so its Jacobian is a full matrix,
:math:`\mathrm{diag}(p) - p\,p^\top`. The backward pass never builds it, but can show it.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxnn

# %%
# A backward pass multiplies a row vector by the Jacobian from the left. With a unit vector it
# returns one row, and with the identity matrix, through ``jax.vmap``, all of them.

logits = jnp.array([2.0, 1.0, 0.5, 0.0, -1.0])
p, residuals = jaxnn.softmax.fwd(logits)
(jacobian,) = jax.vmap(lambda dy: jaxnn.softmax.bwd(residuals, dy))(jnp.eye(len(p)))

print("largest error against diag(p) - p pᵀ:", abs(jacobian - jnp.diag(p) + jnp.outer(p, p)).max())
print("sums of the rows:", jnp.round(jacobian.sum(axis=1), 6))

# %%
# The diagonal is positive and the other entries are negative: a larger logit takes its probability
# from all others. Each row sums to zero, because adding a constant to all logits changes nothing.
# The backward pass dz = p ⊙ (dy − Σ p·dy) uses both facts and costs O(K) in place of O(K²).

figure, axes = plt.subplots(figsize=(6, 4.6), layout="constrained")
image = axes.imshow(jacobian, cmap="RdBu", vmin=-0.3, vmax=0.3)
for (i, j), entry in np.ndenumerate(jacobian):
    color = "white" if abs(entry) > 0.2 else "black"
    axes.text(j, i, f"{entry:+.3f}".replace("-", "−"), ha="center", va="center", color=color)
axes.set(xlabel="logit $z_j$", ylabel="probability $p_i$")
figure.suptitle("A probability grows with its own logit and falls with every other")
axes.set_xticks(range(len(p)), [f"{z:g}" for z in logits])
axes.set_yticks(range(len(p)), [f"{q:.2f}" for q in p])
figure.colorbar(image, label=r"$\partial p_i / \partial z_j$")
plt.show()
