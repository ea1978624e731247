"""The gated recurrent unit over a whole sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, contract
from jaxnn.ops.recurrent.sweep import (
    Hidden,
    Lengths,
    Params,
    RecurrenceResiduals,
    Sequences,
    gradients_of_examples,
    hidden_before,
    initial,
    input_gradient,
    input_params_gradient,
    plus_bias,
    require_recurrence,
    sweep,
    sweep_back,
    textbook_loop,
    times,
    times_transposed,
    without_padding,
)


@op
def gru(
    params: Params, x: Sequences, state: Hidden | None = None, lengths: Lengths | None = None
) -> tuple[Float[Array, "T N H"], Hidden]:
    """Gated recurrent unit over a whole sequence.

        xₜ·W + b = (r', z', n'),    hₜ₋₁·U = (r", z", n"), in this order
        r = σ(r' + r"),  z = σ(z' + z"),  m = n" + b_u,  n = tanh(n' + r ⊙ m)
        hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁
    This is the variant of cuDNN, PyTorch, Keras and Flax: r is applied after the product with U.
    The output is yₜ = hₜ of every step, and the final state. `gru_cell` is one step.

    In the padding, past the end of a sequence, the state is carried unchanged and y is 0, so the
    final state is the state at the sequence's own end. The gradient of the padding is 0, and x may
    hold anything there, even NaN.

    Shapes:
        T steps, N sequences, I inputs, H hidden units
        params: {"w": (I, 3H), "u": (H, 3H), "b": (3H,), "b_u": (H,)}; "b" and "b_u" are optional
        x, dx:  (T, N, I)
        state:  h₀ (N, H); optional, zeros by default
        lengths: integers (N,), 0 … T; optional, T by default
        y, dy:  (T, N, H), and the final state h (N, H)

    Backward, from the last step to the first, with dh the sum of dyₜ and of the gradient that step
    t + 1 sends back. From ⟨dh, ḣₜ⟩ with ḣₜ = (1 − z) ⊙ ṅ + (hₜ₋₁ − n) ⊙ ż + z ⊙ ḣₜ₋₁ and
    ṅ = (1 − n²) ⊙ (ṅ' + r ⊙ ṁ + m ⊙ ṙ), where σ' = σ(1 − σ):
        dn' = dh ⊙ (1 − z) ⊙ (1 − n²)      dm = dn' ⊙ r
        dz' = dh ⊙ (hₜ₋₁ − n) ⊙ z(1 − z)   dr' = dn' ⊙ m ⊙ r(1 − r)
        to step t − 1:  dh = dh ⊙ z + (dr', dz', dm)·Uᵀ
    Only this is sequential. After the loop, over all steps at once:
        dW = Σₜ xₜᵀ·(dr', dz', dn')     db = Σₜₙ (dr', dz', dn')     dxₜ = (dr', dz', dn')·Wᵀ
        dU = Σₜ hₜ₋₁ᵀ·(dr', dz', dm)    db_u = Σₜₙ dm

    Saves the arguments, y, and r, z, n and m of each step: 5·T·N·H numbers with y. The loop reads
    each of them, and hₜ₋₁ from y.

    Implementation notes:
        x·W of all steps is one product before the loop. The sums over steps and sequences contract
        both axes without merging them, which would gather a sharded batch on every device. hₜ₋₁ is
        y shifted by one step. The stack that holds it is made after the loop; see `room_after`.

    Args:
        params: W, U, b and b_u.
        x: the sequences, steps first.
        state: the initial state.
        lengths: the number of steps in each sequence.

    Raises:
        TypeError: an array is not floating point; lengths are not integers.
        ValueError: the shapes do not fit; a length is out of range. Under `jit`, where lengths are
            unknown, a length beyond T counts as T.

    Reference: K. Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder", 2014; the
    variant is that of its first preprint version.

    Example:
        >>> params = {"w": jnp.ones((3, 6)), "u": jnp.ones((2, 6))}
        >>> params |= {"b": jnp.zeros(6), "b_u": jnp.zeros(2)}
        >>> y, h = jaxnn.gru(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape
        ((5, 4, 2), (4, 2))
    """
    b, b_u = (params[name][None, :] if name in params else 0 for name in ("b", "b_u"))

    def cell(x, state):
        (h,) = state
        r, z, n = jnp.split(x @ params["w"] + b, 3, axis=-1)
        r_h, z_h, n_h = jnp.split(h @ params["u"], 3, axis=-1)
        r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
        n = jnp.tanh(n + r * (n_h + b_u))
        return ((1 - z) * n + z * h,)

    if state is None:
        state = jnp.zeros_like(x, shape=(x.shape[1], params["u"].shape[0]))
    y, (h,) = textbook_loop(cell, x, (state,), lengths)
    return y, h


@gru.validate
def _(params, x, state, lengths):
    states = {} if state is None else {"state": state}
    require_recurrence(params, x, states, lengths, gates=3, extra=("b_u",))


@gru.forward
def gru_fwd(params, x, state=None, lengths=None):
    """One product x·W for all steps, then the loop, which saves r, z, n and m."""
    x = without_padding(x, lengths)
    y, (h,), saved = sweep(gru_step, params, x, (initial(params, x, state),), lengths)
    return (y, h), RecurrenceResiduals(params, x, state, lengths, y, saved)


@gru.backward
def gru_bwd(residuals, dy):
    """The backward loop gives (dr', dz', dn') and dm; the products of all steps follow it."""
    deltas, *gradients = gru_bwd_input(residuals, dy)
    return gru_bwd_params(residuals, deltas), *gradients


@gru.backward_input
def gru_bwd_input(residuals, dy):
    """(dr', dz', dn') and dm of each step, dxₜ = (dr', dz', dn')·Wᵀ, and dh₀."""
    params, x, state, _, _, saved = residuals
    dy, dfinal = dy
    start = initial(params, x, state)
    (dstart,), (da, dm) = sweep_back(gru_step_bwd, residuals, saved, dy, (dfinal,), (3, 1), start)
    dx = input_gradient(residuals, da)
    return (da, dm), dx, None if state is None else dstart, None


@gru.backward_params
def gru_bwd_params(residuals, deltas):
    """dW = Σₜ xₜᵀ·(dr', dz', dn'), dU = Σₜ hₜ₋₁ᵀ·(dr', dz', dm), and the biases."""
    params, x, state, _, y, _ = residuals
    da, dm = deltas
    before = hidden_before(y, initial(params, x, state), dm)
    through_u = da[:, :, : 2 * y.shape[-1]], dm
    du = jnp.concatenate([contract(before, d, (0, 1), (0, 1)) for d in through_u], axis=-1)
    dparams = input_params_gradient(residuals, da) | {"u": du}
    if "b_u" in params:
        dparams["b_u"] = jnp.sum(at_least_float32(dm), axis=(0, 1))
    return dparams


@gru.backward_examples
def gru_bwd_examples(residuals, deltas, *, examples_axis):
    """The sums above, but over the steps of one sequence at a time."""
    params, x, state, _, y, _ = residuals
    da, dm = deltas
    through_u = jnp.concatenate([da[:, :, : 2 * y.shape[-1]], dm], axis=-1)
    start = initial(params, x, state)
    return gradients_of_examples(residuals, examples_axis, start, da, through_u, b_u=dm)


def gru_step(params, projected, state):
    """The state after a step, and r, z, n and m."""
    (h,) = state
    r, z, n = jnp.split(plus_bias(projected, params), 3, axis=-1)
    r_h, z_h, m = jnp.split(times(h, params["u"]), 3, axis=-1)
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    m = plus_bias(m, params, "b_u")
    n = jnp.tanh(n + r * m)
    return ((1 - z) * n + z * h,), (r, z, n, m)


def gru_step_bwd(params, saved, dstate):
    """The gradient of the state before the step, (dr', dz', dn') and dm."""
    r, z, n, m, h = saved
    (dh,) = dstate
    dn = dh * (1 - z) * (1 - n) * (1 + n)
    dm = dn * r
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * m * r * (1 - r)
    dh_through_u = times_transposed(jnp.concatenate([dr, dz, dm], axis=-1), params["u"])
    return (dh * z + dh_through_u,), (jnp.concatenate([dr, dz, dn], axis=-1), dm)
