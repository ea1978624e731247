"""
How a deep network of sigmoids loses its gradient
=================================================

Backpropagation multiplies the gradient by the activation's derivative in every layer. That of the
sigmoid is at most ¼, so the gradient shrinks by orders of magnitude and the first layers hardly
learn. With ReLU the variance of the weights decides: He's initialisation keeps the gradient.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxnn

DEPTH, WIDTH, EXAMPLES = 20, 64, 256

# %%
# The forward pass saves the residuals of each layer. The backward pass takes them in reverse order,
# here from a random gradient at the output to the input of the network.


def gradient_norms(activation, variance):
    weight_key, x_key, dy_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (EXAMPLES, WIDTH))
    layers = []
    for key in jax.random.split(weight_key, DEPTH):
        w = jnp.sqrt(variance) * jax.random.normal(key, (WIDTH, WIDTH))
        z, of_linear = jaxnn.linear.fwd({"w": w, "b": jnp.zeros(WIDTH)}, x)
        x, of_activation = activation.fwd(z)
        layers.append((of_linear, of_activation))

    gradient = jax.random.normal(dy_key, x.shape)
    norms = [jnp.linalg.norm(gradient)]
    for of_linear, of_activation in reversed(layers):
        (gradient,) = activation.bwd(of_activation, gradient)
        _, gradient = jaxnn.linear.bwd(of_linear, gradient)
        norms.append(jnp.linalg.norm(gradient))
    return np.array(norms[::-1])


norms = {
    "ReLU, Var w = 2/n (He)": gradient_norms(jaxnn.relu, 2 / WIDTH),
    "tanh, Var w = 1/n": gradient_norms(jaxnn.tanh, 1 / WIDTH),
    "ReLU, Var w = 1/n": gradient_norms(jaxnn.relu, 1 / WIDTH),
    "sigmoid, Var w = 1/n": gradient_norms(jaxnn.sigmoid, 1 / WIDTH),
}

# %%
# On the logarithmic axis the slope of a line is the factor of one layer.

figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
for (name, of_layers), line in zip(norms.items(), ("o-", "s--", "^-.", "D:"), strict=True):
    factor = (of_layers[0] / of_layers[-1]) ** (1 / DEPTH)
    axes.plot(of_layers / of_layers[-1], line, markersize=4, label=f"{name}: ×{factor:.2f}")
axes.set(
    yscale="log", xlabel="layers passed forward", ylabel="norm of the gradient / at the output"
)
axes.xaxis.get_major_locator().set_params(integer=True)
axes.grid(color="#dddddd")
axes.legend(title="factor of one layer")
orders = np.log10(norms["sigmoid, Var w = 1/n"])
axes.set_title(
    f"{DEPTH} layers of sigmoids shrink the gradient by {orders[-1] - orders[0]:.0f} orders of "
    "magnitude"
)
plt.show()
