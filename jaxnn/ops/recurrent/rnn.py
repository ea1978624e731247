"""The simple recurrent network over a whole sequence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops.recurrent.sweep import (
    Hidden,
    Lengths,
    Params,
    RecurrenceResiduals,
    Sequences,
    define,
    hidden_before,
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
def rnn(
    params: Params, x: Sequences, state: Hidden | None = None, lengths: Lengths | None = None
) -> tuple[Float[Array, "T N H"], Hidden]:
    """Recurrent network hₜ = tanh(xₜ·W + hₜ₋₁·U + b) over a whole sequence, and its final state.

    Shapes (T steps, N sequences, I inputs, H hidden units):
        params: {"w": (I, H), "u": (H, H), "b": (H,)}
        x, dx:  (T, N, I)
        state:  h₀ (N, H); zeros if left out
        lengths: integers (N,), 0 … T; T if left out
        y, dy:  (T, N, H), yₜ = hₜ, and the final state h (N, H)

    Beyond a sequence's length its state stays as it is and y is 0, so that the final state is that
    at its own end; the gradient is 0 there, and x may hold anything.

    Backward, from the last step to the first, with dh the sum of dyₜ and of what comes back from
    step t + 1:
        daₜ = dh ⊙ (1 − hₜ²)
        to step t − 1:  dh = daₜ·Uᵀ
    Nothing else has to be in the loop. After it, of all steps at once:
        dW = Σₜ xₜᵀ·daₜ     dU = Σₜ hₜ₋₁ᵀ·daₜ     db = Σₜₙ daₜ     dxₜ = daₜ·Wᵀ

    Keeps the arguments and y: tanh' is a polynomial in it.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ; lengths are not integers.
        ValueError: the shapes do not fit; a length is out of range (under `jit`, where lengths
            are not known, one beyond T counts as T).

    Source: J. Elman, "Finding Structure in Time", 1990; P. Werbos, "Backpropagation Through Time",
    1990.

    Example:
        >>> params = {"w": jnp.ones((3, 2)), "u": jnp.ones((2, 2)), "b": jnp.zeros(2)}
        >>> y, h = jaxnn.rnn(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape
        ((5, 4, 2), (4, 2))
    """
    y, (h,) = define(_cell, params, x, (initial(params, x, state),), lengths)
    return y, h


@rnn.forward
def rnn_fwd(params, x, state=None, lengths=None):
    """One product x·W for all steps, then the loop."""
    x = without_padding(x, lengths)
    y, (h,), _ = sweep(_cell_fwd, params, x, (initial(params, x, state),), lengths)
    return (y, h), RecurrenceResiduals(params, x, state, lengths, y, ())


@rnn.backward
def rnn_bwd(residuals, dy):
    """The loop back gives daₜ; the products of all steps come after it."""
    params, x, state, _, y, _ = residuals
    dy, dfinal = dy
    (dstart,), (da,) = sweep_back(_cell_bwd, residuals, (y,), dy, (dfinal,), (1,))
    du = state_gradient(hidden_before(y, initial(params, x, state), dstart), da)
    dparams, dx = input_gradients(residuals, da)
    return dparams | {"u": du}, dx, None if state is None else dstart, None


def _cell(params, x, state):
    (h,) = state
    return (jnp.tanh(x @ params["w"] + h @ params["u"] + params["b"][None, :]),)


def _cell_fwd(params, projected, state):
    (h,) = state
    h = jnp.tanh(projected + times(h, params["u"]) + params["b"][None, :].astype(h.dtype))
    return (h,), ()


def _cell_bwd(params, kept, dstate):
    (h,), (dh,) = kept, dstate
    da = dh * (1 - h) * (1 + h)
    return (times_transposed(da, params["u"]),), (da,)


@rnn.validate
def _(params, x, state, lengths):
    states = {} if state is None else {"state": state}
    require_recurrence(params, x, states, lengths, gates=1)
