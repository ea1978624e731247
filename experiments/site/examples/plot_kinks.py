"""
What is the derivative at a kink?
=================================

A piecewise linear activation has no derivative where its slope jumps. A backward pass must return
a number there all the same. Any number between the two slopes is a *subgradient*, and each op of
jaxnn documents its choice.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxnn

# %%
# The backward pass of an op takes what its forward pass saved and the gradient of the output. With
# ones as the gradient of the output, it returns the derivative.


def value_and_derivative(op, x):
    y, residuals = op.fwd(x)
    (dx,) = op.bwd(residuals, jnp.ones_like(y))
    return y, dx


KINKS = {jaxnn.relu: [0.0], jaxnn.hard_tanh: [-1.0, 1.0], jaxnn.gelu: []}

for op, kinks in KINKS.items():
    for x in kinks:
        slopes = value_and_derivative(op, jnp.array([x - 1e-3, x, x + 1e-3]))[1]
        print(f"{op.__name__}: slopes around {x:+g} are {slopes}")

# %%
# The circles: at its kink ReLU returns 0, the smaller slope, and at both of its kinks hard tanh
# returns 1, the larger one. GELU is smooth and has no choice to make.

x = jnp.linspace(-3, 3, 601)
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for (op, kinks), axes in zip(KINKS.items(), panels, strict=True):
    y, dx = value_and_derivative(op, x)
    pieces = jnp.searchsorted(x, jnp.array(kinks))
    axes.plot(x, y, color="#0072b2", label="value")
    for part_x, part in zip(jnp.split(x, pieces), jnp.split(dx, pieces), strict=True):
        axes.plot(part_x[1:], part[1:], "--", color="#d55e00", label="derivative")
    for kink in kinks:
        axes.plot(kink, value_and_derivative(op, jnp.array(kink))[1], "o", color="#d55e00")
    axes.set(title=op.__name__, xlabel="x", ylim=(-1.2, 2.2))
    axes.grid(color="#dddddd")
panels[0].legend(*(entries[:2] for entries in panels[0].get_legend_handles_labels()))
figure.suptitle("At a kink the derivative jumps, and the op chooses one subgradient")
plt.show()
