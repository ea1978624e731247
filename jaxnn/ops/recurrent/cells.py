"""One step of each recurrent op, for a custom loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnn.example_gradients import Outer, places, sum_over_places
from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, contract
from jaxnn.ops.linear import linear_fwd
from jaxnn.ops.recurrent.gru import gru_step, gru_step_bwd
from jaxnn.ops.recurrent.lstm import lstm_step, lstm_step_bwd
from jaxnn.ops.recurrent.rnn import require_activation, rnn_step, rnn_step_bwd
from jaxnn.ops.recurrent.sweep import (
    Params,
    input_gradient,
    input_params_gradient,
    require_step,
    rounded,
    with_wide_biases,
)

Inputs = Float[Array, "*N I"]
Hidden = Float[Array, "*N H"]
State = tuple[Hidden, ...]


class CellResiduals(NamedTuple):
    """The arguments, and the values of the step that its backward reads."""

    params: Params
    x: Inputs
    state: Any
    saved: tuple


@op
def rnn_cell(params: Params, x: Inputs, state: Hidden, *, activation: str = "tanh") -> Hidden:
    """One step of a simple recurrent network, h = φ(x·W + h₀·U + b).

    `rnn` is this step over whole sequences, with the same params.

    Shapes:
        N sequences, any number of axes or none; I inputs; H hidden units
        params: {"w": (I, H), "u": (H, H), "b": (H,)}; "b" is optional
        x, dx:  (N, I)
        state, and its gradient: h₀ (N, H)
        h, dh:  (N, H)

    Backward, from ⟨dh, ḣ⟩ = ⟨dh ⊙ φ'(a), ȧ⟩ with ȧ = x·Ẇ + ẋ·W + h₀·U̇ + ḣ₀·U + ḃ:
        da = dh ⊙ (1 − h²)            φ = tanh
        da = dh where h > 0, else 0   φ = relu
        dW = xᵀ·da     dU = h₀ᵀ·da     db = Σₙ da     dx = da·Wᵀ     dh₀ = da·Uᵀ

    Saves the arguments and h: φ' is a function of it.

    Args:
        params: W, U and b.
        x: the inputs of the step.
        state: the state before it.
        activation: φ, "tanh" or "relu".

    Raises:
        TypeError: an array is not floating point.
        ValueError: the shapes do not fit, or the activation is unknown.

    Reference: J. Elman, "Finding Structure in Time", 1990.

    Example:
        >>> params = {"w": jnp.eye(2), "u": jnp.eye(2), "b": jnp.zeros(2)}
        >>> print(jaxnn.rnn_cell(params, jnp.array([1.0, -3.0]), jnp.ones(2), activation="relu"))
        [2. 0.]
    """
    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    a = x @ params["w"] + state @ params["u"]
    return phi(a + jnp.broadcast_to(params["b"], a.shape) if "b" in params else a)


@rnn_cell.validate
def _(params, x, state, *, activation):
    require_step(params, x, {"state": state}, gates=1)
    require_activation(activation)


@rnn_cell.forward
def rnn_cell_fwd(params, x, state, *, activation="tanh"):
    """h = φ(x·W + h₀·U + b)."""
    wide, projected, start = _prepared(params, x, (state,))
    (h,), _ = rnn_step(wide, projected, start, activation)
    return h, CellResiduals(params, x, state, (h,))


@rnn_cell.backward
def rnn_cell_bwd(residuals, dy, *, activation="tanh"):
    """da = dh ⊙ φ', and the five products."""
    da, *gradients = rnn_cell_bwd_input(residuals, dy, activation=activation)
    return rnn_cell_bwd_params(residuals, da, activation=activation), *gradients


@rnn_cell.backward_input
def rnn_cell_bwd_input(residuals, dy, *, activation="tanh"):
    """da = dh ⊙ φ', dx = da·Wᵀ, dh₀ = da·Uᵀ."""
    saved, dstate = _widened(residuals.saved), _widened((dy,))
    (dstart,), (da,) = rnn_step_bwd(residuals.params, saved, dstate, activation)
    da = rounded(da, residuals.x.dtype)
    return da, input_gradient(residuals, da), dstart


@rnn_cell.backward_params
def rnn_cell_bwd_params(residuals, da, *, activation="tanh"):
    """dW = xᵀ·da, dU = h₀ᵀ·da, db = Σₙ da."""
    du = _over_batch(residuals.state, da)
    return input_params_gradient(residuals, da) | {"u": du}


@rnn_cell.backward_examples
def rnn_cell_bwd_examples(residuals, da, *, examples_axis, activation="tanh"):
    """dWₙ = xₙ ⊗ daₙ, dUₙ = hₙ ⊗ daₙ, dbₙ = daₙ."""
    return _of_examples(residuals, examples_axis, residuals.state, da, da)


