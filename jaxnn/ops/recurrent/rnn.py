"""The simple recurrent network over a whole sequence."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.numerics import contract
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
def rnn(
    params: Params,
    x: Sequences,
    state: Hidden | None = None,
    lengths: Lengths | None = None,
    *,
    activation: str = "tanh",
) -> tuple[Float[Array, "T N H"], Hidden]:
    """Simple recurrent network, hₜ = φ(xₜ·W + hₜ₋₁·U + b), over a whole sequence.

    φ is tanh or relu. The output is yₜ = hₜ of every step, and the final state. `rnn_cell` is one
    step.

    In the padding, past the end of a sequence, the state is carried unchanged and y is 0, so the
    final state is the state at the sequence's own end. The gradient of the padding is 0, and x may
    hold anything there, even NaN.

    Shapes:
        T steps, N sequences, I inputs, H hidden units
        params: {"w": (I, H), "u": (H, H), "b": (H,)}; "b" is optional
        x, dx:  (T, N, I)
        state:  h₀ (N, H); optional, zeros by default
        lengths: integers (N,), 0 … T; optional, T by default
        y, dy:  (T, N, H), and the final state h (N, H)

    Backward, from the last step to the first, with dh the sum of dyₜ and of the gradient that step
    t + 1 sends back. With aₜ the argument of φ, ⟨dh, ḣₜ⟩ = ⟨dh ⊙ φ'(aₜ), ȧₜ⟩ and
    ȧₜ = xₜ·Ẇ + ẋₜ·W + hₜ₋₁·U̇ + ḣₜ₋₁·U + ḃ:
        daₜ = dh ⊙ (1 − hₜ²)            φ = tanh
        daₜ = dh where hₜ > 0, else 0   φ = relu
        to step t − 1:  dh = daₜ·Uᵀ
    Only this is sequential. After the loop, over all steps at once:
        dW = Σₜ xₜᵀ·daₜ     dU = Σₜ hₜ₋₁ᵀ·daₜ     db = Σₜₙ daₜ     dxₜ = daₜ·Wᵀ

    Saves the arguments and y: φ' is a function of y.

    Implementation notes:
        x·W of all steps is one product before the loop. The sums over steps and sequences contract
        both axes without merging them, which would gather a sharded batch on every device. hₜ₋₁ is
        y shifted by one step. The stack that holds it is made after the loop; see `room_after`.

    Args:
        params: W, U and b.
        x: the sequences, steps first.
        state: the initial state.
        lengths: the number of steps in each sequence.
        activation: φ, "tanh" or "relu".

    Raises:
        TypeError: an array is not floating point; lengths are not integers.
        ValueError: the shapes do not fit; the activation is unknown; a length is out of range.
            Under `jit`, where lengths are unknown, a length beyond T counts as T.

    Reference: J. Elman, "Finding Structure in Time", 1990; P. Werbos, "Backpropagation Through
    Time", 1990.

    Example:
        >>> params = {"w": jnp.ones((3, 2)), "u": jnp.ones((2, 2)), "b": jnp.zeros(2)}
        >>> y, h = jaxnn.rnn(params, jnp.ones((5, 4, 3)))
        >>> y.shape, h.shape
        ((5, 4, 2), (4, 2))
    """
    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    b = params["b"][None, :] if "b" in params else 0

    def cell(x, state):
        (h,) = state
        return (phi(x @ params["w"] + h @ params["u"] + b),)

    if state is None:
        state = jnp.zeros_like(x, shape=(x.shape[1], params["u"].shape[0]))
    y, (h,) = textbook_loop(cell, x, (state,), lengths)
    return y, h


@rnn.validate
def _(params, x, state, lengths, *, activation):
    states = {} if state is None else {"state": state}
    require_recurrence(params, x, states, lengths, gates=1)
    require_activation(activation)


@rnn.forward
def rnn_fwd(params, x, state=None, lengths=None, *, activation="tanh"):
    """One product x·W for all steps, then the loop."""
    x, step = without_padding(x, lengths), partial(rnn_step, activation=activation)
    y, (h,), _ = sweep(step, params, x, (initial(params, x, state),), lengths)
    return (y, h), RecurrenceResiduals(params, x, state, lengths, y, ())


@rnn.backward
def rnn_bwd(residuals, dy, *, activation="tanh"):
    """The backward loop gives daₜ; the products of all steps follow it."""
    da, *gradients = rnn_bwd_input(residuals, dy, activation=activation)
    return rnn_bwd_params(residuals, da, activation=activation), *gradients


@rnn.backward_input
def rnn_bwd_input(residuals, dy, *, activation="tanh"):
    """daₜ = dh ⊙ φ', dxₜ = daₜ·Wᵀ, and dh₀."""
    (dy, dfinal), step_bwd = dy, partial(rnn_step_bwd, activation=activation)
    (dstart,), (da,) = sweep_back(step_bwd, residuals, (residuals.y,), dy, (dfinal,), (1,))
    dx = input_gradient(residuals, da)
    return da, dx, None if residuals.state is None else dstart, None


@rnn.backward_params
def rnn_bwd_params(residuals, da, *, activation="tanh"):
    """dW = Σₜ xₜᵀ·daₜ, dU = Σₜ hₜ₋₁ᵀ·daₜ, db = Σₜₙ daₜ."""
    params, x, state, _, y, _ = residuals
    before = hidden_before(y, initial(params, x, state), da)
    return input_params_gradient(residuals, da) | {"u": contract(before, da, (0, 1), (0, 1))}


@rnn.backward_examples
def rnn_bwd_examples(residuals, da, *, examples_axis, activation="tanh"):
    """dWₙ = Σₜ xₙₜ ⊗ daₙₜ, dUₙ = Σₜ hₙₜ₋₁ ⊗ daₙₜ, dbₙ = Σₜ daₙₜ."""
    start = initial(residuals.params, residuals.x, residuals.state)
    return gradients_of_examples(residuals, examples_axis, start, da, da)


def rnn_step(params, projected, state, activation="tanh"):
    """The state after a step; nothing else is saved."""
    (h,) = state
    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    return (phi(plus_bias(projected + times(h, params["u"]), params)),), ()


def rnn_step_bwd(params, saved, dstate, activation="tanh"):
    """The gradient of the state before the step, and da, from the state after it."""
    (h,), (dh,) = saved, dstate
    da = dh * (1 - h) * (1 + h) if activation == "tanh" else jnp.where(h > 0, dh, 0)
    return (times_transposed(da, params["u"]),), (da,)


def require_activation(activation) -> None:
    """Raise unless the option is the name of an activation."""
    if activation not in ("tanh", "relu"):
        raise ValueError(f"option activation must be 'tanh' or 'relu', got {activation!r}")
