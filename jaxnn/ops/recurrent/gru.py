"""The gated recurrent unit over a whole sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import accumulator
from jaxnn.ops.recurrent.sweep import (
    Hidden,
    Lengths,
    Params,
    RecurrenceResiduals,
    Sequences,
    define,
    initial,
    input_gradients,
    require_recurrence,
    state_gradient,
    sweep,
    sweep_back,
    times,
    times_transposed,
    without_padding,
)


@op
def gru(
    params: Params, x: Sequences, state: Hidden | None = None, lengths: Lengths | None = None
) -> tuple[Float[Array, "T N H"], Hidden]:
    """Gated recurrent unit over a whole sequence, and its final state.

        xₜ·W + b = (r', z', n'),    hₜ₋₁·U = (r", z", n"), in this order
        r = σ(r' + r"),  z = σ(z' + z"),  m = n" + b_u,  n = tanh(n' + r ⊙ m)
        hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁,    yₜ = hₜ
    This is the variant of cuDNN, PyTorch, Keras and Flax: r is applied after the product with U.

    Shapes (T steps, N sequences, I inputs, H hidden units):
        params: {"w": (I, 3H), "u": (H, 3H), "b": (3H,), "b_u": (H,)}
        x, dx:  (T, N, I)
        state:  h₀ (N, H); zeros if left out
        lengths: integers (N,), 0 … T; T if left out
        y, dy:  (T, N, H), and the final state h (N, H)

    Beyond a sequence's length its state stays as it is and y is 0, so that the final state is that
    at its own end; the gradient is 0 there, and x may hold anything.

    Backward, from the last step to the first, with dh the sum of dyₜ and of what comes back from
    step t + 1:
        dn' = dh ⊙ (1 − z) ⊙ (1 − n²)      dm = dn' ⊙ r
        dz' = dh ⊙ (hₜ₋₁ − n) ⊙ z(1 − z)   dr' = dn' ⊙ m ⊙ r(1 − r)
        to step t − 1:  dh = dh ⊙ z + (dr', dz', dm)·Uᵀ
    Nothing else has to be in the loop. After it, of all steps at once:
        dW = Σₜ xₜᵀ·(dr', dz', dn')     db = Σₜₙ (dr', dz', dn')     dxₜ = (dr', dz', dn')·Wᵀ
        dU = Σₜ hₜ₋₁ᵀ·(dr', dz', dm)    db_u = Σₜₙ dm

    Keeps the arguments, y, and r, z, n, m and hₜ₋₁ of each step, 6·T·N·H numbers: the loop back
    needs each of them.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ; lengths are not integers.
        ValueError: the shapes do not fit; a length is out of range (under `jit`, where lengths
            are not known, one beyond T counts as T).

    Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder", 2014; the
    variant is that of its first preprint version.

    Example:
        >>> params = {"w": jnp.ones((3, 6)), "u": jnp.ones((2, 6))}
        >>> params |= {"b": jnp.zeros(6), "b_u": jnp.zeros(2)}
        >>> y, h = jaxnn.gru(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape
        ((5, 4, 2), (4, 2))
    """
    y, (h,) = define(_cell, params, x, (initial(params, x, state),), lengths)
    return y, h


@gru.forward
def gru_fwd(params, x, state=None, lengths=None):
    """One product x·W for all steps, then the loop, which keeps r, z, n, m and hₜ₋₁."""
    x = without_padding(x, lengths)
    y, (h,), kept = sweep(_cell_fwd, params, x, (initial(params, x, state),), lengths)
    return (y, h), RecurrenceResiduals(params, x, state, lengths, y, kept)


@gru.backward
def gru_bwd(residuals, dy):
    """The loop back gives (dr', dz', dn') and dm; the products of all steps come after it."""
    _, x, state, _, y, kept = residuals
    dy, dfinal = dy
    (dstart,), (da, dm) = sweep_back(_cell_bwd, residuals, kept, dy, (dfinal,), (3, 1))
    before, h = kept[-1], y.shape[-1]
    du = jnp.concatenate(
        [state_gradient(before, da)[:, : 2 * h], state_gradient(before, dm)], axis=-1
    )
    db_u = jnp.sum(dm, axis=(0, 1), dtype=accumulator(x.dtype)).astype(x.dtype)
    dparams, dx = input_gradients(residuals, da)
    return dparams | {"u": du, "b_u": db_u}, dx, None if state is None else dstart, None


def _cell(params, x, state):
    (h,) = state
    r, z, n = jnp.split(x @ params["w"] + params["b"][None, :], 3, axis=-1)
    r_h, z_h, m = jnp.split(h @ params["u"], 3, axis=-1)
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    n = jnp.tanh(n + r * (m + params["b_u"][None, :]))
    return ((1 - z) * n + z * h,)


def _cell_fwd(params, projected, state):
    (h,) = state
    r, z, n = jnp.split(projected + params["b"][None, :].astype(h.dtype), 3, axis=-1)
    r_h, z_h, m = jnp.split(times(h, params["u"]), 3, axis=-1)
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    m = m + params["b_u"][None, :].astype(h.dtype)
    n = jnp.tanh(n + r * m)
    return ((1 - z) * n + z * h,), (r, z, n, m, h)


def _cell_bwd(params, kept, dstate):
    r, z, n, m, h = kept
    (dh,) = dstate
    dn = dh * (1 - z) * (1 - n) * (1 + n)
    dm = dn * r
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * m * r * (1 - r)
    through_u = times_transposed(jnp.concatenate([dr, dz, dm], axis=-1), params["u"])
    return (dh * z + through_u,), (jnp.concatenate([dr, dz, dn], axis=-1), dm)


@gru.validate
def _(params, x, state, lengths):
    states = {} if state is None else {"state": state}
    require_recurrence(params, x, states, lengths, gates=3, extra=("b_u",))