@op
def gru_cell(params: Params, x: Inputs, state: Hidden) -> Hidden:
    """One step of a gated recurrent unit.

        x·W + b = (r', z', n'),    h₀·U = (r", z", n"), in this order
        r = σ(r' + r"),  z = σ(z' + z"),  m = n" + b_u,  n = tanh(n' + r ⊙ m)
        h = (1 − z) ⊙ n + z ⊙ h₀
    `gru` is this step over whole sequences, with the same params.

    Shapes:
        N sequences, any number of axes or none; I inputs; H hidden units
        params: {"w": (I, 3H), "u": (H, 3H), "b": (3H,), "b_u": (H,)}; "b" and "b_u" are optional
        x, dx:  (N, I)
        state, and its gradient: h₀ (N, H)
        h, dh:  (N, H)

    Backward, as derived in `gru`:
        dn' = dh ⊙ (1 − z) ⊙ (1 − n²)     dm = dn' ⊙ r
        dz' = dh ⊙ (h₀ − n) ⊙ z(1 − z)    dr' = dn' ⊙ m ⊙ r(1 − r)
        dh₀ = dh ⊙ z + (dr', dz', dm)·Uᵀ
        dW = xᵀ·(dr', dz', dn')     db = Σₙ (dr', dz', dn')     dx = (dr', dz', dn')·Wᵀ
        dU = h₀ᵀ·(dr', dz', dm)     db_u = Σₙ dm

    Saves the arguments, and r, z, n and m.

    Args:
        params: W, U, b and b_u.
        x: the inputs of the step.
        state: the state before it.

    Raises:
        TypeError: an array is not floating point.
        ValueError: the shapes do not fit.

    Reference: K. Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder", 2014; the
    variant is that of its first preprint version.

    Example:
        >>> params = {"w": jnp.zeros((3, 6)), "u": jnp.zeros((2, 6))}
        >>> print(jaxnn.gru_cell(params, jnp.ones(3), jnp.array([2.0, -4.0])))
        [ 1. -2.]
    """
    h = state
    of_x, of_h = x @ params["w"], h @ params["u"]
    if "b" in params:
        of_x = of_x + jnp.broadcast_to(params["b"], of_x.shape)
    r, z, n = jnp.split(of_x, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(of_h, 3, axis=-1)
    if "b_u" in params:
        n_h = n_h + jnp.broadcast_to(params["b_u"], n_h.shape)
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    return (1 - z) * jnp.tanh(n + r * n_h) + z * h


@gru_cell.validate
def _(params, x, state):
    require_step(params, x, {"state": state}, gates=3, extra=("b_u",))


@gru_cell.forward
def gru_cell_fwd(params, x, state):
    """h = (1 − z) ⊙ n + z ⊙ h₀."""
    (h,), saved = gru_step(*_prepared(params, x, (state,)))
    return h, CellResiduals(params, x, state, rounded(saved, x.dtype))


@gru_cell.backward
def gru_cell_bwd(residuals, dy):
    """(dr', dz', dn') and dm, and the products."""
    deltas, *gradients = gru_cell_bwd_input(residuals, dy)
    return gru_cell_bwd_params(residuals, deltas), *gradients


@gru_cell.backward_input
def gru_cell_bwd_input(residuals, dy):
    """(dr', dz', dn') and dm, dx = (dr', dz', dn')·Wᵀ, and dh₀."""
    saved = _widened((*residuals.saved, residuals.state))
    (dstart,), deltas = gru_step_bwd(residuals.params, saved, _widened((dy,)))
    deltas = rounded(deltas, residuals.x.dtype)
    return deltas, input_gradient(residuals, deltas[0]), dstart


@gru_cell.backward_params
def gru_cell_bwd_params(residuals, deltas):
    """dW = xᵀ·(dr', dz', dn'), dU = h₀ᵀ·(dr', dz', dm), and the biases."""
    da, dm = deltas
    h = residuals.state
    through_u = jnp.concatenate([da[..., : 2 * h.shape[-1]], dm], axis=-1)
    du = _over_batch(h, through_u)
    dparams = input_params_gradient(residuals, da) | {"u": du}
    if "b_u" in residuals.params:
        dparams["b_u"] = jnp.sum(at_least_float32(dm), axis=range(dm.ndim - 1))
    return dparams


@gru_cell.backward_examples
def gru_cell_bwd_examples(residuals, deltas, *, examples_axis):
    """dWₙ = xₙ ⊗ (dr', dz', dn'), dUₙ = hₙ ⊗ (dr', dz', dm), and the biases."""
    da, dm = deltas
    h = residuals.state
    through_u = jnp.concatenate([da[..., : 2 * h.shape[-1]], dm], axis=-1)
    return _of_examples(residuals, examples_axis, h, da, through_u, b_u=dm)


@op
def lstm_cell(params: Params, x: Inputs, state: State) -> State:
    """One step of a long short-term memory.

        a = x·W + h₀·U + b = (i', f', g', o'), in this order
        i, f, g, o = σ(i'), σ(f'), tanh(g'), σ(o')
        c = f ⊙ c₀ + i ⊙ g,    h = o ⊙ tanh(c)
    `lstm` is this step over whole sequences, with the same params.

    Shapes:
        N sequences, any number of axes or none; I inputs; H hidden units
        params: {"w": (I, 4H), "u": (H, 4H), "b": (4H,)}; "b" is optional
        x, dx:  (N, I)
        state, and its gradient: (h₀, c₀), both (N, H)
        y, dy:  (h, c), both (N, H)

    Backward, as derived in `lstm`:
        dc ← dc + dh ⊙ o ⊙ (1 − tanh²(c))
        di' = dc ⊙ g ⊙ i(1 − i)      df' = dc ⊙ c₀ ⊙ f(1 − f)
        dg' = dc ⊙ i ⊙ (1 − g²)      do' = dh ⊙ tanh(c) ⊙ o(1 − o)
        dh₀ = da·Uᵀ     dc₀ = dc ⊙ f
        dW = xᵀ·da      dU = h₀ᵀ·da     db = Σₙ da     dx = da·Wᵀ

    Saves the arguments and the four gates; c and its tanh are recomputed from them.

    Args:
        params: W, U and b.
        x: the inputs of the step.
        state: the state before it.

    Raises:
        TypeError: an array is not floating point, or state is not a pair.
        ValueError: the shapes do not fit.

    Reference: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, with the forget
    gate of F. Gers et al., "Learning to Forget", 2000.

    Example:
        >>> params = {"w": jnp.zeros((3, 8)), "u": jnp.zeros((2, 8))}
        >>> h, c = jaxnn.lstm_cell(params, jnp.ones(3), (jnp.ones(2), jnp.array([2.0, -4.0])))
        >>> print(c)
        [ 1. -2.]
    """
    h, c = state
    gates = x @ params["w"] + h @ params["u"]
    if "b" in params:
        gates = gates + jnp.broadcast_to(params["b"], gates.shape)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@lstm_cell.validate
def _(params, x, state):
    if not isinstance(state, tuple) or len(state) != 2:
        raise TypeError(f"state must be a tuple (h, c), got {jax.tree.structure(state)}")
    named = dict(zip(("state[0]", "state[1]"), state, strict=True))
    require_step(params, x, named, gates=4)


@lstm_cell.forward
def lstm_cell_fwd(params, x, state):
    """h = o ⊙ tanh(c), c = f ⊙ c₀ + i ⊙ g."""
    after, (*gates, _) = lstm_step(*_prepared(params, x, state))
    return after, CellResiduals(params, x, state, rounded(tuple(gates), x.dtype))


@lstm_cell.backward
def lstm_cell_bwd(residuals, dy):
    """da, and the products."""
    da, *gradients = lstm_cell_bwd_input(residuals, dy)
    return lstm_cell_bwd_params(residuals, da), *gradients


@lstm_cell.backward_input
def lstm_cell_bwd_input(residuals, dy):
    """da = (di', df', dg', do'), dx = da·Wᵀ, and (dh₀, dc₀)."""
    saved = _widened((*residuals.saved, residuals.state[1]))
    dstart, (da,) = lstm_step_bwd(residuals.params, saved, _widened(dy))
    da = rounded(da, residuals.x.dtype)
    return da, input_gradient(residuals, da), dstart


@lstm_cell.backward_params
def lstm_cell_bwd_params(residuals, da):
    """dW = xᵀ·da, dU = h₀ᵀ·da, db = Σₙ da."""
    du = _over_batch(residuals.state[0], da)
    return input_params_gradient(residuals, da) | {"u": du}


@lstm_cell.backward_examples
def lstm_cell_bwd_examples(residuals, da, *, examples_axis):
    """dWₙ = xₙ ⊗ daₙ, dUₙ = hₙ ⊗ daₙ, dbₙ = daₙ."""
    return _of_examples(residuals, examples_axis, residuals.state[0], da, da)


def _of_examples(residuals, examples_axis, h, da, through_u, **biases):
    """The gradients of each example from the step's deltas."""
    x, h, of_w, of_u = (places(a, examples_axis) for a in (residuals.x, h, da, through_u))
    gradients: dict[str, Any] = {"w": Outer(x, of_w), "u": Outer(h, of_u)}
    for name, deltas in {"b": da, **biases}.items():
        if name in residuals.params:
            gradients[name] = sum_over_places(places(deltas, examples_axis), [1])
    return gradients


def _prepared(params, x, state):
    """The params with wide biases, x·W, and the state in at least float32."""
    projected, _ = linear_fwd({"w": params["w"]}, x)
    return with_wide_biases(params), projected, _widened(state)


def _widened(arrays):
    return tuple(map(at_least_float32, arrays))


def _over_batch(h, delta):
    """hᵀ·d, summed over the batch axes without merging them."""
    batch = range(h.ndim - 1)
    return contract(h, delta, batch, batch)
