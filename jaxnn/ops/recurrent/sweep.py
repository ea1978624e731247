"""What the recurrent ops share: the sweep over the steps, forward and back, and their checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.ops._common.compiler import room_after
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import require_floating, require_keys, require_lengths
from jaxnn.ops.linear import LinearResiduals, linear_bwd, linear_fwd

Params = dict[str, Float[Array, "..."]]
Sequences = Float[Array, "T N I"]
Hidden = Float[Array, "N H"]
Stack = Float[Array, "T N H"]
Lengths = Integer[Array, " N"]


class RecurrenceResiduals(NamedTuple):
    """The arguments, y, and what the op's cell keeps of each step."""

    params: Params
    x: Sequences
    state: Any
    lengths: Lengths | None
    y: Stack
    kept: tuple[Stack, ...]


def define(cell: Callable, params, x, start: tuple, lengths):
    """The textbook loop: `cell(params, x_t, state) -> state`, one step after the other.

    Returns:
        y, and the tuple of the final state.
    """
    x = without_padding(x, lengths)

    def step(before, inputs):
        x, valid = inputs
        after = cell(params, x, before)
        return _kept_beyond(valid, after, before), _zero_beyond(valid, after[0])

    final, y = lax.scan(step, start, (x, valid_steps(x, lengths)))
    return y, final


def sweep(cell: Callable, params, x, start: tuple, lengths):
    """The same loop with the product x·W of all steps before it.

    Args:
        cell: `(params, x_t·W, state) -> (state, kept)`, in at least float32.
        params: with the matrix "w".
        x: (T, N, I), without padding.
        start: the tuple of the initial state.
        lengths: (N,) or `None`.

    Returns:
        y, the tuple of the final state, and what the cell keeps, stacked.
    """
    projected, _ = linear_fwd({"w": params["w"]}, x)

    def step(before, inputs):
        projected, valid = inputs
        after, kept = cell(params, at_least_float32(projected), before)
        y = _zero_beyond(valid, after[0])
        return _kept_beyond(valid, after, before), _cast((y, kept), x.dtype)

    start = tuple(map(at_least_float32, start))
    final, (y, kept) = lax.scan(step, start, (projected, valid_steps(x, lengths)))
    return y, _cast(final, x.dtype), kept


def sweep_back(cell_back: Callable, residuals, kept, dy, dfinal: tuple, widths: tuple[int, ...]):
    """The deltas of all steps, from the last to the first.

    The deltas are written into stacks made of y, and not into zeros: XLA makes zeros when the
    program starts, and they would take memory through the whole forward pass.

    Args:
        cell_back: `(params, kept, dstate) -> (dstate of the step before, deltas)`.
        residuals: of the op.
        kept: what `cell_back` needs of each step, stacked.
        dy: (T, N, H).
        dfinal: the tuple of the gradient of the final state.
        widths: of each delta, in multiples of H.

    Returns:
        The tuple of the gradient of the initial state, and the stacks of the deltas.
    """
    params, x, _, lengths, y, _ = residuals
    t, n, h = y.shape

    def step(carry, inputs):
        dafter, stacks = carry
        index, dy, kept, valid = inputs
        dy = _zero_beyond(valid, at_least_float32(dy))
        kept = tuple(map(at_least_float32, kept))
        dbefore, deltas = cell_back(params, kept, (dafter[0] + dy, *dafter[1:]))
        stacks = tuple(
            lax.dynamic_update_index_in_dim(s, _zero_beyond(valid, d).astype(s.dtype), index, 0)
            for s, d in zip(stacks, deltas, strict=True)
        )
        return (_kept_beyond(valid, dbefore, dafter), stacks), None

    stacks = tuple(
        jnp.broadcast_to(y[:, :, None], (t, n, w, h)).reshape(t, n, w * h) for w in widths
    )
    if t == 0:
        return dfinal, stacks
    start = tuple(map(at_least_float32, dfinal)), stacks
    inputs = jnp.arange(t, dtype=jnp.int32), dy, kept, valid_steps(x, lengths)
    (dstart, deltas), _ = lax.scan(step, start, inputs, reverse=True)
    return _cast(dstart, x.dtype), deltas


