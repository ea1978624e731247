"""
Why finite differences need the right step
==========================================

A large step truncates the Taylor series; a small one subtracts two nearly equal numbers, so that
rounding remains. The best step lies between, and even there a difference quotient has only part of
the digits that the backward pass has.
"""

from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxnn

STEPS = np.logspace(-15, 0, 91)

# %%
# The function is the softplus at one point, in float64. Its true derivative is the sigmoid, here
# computed with 30 digits.

X = 0.7
getcontext().prec = 30
TRUTH = 1 / (1 + (-Decimal(X)).exp())


def relative_error(derivative):
    return float(abs(Decimal(float(derivative)) / TRUTH - 1))


with jax.enable_x64(True):
    x, f = jnp.float64(X), jaxnn.softplus
    above, here, below = f(x + STEPS), f(x), f(x - STEPS)
    forward = [relative_error(slope) for slope in (above - here) / STEPS]
    central = [relative_error(slope) for slope in (above - below) / (2 * STEPS)]
    _, residuals = f.fwd(x)
    (derivative,) = f.bwd(residuals, jnp.ones_like(x))
backward = relative_error(derivative)
print(f"relative error of the backward pass: {backward:.1e}")

# %%
# Rounding makes an error of about ε/h and truncation one of about h or h², so the best steps are
# about √ε and ∛ε.

figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
axes.plot(STEPS, forward, "o-", markersize=3, label="forward difference")
axes.plot(STEPS, central, "s--", markersize=3, label="central difference")
axes.axhline(backward, color="black", linestyle=":", label="backward pass")
axes.annotate("rounding", (1e-13, 1e-6), color="#555555")
axes.annotate("truncation", (3e-4, 5e-2), color="#555555")
axes.set(xscale="log", yscale="log", xlabel="step h", ylabel="relative error")
axes.grid(color="#dddddd")
axes.legend(loc=(0.02, 0.1))
axes.set_title(
    f"Relative error: {min(central):.0e} in the best central difference, "
    f"{backward:.0e} in the backward pass"
)
plt.show()
