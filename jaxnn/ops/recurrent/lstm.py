"""The long short-term memory over a whole sequence."""

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
    plus_bias,
    require_recurrence,
    sweep,
    sweep_back,
    textbook_loop,
    times,
    times_transposed,
    without_padding,
)

State = tuple[Hidden, Hidden]


@op
def lstm(
    params: Params, x: Sequences, state: State | None = None, lengths: Lengths | None = None
) -> tuple[Float[Array, "T N H"], State]:
    """Long short-term memory over a whole sequence.

        aₜ = xₜ·W + hₜ₋₁·U + b = (i', f', g', o'), in this order
        i, f, g, o = σ(i'), σ(f'), tanh(g'), σ(o')
        cₜ = f ⊙ cₜ₋₁ + i ⊙ g,    hₜ = o ⊙ tanh(cₜ)
    The output is yₜ = hₜ of every step, and the final state (h, c). `lstm_cell` is one step.

    In the padding, past the end of a sequence, the state is carried unchanged and y is 0, so the
    final state is the state at the sequence's own end. The gradient of the padding is 0, and x may
    hold anything there, even NaN.

    Shapes:
        T steps, N sequences, I inputs, H hidden units
        params: {"w": (I, 4H), "u": (H, 4H), "b": (4H,)}; "b" is optional
        x, dx:  (T, N, I)
        state:  (h₀, c₀), both (N, H); optional, zeros by default
        lengths: integers (N,), 0 … T; optional, T by default
        y, dy:  (T, N, H), and the final state (h, c), both (N, H)

    Backward, from the last step to the first, with dh the sum of dyₜ and of the gradient that step
    t + 1 sends back, and dc the gradient of cₜ that it sends back. From ⟨dh, ḣₜ⟩ + ⟨dc, ċₜ⟩ with
    ḣₜ = ȯ ⊙ tanh(cₜ) + o ⊙ (1 − tanh²(cₜ)) ⊙ ċₜ and ċₜ = f ⊙ ċₜ₋₁ + cₜ₋₁ ⊙ ḟ + g ⊙ i̇ + i ⊙ ġ,
    where σ' = σ(1 − σ):
        dc ← dc + dh ⊙ o ⊙ (1 − tanh²(cₜ))
        di' = dc ⊙ g ⊙ i(1 − i)      df' = dc ⊙ cₜ₋₁ ⊙ f(1 − f)
        dg' = dc ⊙ i ⊙ (1 − g²)      do' = dh ⊙ tanh(cₜ) ⊙ o(1 − o)
        to step t − 1:  dh = daₜ·Uᵀ,  dc = dc ⊙ f
    Only this is sequential. After the loop, over all steps at once:
        dW = Σₜ xₜᵀ·daₜ     dU = Σₜ hₜ₋₁ᵀ·daₜ     db = Σₜₙ daₜ     dxₜ = daₜ·Wᵀ
    For sequence n alone, W and U are linear layers whose places are its steps: dWₙ = Σₜ xₙₜ ⊗ daₙₜ
    and dUₙ = Σₜ hₙₜ₋₁ ⊗ daₙₜ, with the norms of `linear`.

    Saves the arguments, y, the four activated gates and cₜ₋₁ of each step: 6·T·N·H numbers with y.
    cₜ and its tanh are recomputed from them.

    Implementation notes:
        x·W of all steps is one product before the loop. The sums over steps and sequences contract
        both axes without merging them, which would gather a sharded batch on every device. dU and
        dW are one product, Σₜ (hₜ₋₁, xₜ)ᵀ·daₜ, so that daₜ is read once; hₜ₋₁ is y shifted by one
        step. The stack that holds both is made after the loop; see `room_after`.

    Args:
        params: W, U and b.
        x: the sequences, steps first.
        state: the initial state.
        lengths: the number of steps in each sequence.

    Raises:
        TypeError: an array is not floating point; lengths are not integers.
        ValueError: the shapes do not fit; a length is out of range. Under `jit`, where lengths are
            unknown, a length beyond T counts as T.

    Reference: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, with the forget
    gate of F. Gers et al., "Learning to Forget", 2000.

    Example:
        >>> params = {"w": jnp.ones((3, 8)), "u": jnp.ones((2, 8)), "b": jnp.zeros(8)}
        >>> y, (h, c) = jaxnn.lstm(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape, c.shape
        ((5, 4, 2), (4, 2), (4, 2))
    """
    b = params["b"][None, :] if "b" in params else 0

    def cell(x, state):
        h, c = state
        gates = x @ params["w"] + h @ params["u"] + b
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    if state is None:
        state = (jnp.zeros_like(x, shape=(x.shape[1], params["u"].shape[0])),) * 2
    return textbook_loop(cell, x, state, lengths)


