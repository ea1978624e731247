"""Recurrent ops against a loop in NumPy, at their edges, as layers, and in other formats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combinators import serial
from jaxnn.gradcheck import check
from jaxnn.interop import recurrent as formats
from jaxnn.layers.recurrent import GRU, LSTM, RNN, Bidirectional
from jaxnn.ops.recurrent.cells import gru_cell, lstm_cell, rnn_cell
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn

STEPS, BATCH, INPUTS, H = 4, 5, 3, 2
GATES = {rnn: 1, gru: 3, lstm: 4}
CELLS = {rnn: rnn_cell, gru: gru_cell, lstm: lstm_cell}
OPS = pytest.mark.parametrize("op", list(GATES), ids=lambda op: op.__name__)
LENGTHS = jnp.array([4, 0, 3, 1, 2])


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def params_of(op):
    columns = GATES[op] * H
    params = {"w": random(1, INPUTS, columns), "u": random(2, H, columns), "b": random(3, columns)}
    return params | ({"b_u": random(4, H)} if op is gru else {})


def state_of(op):
    return (random(5, BATCH, H), random(6, BATCH, H)) if op is lstm else random(5, BATCH, H)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def one_step(op, params, x, state):
    """The formulas of the three cells, in NumPy, of one sequence."""
    w, u, b = (np.asarray(params[name]) for name in "wub")
    if op is rnn:
        return np.tanh(x @ w + state @ u + b)
    if op is gru:
        of_x, of_h = x @ w + b, state @ u
        r, z = (sigmoid(of_x[k * H : (k + 1) * H] + of_h[k * H : (k + 1) * H]) for k in (0, 1))
        n = np.tanh(of_x[2 * H :] + r * (of_h[2 * H :] + np.asarray(params["b_u"])))
        return (1 - z) * n + z * state
    h, c = state
    i, f, g, o = np.split(x @ w + h @ u + b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return np.stack([sigmoid(o) * np.tanh(c), c])


@OPS
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_a_loop_in_numpy(op, lengths):
    params, x, start = params_of(op), random(7, STEPS, BATCH, INPUTS), state_of(op)
    y, final = op(params, x, start, lengths)
    for k in range(BATCH):
        state = np.stack([s[k] for s in start]) if op is lstm else np.asarray(start[k])
        length = STEPS if lengths is None else int(lengths[k])
        for t in range(length):
            state = one_step(op, params, np.asarray(x[t, k]), state)
            np.testing.assert_allclose(y[t, k], state[0] if op is lstm else state, rtol=1e-12)
        assert not y[length:, k].any()
        reached = np.stack([s[k] for s in final]) if op is lstm else final[k]
        np.testing.assert_allclose(reached, state, rtol=1e-12)


@OPS
def test_the_final_state_continues_a_sequence(op):
    params, x = params_of(op), random(7, STEPS, BATCH, INPUTS)
    whole, final = op(params, x)
    first, state = op(params, x[:3])
    rest, reached = op(params, x[3:], state)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), whole, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), reached, final)


@OPS
def test_padding_may_hold_anything(op):
    params, x = params_of(op), random(7, STEPS, BATCH, INPUTS)
    beyond = (jnp.arange(STEPS)[:, None] >= LENGTHS[None, :])[:, :, None]

    def loss(params, x):
        y, _ = op(params, x, None, LENGTHS)
        return jnp.sum(y**2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    clean = gradient(params, x)
    for anything in (jnp.nan, jnp.inf):
        found = gradient(params, jnp.where(beyond, anything, x))
        jax.tree.map(np.testing.assert_array_equal, found, clean)
        assert not jnp.where(beyond, found[1], 0).any()

    (y, final), residuals = op.fwd(params, x, None, LENGTHS)
    spoilt = jnp.where(beyond, jnp.nan, y)  # y is 0 there, a constant, so dy goes nowhere
    by_hand = jax.jit(op.bwd)
    expected = by_hand(residuals, (y, final))
    jax.tree.map(np.testing.assert_array_equal, by_hand(residuals, (spoilt, final)), expected)


@OPS
def test_steps_of_the_cell_are_the_sequence(op):
    params, x, start = params_of(op), random(7, STEPS, BATCH, INPUTS), state_of(op)

    def by_cells(params, x, state):
        outputs = []
        for t in range(STEPS):
            state = CELLS[op](params, x[t], state)
            outputs.append(state[0] if op is lstm else state)
        return jnp.stack(outputs), state

    results = [
        jax.jit(lambda *args, f=f: jax.vjp(f, *args))(params, x, start) for f in (op, by_cells)
    ]
    dy, _ = results[0]
    values, gradients = zip(*((y, pullback(dy)) for y, pullback in results), strict=True)
    for found, expected in (values, gradients):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)


@OPS
def test_biases_are_optional(op):
    params, x, start = params_of(op), random(7, STEPS, BATCH, INPUTS), state_of(op)
    without = {name: p for name, p in params.items() if p.ndim > 1}
    zeros = params | {name: jnp.zeros_like(p) for name, p in params.items() if p.ndim == 1}
    for one, args in ((op, (x, start)), (CELLS[op], (x[0], start))):
        y, residuals = one.fwd(without, *args)
        expected, _ = one.fwd(zeros, *args)
        jax.tree.map(np.testing.assert_array_equal, y, expected)
        assert one.bwd(residuals, y)[0].keys() == {"w", "u"}


def test_rnn_with_relu():
    params, x = {"w": jnp.eye(2), "u": jnp.eye(2)}, jnp.array([[[1.0, -1.0]], [[2.0, 3.0]]])
    y, h = rnn(params, x, activation="relu")
    np.testing.assert_array_equal(y[:, 0], [[1, 0], [3, 3]])
    _, residuals = rnn.fwd(params, x, activation="relu")
    _, dx = rnn.bwd(residuals, (jnp.ones_like(y), jnp.zeros_like(h)))
    np.testing.assert_array_equal(dx[:, 0], [[2, 0], [1, 1]])
    with pytest.raises(ValueError, match="activation must be 'tanh' or 'relu', got 'gelu'"):
        rnn(params, x, activation="gelu")
    with pytest.raises(ValueError, match=r"state has shape \(3,\); with x of shape \(2,\)"):
        rnn_cell(params, x[0, 0], jnp.ones(3))


@OPS
def test_no_steps(op):
    params, start = params_of(op), state_of(op)
    y, final = op(params, jnp.zeros((0, BATCH, INPUTS)), start)
    assert y.shape == (0, BATCH, H)
    jax.tree.map(np.testing.assert_array_equal, final, start)


@OPS
def test_without_steps_the_gradient_passes_to_the_initial_state(op):
    params, start = params_of(op), state_of(op)
    (y, final), residuals = op.fwd(params, jnp.zeros((0, BATCH, INPUTS)), start)
    dparams, dx, dstart = op.bwd(residuals, (y, final))
    assert all(not d.any() for d in jax.tree.leaves(dparams))
    assert dx.shape == (0, BATCH, INPUTS)
    jax.tree.map(np.testing.assert_array_equal, dstart, final)


@OPS
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_two_halves_are_the_backward(op, dtype):
    args = params_of(op), random(7, STEPS, BATCH, INPUTS), state_of(op)
    args = jax.tree.map(lambda a: a.astype(dtype), args)
    y, residuals = op.fwd(*args, LENGTHS)
    deltas, *gradients = op.bwd_input(residuals, y)
    halves = (op.bwd_params(residuals, deltas), *gradients)
    jax.tree.map(np.testing.assert_array_equal, halves, op.bwd(residuals, y))


@OPS
def test_stacks_are_saved_in_the_dtype_of_the_input(op):
    args = params_of(op), random(7, STEPS, BATCH, INPUTS)
    _, residuals = op.fwd(*jax.tree.map(lambda a: a.astype(jnp.bfloat16), args))
    stacks = {rnn: 1, gru: 5, lstm: 6}[op]
    assert len(jax.tree.leaves((residuals.y, residuals.saved))) == stacks
    assert {a.dtype for a in jax.tree.leaves(residuals)} == {jnp.dtype(jnp.bfloat16)}


def test_under_jit_a_length_beyond_the_end_counts_as_the_end():
    params, x = params_of(lstm), random(7, STEPS, BATCH, INPUTS)
    y = jax.jit(lambda lengths: lstm(params, x, None, lengths)[0])(jnp.full(BATCH, STEPS + 3))
    np.testing.assert_allclose(y, lstm(params, x)[0], rtol=1e-12)
    flipped = jax.jit(lambda lengths: reverse_sequences(x, lengths))(jnp.full(BATCH, STEPS + 3))
    np.testing.assert_array_equal(flipped, reverse_sequences(x))


def test_reverse_keeps_padding_in_its_place():
    x = random(7, STEPS, BATCH, INPUTS)
    y = reverse_sequences(x, LENGTHS)
    for k, length in enumerate(LENGTHS.tolist()):
        np.testing.assert_array_equal(y[:length, k], x[:length, k][::-1])
        np.testing.assert_array_equal(y[length:, k], x[length:, k])
    np.testing.assert_array_equal(reverse_sequences(y, LENGTHS), x)


def test_lengths_of_a_dtype_that_cannot_count_the_steps():
    steps, params, wanted = 300, params_of(rnn), jnp.array([100, 127])
    x = random(7, steps, 2, INPUTS)

    @jax.jit
    def everything(lengths):
        (y, final), residuals = rnn.fwd(params, x, None, lengths)
        flipped, of_reverse = reverse_sequences.fwd(x, lengths)
        return y, flipped, rnn.bwd(residuals, (y, final)), reverse_sequences.bwd(of_reverse, x)

    expected = everything(wanted)
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32"):
        found = everything(wanted.astype(dtype))
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"lengths": jnp.array([4, 0, 3, 5, 2])}, ValueError, "lengths holds 5, .* 0 … 4"),
        ({"lengths": jnp.array([4, 0, 3, -1, 2])}, ValueError, "lengths holds -1, .* 0 … 4"),
        ({"lengths": jnp.ones(BATCH)}, TypeError, "lengths must be integers"),
        ({"lengths": jnp.ones(3, int)}, ValueError, r"one for each example, shape \(5,\)"),
        ({"x": jnp.ones((STEPS, INPUTS))}, ValueError, r"x must be \(steps, batch, inputs\)"),
        ({"x": jnp.ones((STEPS, BATCH, 7))}, ValueError, r"params\['w'\] has shape \(3, 8\)"),
        ({"x": jnp.ones((STEPS, BATCH, INPUTS), int)}, TypeError, "x must be floating point"),
        ({"state": jnp.ones((BATCH, H))}, TypeError, r"state must be a tuple \(h, c\)"),
        (
            {"state": (jnp.ones((BATCH, H)), jnp.ones((H, BATCH)))},
            ValueError,
            r"state\[1\] has shape",
        ),
        ({"params": {"w": jnp.ones((INPUTS, 8))}}, ValueError, "params has no 'u'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(change, error, words):
    args = {"params": params_of(lstm), "x": random(7, STEPS, BATCH, INPUTS)} | change
    with pytest.raises(error, match=words):
        lstm(**args)


def test_what_cannot_be_reversed_is_refused_in_words():
    with pytest.raises(ValueError, match=r"\(steps, batch, …\)"):
        reverse_sequences(jnp.ones(4))


@OPS
def test_a_dy_of_another_shape_is_refused(op):
    (y, final), residuals = op.fwd(params_of(op), random(7, STEPS, BATCH, INPUTS))
    with pytest.raises(ValueError, match="dy has shape"):
        op.bwd(residuals, (y[:1], final))


def test_layers_in_a_network():
    both = serial(RNN(INPUTS, H, reverse=True), Bidirectional(LSTM, H, H))
    params = jax.tree.map(lambda a: a + 0.1, both.init(jax.random.key(0)))
    x = random(7, STEPS, BATCH, INPUTS)
    assert not check(both, params, x, laws=("gradient",)).findings


def test_bidirectional_is_the_two_directions_side_by_side():
    layer = Bidirectional(GRU, INPUTS, H)
    forward, backward = params = layer.init(jax.random.key(0))
    x = random(7, STEPS, BATCH, INPUTS).astype(params[0]["w"].dtype)
    y = layer.apply(params, x)
    np.testing.assert_array_equal(y[:, :, :H], gru(forward, x)[0])
    np.testing.assert_array_equal(y[:, :, H:], gru(backward, x[::-1])[0][::-1])


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("size", [0, 2.0])
def test_a_layer_needs_sizes(size):
    with pytest.raises(ValueError, match="LSTM: n_hidden must be a positive integer"):
        LSTM(3, size)


@OPS
@pytest.mark.parametrize("library", ["torch", "keras", "flax"])
def test_there_and_back(op, library):
    params = params_of(op)
    there = getattr(formats, f"recurrent_to_{library}")(op, params)
    back = getattr(formats, f"recurrent_from_{library}")(op, there)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_torch_adds_two_biases():
    arrays = formats.recurrent_to_torch(lstm, params_of(lstm))
    one, two = random(8, 4 * H), random(9, 4 * H)
    params = formats.recurrent_from_torch(lstm, arrays | {"bias_ih": one, "bias_hh": two})
    np.testing.assert_array_equal(params["b"], one + two)
    arrays = formats.recurrent_to_torch(gru, params_of(gru))
    one, two = random(8, 3 * H), random(9, 3 * H)
    params = formats.recurrent_from_torch(gru, arrays | {"bias_ih": one, "bias_hh": two})
    np.testing.assert_array_equal(params["b"][: 2 * H], (one + two)[: 2 * H])
    np.testing.assert_array_equal(params["b"][2 * H :], one[2 * H :])
    np.testing.assert_array_equal(params["b_u"], two[2 * H :])


def test_keras_has_the_update_gate_of_a_gru_first():
    params = params_of(gru)
    kernel = formats.recurrent_to_keras(gru, params)["kernel"]
    np.testing.assert_array_equal(kernel[:, :H], params["w"][:, H : 2 * H])
    np.testing.assert_array_equal(kernel[:, H : 2 * H], params["w"][:, :H])


def test_flax_computes_the_same():
    linen = pytest.importorskip("flax.linen")
    x = random(7, STEPS, BATCH, INPUTS)
    cells = {rnn: linen.SimpleCell, gru: linen.GRUCell, lstm: linen.LSTMCell}
    for op, make in cells.items():
        params = params_of(op)
        cell = make(H, param_dtype=jnp.float64)
        arrays = {"params": formats.recurrent_to_flax(op, params)}
        zeros = jnp.zeros((BATCH, H))
        carry = (zeros, zeros) if op is lstm else zeros
        for t in range(STEPS):
            carry, y = cell.apply(arrays, carry, x[t])
        np.testing.assert_allclose(op(params, x)[0][-1], y, rtol=1e-12)


def test_formats_refuse_in_words():
    with pytest.raises(TypeError, match=r"expected jaxnn\.rnn, jaxnn\.gru or jaxnn\.lstm"):
        formats.recurrent_from_torch(reverse_sequences, {})
    with pytest.raises(ValueError, match="there is no 'weight_hh'"):
        formats.recurrent_from_torch(lstm, {"weight_ih": jnp.ones((8, 3))})
    arrays = {"kernel": jnp.ones((3, 6)), "recurrent_kernel": jnp.ones((2, 6))}
    with pytest.raises(ValueError, match="with reset_after=True"):
        formats.recurrent_from_keras(gru, arrays | {"bias": jnp.ones(6)})
