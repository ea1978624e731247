"""The loop over the steps of a sequence, forward and backward, for the recurrent ops."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.example_gradients import Outer, places, sum_over_places
from jaxnn.ops._common.compiler import room_after
from jaxnn.ops._common.numerics import at_least_float32, contract
from jaxnn.ops._common.validation import require_floating, require_keys, require_lengths
from jaxnn.ops.linear import LinearResiduals, linear_bwd_input, linear_bwd_params, linear_fwd

Params = dict[str, Float[Array, "..."]]
Sequences = Float[Array, "T N I"]
Hidden = Float[Array, "N H"]
Stack = Float[Array, "T N H"]
Deltas = Float[Array, "T N GH"]
Lengths = Integer[Array, " N"]


class RecurrenceResiduals(NamedTuple):
    """The arguments with x 0 in the padding, y, and the values that the cell saves at each step."""

    params: Params
    x: Sequences
    state: Any
    lengths: Lengths | None
    y: Stack
    saved: tuple[Stack, ...]


def textbook_loop(cell: Callable, x: Sequences, start: tuple, lengths: Lengths | None):
    """The loop of the definitions, which shares nothing with `sweep`.

    Args:
        cell: `(x_t, state) -> state`; the first array of a state is the output of its step.
        x: (T, N, I).
        start: the tuple of the initial state.
        lengths: (N,) or `None`.

    Returns:
        y, and the tuple of the final state.
    """

    def step(before, x):
        after = cell(x, before)
        return after, after[0]

    def step_within(before, inputs):
        x, within = inputs
        after = cell(x, before)
        state = tuple(jnp.where(within, a, b) for a, b in zip(after, before, strict=True))
        return state, jnp.where(within, after[0], 0)

    if lengths is None:
        final, y = lax.scan(step, start, x)
        return y, final
    t = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None, None]
    within = t < jnp.asarray(lengths, jnp.int32)[None, :, None]
    final, y = lax.scan(step_within, start, (jnp.where(within, x, 0), within))
    return y, final


def sweep(cell: Callable, params: Params, x: Sequences, start: tuple, lengths: Lengths | None):
    """The forward loop, with the product x·W of all steps before it.

    Args:
        cell: `(params, x_t·W, state) -> (state, saved)`; its vectors and states are at least
            float32.
        params: a dict with the matrix "w".
        x: (T, N, I), 0 in the padding.
        start: the tuple of the initial state.
        lengths: (N,) or `None`.

    Returns:
        y, the tuple of the final state, and the stacked values that the cell saves.
    """
    projected, _ = linear_fwd({"w": params["w"]}, x)
    params = with_wide_biases(params)

    def step(before, inputs):
        projected, valid = inputs
        after, saved = cell(params, projected, before)
        stacked = _zero_beyond(valid, after[0]), saved
        return _held_beyond(valid, after, before), rounded(stacked, x.dtype)

    start = tuple(map(at_least_float32, start))
    final, (y, saved) = lax.scan(step, start, (projected, valid_steps(x, lengths)))
    return y, final, saved


def sweep_back(
    cell_bwd: Callable, residuals, saved: tuple, dy, dfinal: tuple, widths: tuple, start=None
):
    """The backward loop, which gives the deltas of all steps.

    The deltas are written into stacks made from y, not into zeros: XLA allocates zeros when the
    program starts, and they would take memory through the whole forward pass.

    Args:
        cell_bwd: `(params, saved, dstate) -> (dstate of the step before, deltas)`.
        residuals: the op's.
        saved: the stacks that `cell_bwd` reads.
        dy: (T, N, H).
        dfinal: the tuple of the gradient of the final state.
        widths: the widths of the deltas, in multiples of H.
        start: h₀, for a cell that also reads hₜ₋₁, as the last of `saved`.

    Returns:
        The tuple of the gradient of the initial state, and the stacks of the deltas.
    """
    params, x, _, lengths, y, _ = residuals
    t, n, h = y.shape

    def step(carry, inputs):
        dafter, stacks = carry
        index, dy, saved, valid = inputs
        dy = _zero_beyond(valid, at_least_float32(dy))
        if start is not None:
            before = lax.dynamic_index_in_dim(y, jnp.maximum(index - 1, 0), keepdims=False)
            saved = *saved, jnp.where(index > 0, before, start)
        saved = tuple(map(at_least_float32, saved))
        dbefore, deltas = cell_bwd(params, saved, (dafter[0] + dy, *dafter[1:]))
        deltas = rounded(tuple(_zero_beyond(valid, d) for d in deltas), y.dtype)
        stacks = tuple(
            lax.dynamic_update_index_in_dim(stack, d, index, 0)
            for stack, d in zip(stacks, deltas, strict=True)
        )
        return (_held_beyond(valid, dbefore, dafter), stacks), None

    stacks = tuple(
        jnp.broadcast_to(y[:, :, None], (t, n, w, h)).reshape(t, n, w * h) for w in widths
    )
    dfinal = tuple(map(at_least_float32, dfinal))
    if t == 0:
        return dfinal, stacks
    inputs = jnp.arange(t, dtype=jnp.int32), dy, saved, valid_steps(x, lengths)
    (dstart, deltas), _ = lax.scan(step, (dfinal, stacks), inputs, reverse=True)
    return dstart, deltas


def input_gradient(residuals, deltas: Float[Array, "*N GH"]) -> Float[Array, "*N I"]:
    """dxₜ = dₜ·Wᵀ, over all steps at once."""
    return linear_bwd_input(LinearResiduals(residuals.params, residuals.x), deltas)[1]


def input_params_gradient(residuals, deltas: Float[Array, "*N GH"]) -> Params:
    """dW = Σₜ xₜᵀ·dₜ and db = Σₜₙ dₜ, over all steps at once."""
    return linear_bwd_params(LinearResiduals(residuals.params, residuals.x), deltas)


def hidden_before(
    y: Stack, start: Hidden, deltas: Deltas, beside: Sequences | None = None
) -> Float[Array, "T N K"]:
    """The hidden state that each step starts from, which is y shifted by one step.

    Args:
        y: (T, N, H).
        start: h₀.
        deltas: those of all steps; the result takes no memory before they are computed.
        beside: a stack for the columns after those of the state.
    """
    t, n, h = y.shape
    columns = h if beside is None else h + beside.shape[-1]
    room = room_after(deltas[:1, :, :1], (t, n, columns))
    first = jnp.broadcast_to(start, room[:1, :, :h].shape)
    before = room.at[:1, :, :h].set(first).at[1:, :, :h].set(y[:-1])
    return before if beside is None else before.at[:, :, h:].set(beside)


def gradients_of_examples(
    residuals, examples_axis: int, start: Hidden, da: Deltas, through_u: Deltas, **biases: jax.Array
):
    """dWₙ = Xₙᵀ·dAₙ, dUₙ = Hₙᵀ·dAₙ and the sums over the steps of each sequence.

    Args:
        residuals: the op's.
        examples_axis: the axis of the examples, which must be that of the sequences.
        start: h₀.
        da: the deltas of W and b at all steps.
        through_u: the deltas of U.
        **biases: the deltas of the other biases.

    Raises:
        ValueError: examples_axis is not the axis of the sequences.
    """
    if examples_axis != 1:
        raise ValueError(
            "the gradient of each example needs the examples along axis 1, the axis of the "
            f"sequences (T, N, I) of a recurrent op, not axis {examples_axis}; see batch_first"
        )
    before = hidden_before(residuals.y, start, da)
    sequences, before, of_u = (places(a, 1) for a in (residuals.x, before, through_u))
    gradients: dict[str, Any] = {"w": Outer(sequences, places(da, 1)), "u": Outer(before, of_u)}
    for name, deltas in {"b": da, **biases}.items():
        if name in residuals.params:
            gradients[name] = sum_over_places(deltas, [0])
    return gradients


def with_wide_biases(params: Params) -> Params:
    """The params, with the biases in at least float32 and the matrices unchanged."""
    return {name: at_least_float32(p) if p.ndim == 1 else p for name, p in params.items()}


def plus_bias(a: Float[Array, "*N GH"], params: Params, name: str = "b") -> Float[Array, "*N GH"]:
    """a + b, if there is a bias of this name."""
    return a + jnp.broadcast_to(params[name], a.shape) if name in params else a


def times(h: Float[Array, "*N H"], u: Float[Array, "H GH"]) -> Float[Array, "*N GH"]:
    """h·U."""
    return contract(rounded(h, u.dtype), u, [h.ndim - 1], [0])


def times_transposed(delta: Float[Array, "*N GH"], u: Float[Array, "H GH"]):
    """d·Uᵀ."""
    return contract(rounded(delta, u.dtype), u, [delta.ndim - 1], [1])


def initial(params: Params, x: Sequences, state: Hidden | None) -> Hidden:
    """The hidden state that the sequences start from: zeros if none is given."""
    shape = x.shape[1], params["u"].shape[0]
    return jnp.zeros_like(x, shape=shape) if state is None else state


def valid_steps(x: Sequences, lengths: Lengths | None) -> Bool[Array, "T N 1"] | None:
    """True where a step is within its sequence; `None` if every step is."""
    if lengths is None:
        return None
    steps = jnp.arange(x.shape[0], dtype=jnp.int32)
    return (steps[:, None] < jnp.asarray(lengths, jnp.int32)[None, :])[:, :, None]


def without_padding(x: Sequences, lengths: Lengths | None) -> Sequences:
    """`x` with its padding set to 0, so that a NaN there does no harm."""
    return _zero_beyond(valid_steps(x, lengths), x)


def _zero_beyond(valid, array):
    return array if valid is None else jnp.where(valid, array, 0)


def _held_beyond(valid, after, before):
    if valid is None:
        return after
    return tuple(jnp.where(valid, a, b) for a, b in zip(after, before, strict=True))


def rounded(tree, dtype):
    """Every array of a tree in this dtype."""
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def require_recurrence(params, x, states: dict, lengths, gates: int, extra=()) -> None:
    """Raise unless params, sequences, states and lengths fit together.

    Args:
        params: {"w": (I, G·H), "u": (H, G·H), "b": (G·H,)} and vectors of H; vectors are optional.
        x: (T, N, I).
        states: the initial state, by name; empty if none is given.
        lengths: (N,) or `None`.
        gates: G.
        extra: the names of the vectors of H.
    """
    require_floating_gates(params, x, states, extra)
    if x.ndim != 3:
        raise ValueError(f"x must be (steps, batch, inputs), got shape {x.shape}")
    _, n, _ = x.shape
    n_hidden = require_sizes_of_gates(params, x.shape[-1], gates, extra)
    for name, state in states.items():
        if state.shape != (n, n_hidden):
            raise ValueError(
                f"{name} has shape {state.shape}; with {n} sequences and {n_hidden} hidden "
                f"units it must be {(n, n_hidden)}"
            )
    require_lengths("lengths", lengths, (n,), x.shape[0])


def require_step(params, x, states: dict, gates: int, extra=()) -> None:
    """Raise unless params, inputs and states fit together in one step.

    Args:
        params: as in `require_recurrence`.
        x: (N, I).
        states: (N, H) each, by name.
        gates: G.
        extra: the names of the vectors of H.
    """
    require_floating_gates(params, x, states, extra)
    if x.ndim == 0:
        raise ValueError("x is a single number; its last axis must hold the inputs")
    n_hidden = require_sizes_of_gates(params, x.shape[-1], gates, extra)
    for name, state in states.items():
        if state.shape != (*x.shape[:-1], n_hidden):
            raise ValueError(
                f"{name} has shape {state.shape}; with x of shape {x.shape} and {n_hidden} hidden "
                f"units it must be {(*x.shape[:-1], n_hidden)}"
            )


def require_floating_gates(params, x, states: dict, extra) -> None:
    """Raise unless the params have the right keys and everything is floating point."""
    require_keys(params, ["w", "u"], ["b", *extra])
    named = {f"params[{name!r}]": array for name, array in params.items()}
    require_floating(**named, x=x, **states)


def require_sizes_of_gates(params, n_in: int, gates: int, extra) -> int:
    """The number of hidden units; raise unless the shapes of the params fit it."""
    u_shape = params["u"].shape
    n_hidden = u_shape[0] if u_shape else 0
    columns = gates * n_hidden
    expected = {"u": (n_hidden, columns), "w": (n_in, columns), "b": (columns,)}
    expected |= dict.fromkeys(extra, (n_hidden,))
    for name, shape in expected.items():
        if name in params and params[name].shape != shape:
            raise ValueError(
                f"params[{name!r}] has shape {params[name].shape}; with {n_in} inputs in x "
                f"and {n_hidden} hidden units in params['u'] it must be {shape}"
            )
    return n_hidden
