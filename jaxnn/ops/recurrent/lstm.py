"""The long short-term memory over a whole sequence."""

import jax
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

State = tuple[Hidden, Hidden]


@op
def lstm(
    params: Params, x: Sequences, state: State | None = None, lengths: Lengths | None = None
) -> tuple[Float[Array, "T N H"], State]:
    """Long short-term memory over a whole sequence, and its final state (h, c).

        aₜ = xₜ·W + hₜ₋₁·U + b = (i', f', g', o'), in this order
        i, f, g, o = σ(i'), σ(f'), tanh(g'), σ(o')
        cₜ = f ⊙ cₜ₋₁ + i ⊙ g,    hₜ = o ⊙ tanh(cₜ),    yₜ = hₜ

    Shapes (T steps, N sequences, I inputs, H hidden units):
        params: {"w": (I, 4H), "u": (H, 4H), "b": (4H,)}
        x, dx:  (T, N, I)
        state:  (h₀, c₀), both (N, H); zeros if left out
        lengths: integers (N,), 0 … T; T if left out
        y, dy:  (T, N, H), and the final state (h, c), both (N, H)

    Beyond a sequence's length its state stays as it is and y is 0, so that the final state is that
    at its own end; the gradient is 0 there, and x may hold anything.

    Backward, from the last step to the first, with dh the sum of dyₜ and of what comes back from
    step t + 1, and dc what comes back from there:
        dc ← dc + dh ⊙ o ⊙ (1 − tanh²(cₜ))
        di' = dc ⊙ g ⊙ i(1 − i)      df' = dc ⊙ cₜ₋₁ ⊙ f(1 − f)
        dg' = dc ⊙ i ⊙ (1 − g²)      do' = dh ⊙ tanh(cₜ) ⊙ o(1 − o)
        to step t − 1:  dh = daₜ·Uᵀ,  dc = dc ⊙ f
    Nothing else has to be in the loop. After it, of all steps at once:
        dW = Σₜ xₜᵀ·daₜ     dU = Σₜ hₜ₋₁ᵀ·daₜ     db = Σₜₙ daₜ     dxₜ = daₜ·Wᵀ

    Keeps the arguments, y, the four activated gates and cₜ₋₁ of each step, 6·T·N·H numbers; cₜ
    and its tanh are recomputed from them.

    Raises:
        TypeError: an array is not floating point, or the dtypes differ; lengths are not integers.
        ValueError: the shapes do not fit; a length is out of range (under `jit`, where lengths
            are not known, one beyond T counts as T).

    Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate
    of F. Gers et al., "Learning to Forget", 2000.

    Example:
        >>> params = {"w": jnp.ones((3, 8)), "u": jnp.ones((2, 8)), "b": jnp.zeros(8)}
        >>> y, (h, c) = jaxnn.lstm(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape, c.shape
        ((5, 4, 2), (4, 2), (4, 2))
    """
    return define(_cell, params, x, _start(params, x, state), lengths)


@lstm.forward
def lstm_fwd(params, x, state=None, lengths=None):
    """One product x·W for all steps, then the loop, which keeps the gates and cₜ₋₁."""
    x = without_padding(x, lengths)
    y, final, kept = sweep(_cell_fwd, params, x, _start(params, x, state), lengths)
    return (y, final), RecurrenceResiduals(params, x, state, lengths, y, kept)


@lstm.backward
def lstm_bwd(residuals, dy):
    """The loop back gives daₜ; the products of all steps come after it."""
    params, x, state, _, y, kept = residuals
    dy, dfinal = dy
    dstart, (da,) = sweep_back(_cell_bwd, residuals, kept, dy, dfinal, (4,))
    h, _ = _start(params, x, state)
    du = state_gradient(hidden_before(y, h, dstart[0]), da)
    dparams, dx = input_gradients(residuals, da)
    return dparams | {"u": du}, dx, None if state is None else dstart, None


def _cell(params, x, state):
    h, c = state
    gates = x @ params["w"] + h @ params["u"] + params["b"][None, :]
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _cell_fwd(params, projected, state):
    h, c = state
    gates = projected + times(h, params["u"]) + params["b"][None, :].astype(h.dtype)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    after = f * c + i * g
    return (o * jnp.tanh(after), after), (i, f, g, o, c)


def _cell_bwd(params, kept, dstate):
    i, f, g, o, c = kept
    dh, dc = dstate
    tanh_c = jnp.tanh(f * c + i * g)
    dc = dc + dh * o * (1 - tanh_c) * (1 + tanh_c)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g) * (1 + g)
    do = dh * tanh_c * o * (1 - o)
    da = jnp.concatenate([di, df, dg, do], axis=-1)
    return (times_transposed(da, params["u"]), dc * f), (da,)


def _start(params, x, state):
    return (initial(params, x, None),) * 2 if state is None else state


@lstm.validate
def _(params, x, state, lengths):
    if state is not None and (not isinstance(state, tuple) or len(state) != 2):
        raise TypeError(f"state must be a tuple (h, c), got {jax.tree.structure(state)}")
    named = {} if state is None else dict(zip(("state[0]", "state[1]"), state, strict=True))
    require_recurrence(params, x, named, lengths, gates=4)