@lstm.validate
def _(params, x, state, lengths):
    if state is not None and (not isinstance(state, tuple) or len(state) != 2):
        raise TypeError(f"state must be a tuple (h, c), got {jax.tree.structure(state)}")
    named = {} if state is None else dict(zip(("state[0]", "state[1]"), state, strict=True))
    require_recurrence(params, x, named, lengths, gates=4)


@lstm.forward
def lstm_fwd(params, x, state=None, lengths=None):
    """One product x·W for all steps, then the loop, which saves the gates and cₜ₋₁."""
    x = without_padding(x, lengths)
    y, final, saved = sweep(lstm_step, params, x, _start(params, x, state), lengths)
    return (y, final), RecurrenceResiduals(params, x, state, lengths, y, saved)


@lstm.backward
def lstm_bwd(residuals, dy):
    """The backward loop gives daₜ; the products of all steps follow it."""
    da, *gradients = lstm_bwd_input(residuals, dy)
    return lstm_bwd_params(residuals, da), *gradients


@lstm.backward_input
def lstm_bwd_input(residuals, dy):
    """daₜ = (di', df', dg', do'), dxₜ = daₜ·Wᵀ, and (dh₀, dc₀)."""
    dy, dfinal = dy
    dstart, (da,) = sweep_back(lstm_step_bwd, residuals, residuals.saved, dy, dfinal, (4,))
    dx = input_gradient(residuals, da)
    return da, dx, None if residuals.state is None else dstart, None


@lstm.backward_params
def lstm_bwd_params(residuals, da):
    """(dU, dW) = Σₜ (hₜ₋₁, xₜ)ᵀ·daₜ in one product, db = Σₜₙ daₜ."""
    params, x, state, _, y, _ = residuals
    h, _ = _start(params, x, state)
    both = hidden_before(y, h, da, beside=x)
    du, dw = jnp.split(contract(both, da, (0, 1), (0, 1)), [y.shape[-1]])
    dparams = {"w": dw, "u": du}
    if "b" in params:
        dparams["b"] = jnp.sum(at_least_float32(da), axis=(0, 1))
    return dparams


@lstm.backward_examples
def lstm_bwd_examples(residuals, da, *, examples_axis):
    """dWₙ = Σₜ xₙₜ ⊗ daₙₜ, dUₙ = Σₜ hₙₜ₋₁ ⊗ daₙₜ, dbₙ = Σₜ daₙₜ."""
    h, _ = _start(residuals.params, residuals.x, residuals.state)
    return gradients_of_examples(residuals, examples_axis, h, da, da)


def lstm_step(params, projected, state):
    """The state after a step, and the four gates and c before it."""
    h, c = state
    gates = plus_bias(projected + times(h, params["u"]), params)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    after = f * c + i * g
    return (o * jnp.tanh(after), after), (i, f, g, o, c)


def lstm_step_bwd(params, saved, dstate):
    """The gradient of the state before the step, and (di', df', dg', do')."""
    i, f, g, o, c = saved
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
