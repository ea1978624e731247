"""
A wrong gradient, found and named
=================================

A backward pass can run, have the right shapes, and be wrong. ``jaxnn.gradcheck.check`` compares it
with automatic differentiation and, where it knows the mistake, names it.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from jaxnn.gradcheck import check

# %%
# RMS normalisation divides a vector by its root mean square. This backward pass divides the
# gradient by it too, which looks plausible.


def rms_norm(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))


def fwd(x):
    rms = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))
    return x / rms, (x / rms, rms)


def bwd(residuals, dy):
    _, rms = residuals
    return (dy / rms,)


x = jax.random.normal(jax.random.key(0), (4, 6))
print(check((fwd, bwd), x, definition=rms_norm))

# %%
# The root mean square depends on x. The missing term removes from dy its component along y.


def repaired(residuals, dy):
    y, rms = residuals
    return ((dy - y * jnp.mean(y * dy, axis=-1, keepdims=True)) / rms,)


print(check((fwd, repaired), x, definition=rms_norm))

# %%
# In the plane one can see it. RMS normalisation maps each ray to one point, so moving along the ray
# changes nothing: the true gradient is orthogonal to the ray, and the wrong one is not.

angles = jnp.linspace(0, 2 * jnp.pi, 12, endpoint=False) + 0.2
points = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
dy = jnp.broadcast_to(jnp.array([0.4, 0.0]), points.shape)
_, residuals = fwd(points)

figure, panels = plt.subplots(1, 2, figsize=(8, 4.2), sharey=True, layout="constrained")
for axes, backward, title in zip(panels, (bwd, repaired), ("wrong", "repaired"), strict=True):
    (dx,) = backward(residuals, dy)
    for point in points:
        axes.plot([0, 1.5 * point[0]], [0, 1.5 * point[1]], ":", color="#888888", linewidth=1)
    axes.quiver(*points.T, *dx.T, angles="xy", scale_units="xy", scale=1, color="#0072b2")
    axes.set(title=title, aspect="equal", xlim=(-1.6, 1.9), ylim=(-1.6, 1.6), xlabel="$x_1$")
panels[0].set_ylabel("$x_2$")
figure.suptitle("The true gradient of RMS normalisation is orthogonal to x")
plt.show()