def input_gradients(residuals, delta):
    """dW = Σₜ xₜᵀ·dₜ, db = Σₜₙ dₜ and dxₜ = dₜ·Wᵀ, of all steps at once."""
    params = {"w": residuals.params["w"], "b": residuals.params["b"]}
    return linear_bwd(LinearResiduals(params, residuals.x), delta)


def state_gradient(before, delta):
    """dU = Σₜ hₜ₋₁ᵀ·dₜ, of all steps at once."""
    rows = before.shape[0] * before.shape[1]
    h, d = (stack.reshape(rows, stack.shape[-1]) for stack in (before, delta))
    du = lax.dot_general(h, d, (((0,), (0,)), ((), ())), preferred_element_type=_wide(h))
    return du.astype(h.dtype)


def hidden_before(y, start, dstart):
    """The state that each step starts from: y, one step later."""
    room = room_after(dstart, y.shape)
    return room.at[:1].set(start[None]).at[1:].set(y[:-1])


def times(h, u):
    """h·U in at least float32."""
    return lax.dot_general(
        h.astype(u.dtype), u, (((1,), (0,)), ((), ())), preferred_element_type=_wide(u)
    )


def times_transposed(delta, u):
    """d·Uᵀ in at least float32."""
    return lax.dot_general(
        delta.astype(u.dtype), u, (((1,), (1,)), ((), ())), preferred_element_type=_wide(u)
    )


def initial(params, x, state) -> Hidden:
    """The hidden state that the sequences start from: zeros if none is given."""
    return jnp.zeros((x.shape[1], params["u"].shape[0]), x.dtype) if state is None else state


def valid_steps(x, lengths) -> Bool[Array, "T N 1"] | None:
    """Where a step is within its sequence; `None` where every step is."""
    if lengths is None:
        return None
    steps = jnp.arange(x.shape[0], dtype=jnp.int32)
    return (steps[:, None] < lengths.astype(jnp.int32)[None, :])[:, :, None]


def without_padding(x, lengths):
    """`x`, 0 beyond the sequences' ends, so that it does not matter what it holds there."""
    return _zero_beyond(valid_steps(x, lengths), x)


def _zero_beyond(valid, array):
    return array if valid is None else jnp.where(valid, array, 0)


def _kept_beyond(valid, after, before):
    if valid is None:
        return after
    return tuple(jnp.where(valid, a, b) for a, b in zip(after, before, strict=True))


def _cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def _wide(array):
    return accumulator(array.dtype)


def require_recurrence(params, x, states: dict, lengths, gates: int, extra=()) -> None:
    """Params, sequences, states and lengths fit together.

    Args:
        op: the name of the op.
        params: {"w": (I, G·H), "u": (H, G·H), "b": (G·H,)} and vectors of H.
        x: (T, N, I).
        states: the initial state, by name; empty if none is given.
        lengths: (N,) or `None`.
        gates: G.
        extra: the names of the vectors of H.
    """
    require_keys(params, ["w", "u", "b", *extra])
    named = {f"params[{name!r}]": array for name, array in params.items()}
    require_floating(**named, x=x, **states)
    if x.ndim != 3:
        raise ValueError(f"x must be (steps, batch, inputs), got shape {x.shape}")
    _, n, n_in = x.shape
    u_shape = params["u"].shape
    n_hidden = u_shape[0] if u_shape else 0
    columns = gates * n_hidden
    expected = {"u": (n_hidden, columns), "w": (n_in, columns), "b": (columns,)}
    expected |= dict.fromkeys(extra, (n_hidden,))
    for name, shape in expected.items():
        if params[name].shape != shape:
            raise ValueError(
                f"params[{name!r}] has shape {params[name].shape}; with {n_in} inputs in x "
                f"and {n_hidden} hidden units in params['u'] it must be {shape}"
            )
    for name, state in states.items():
        if state.shape != (n, n_hidden):
            raise ValueError(
                f"{name} has shape {state.shape}; with {n} sequences and {n_hidden} hidden "
                f"units it must be {(n, n_hidden)}"
            )
    require_lengths("lengths", lengths, (n,), x.shape[0])
