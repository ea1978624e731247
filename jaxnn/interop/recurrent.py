"""Conversion of the params of the recurrent ops to and from the layouts of other libraries.

Torch (`weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`) has the gates in the order of jaxnn, its
matrices are (gates·H, I), and it adds two biases. Keras (`kernel`, `recurrent_kernel`, `bias`)
has matrices of jaxnn's shape, the gates of a GRU in the order z, r, n, and two biases for it.
Flax has one kernel for each gate, and a bias for some of them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_array
from jaxnn.layer import Params
from jaxnn.op import Op
from jaxnn.ops._common.validation import describe
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.rnn import rnn

Arrays = dict[str, Any]

_GATES: dict[Op, tuple[str, ...]] = {rnn: ("",), gru: ("r", "z", "n"), lstm: ("i", "f", "g", "o")}


def recurrent_from_torch(op: Op, arrays: Arrays) -> Params:
    """Params of a recurrent op from those of `torch.nn.RNN`, `GRU` or `LSTM`, of one layer.

    Two biases that are only added become one: b = bias_ih + bias_hh. In a GRU, the bias of the
    candidate's product with U remains separate, as b_u.

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        arrays: "weight_ih" (G·H, I), "weight_hh" (G·H, H), "bias_ih" and "bias_hh" (G·H,), with
            G gates: 1, 3 or 4. Without the biases, as with `bias=False`, params has none either.
            NumPy arrays are accepted.

    Raises:
        TypeError: the op is none of the three, or an array is not floating point.
        ValueError: an array is missing, unknown or of a wrong shape.

    Example:
        >>> arrays = {"weight_ih": jnp.ones((8, 3)), "weight_hh": jnp.ones((8, 2))}
        >>> arrays |= {"bias_ih": jnp.ones(8), "bias_hh": jnp.ones(8)}
        >>> jax.tree.map(jnp.shape, jaxnn.recurrent_from_torch(jaxnn.lstm, arrays))
        {'b': (8,), 'u': (2, 8), 'w': (3, 8)}
    """
    _gates(op)
    arrays = _given("recurrent_from_torch", arrays, "arrays")
    names = ["weight_ih", "weight_hh"]
    names += ["bias_ih", "bias_hh"] if {"bias_ih", "bias_hh"} & set(arrays) else []
    w, u, *biases = _named("recurrent_from_torch", arrays, names)
    n_all, n_hidden = len(_gates(op)) * u.shape[-1], u.shape[-1]
    shapes = {"weight_ih": (n_all, w.shape[-1]), "weight_hh": (n_all, n_hidden)}
    _require_shapes("recurrent_from_torch", arrays, shapes, (n_all,))
    return {"w": w.T, "u": u.T} | (joined_biases(op, *biases) if biases else {})


def recurrent_to_torch(op: Op, params: Params) -> Arrays:
    """The inverse of `recurrent_from_torch`; a sum of both biases is written to "bias_ih".

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        params: its params.

    Raises:
        TypeError: the op is none of the three.

    Example:
        >>> params = jaxnn.LSTM(3, 2).init(jax.random.key(0))
        >>> jaxnn.recurrent_to_torch(jaxnn.lstm, params)["weight_ih"].shape
        (8, 3)
    """
    params = _params("recurrent_to_torch", op, params)
    arrays = {"weight_ih": params["w"].T, "weight_hh": params["u"].T}
    if _has_biases(params):
        arrays["bias_ih"], arrays["bias_hh"] = two_biases(op, params)
    return arrays


def recurrent_from_keras(op: Op, arrays: Arrays) -> Params:
    """Params of a recurrent op from those of Keras's `SimpleRNN`, `GRU` or `LSTM`.

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        arrays: "kernel" (I, G·H), "recurrent_kernel" (H, G·H) and "bias" (G·H,), or (2, 3H) for a
            GRU, which must have `reset_after=True`, the default. With `use_bias=False` there is
            no "bias".

    Raises:
        TypeError: the op is none of the three.
        ValueError: an array is missing, unknown or of a wrong shape, or the bias of a GRU is that
            of another variant.

    Example:
        >>> arrays = {"kernel": jnp.ones((3, 6)), "recurrent_kernel": jnp.ones((2, 6))}
        >>> arrays |= {"bias": jnp.ones((2, 6))}
        >>> jax.tree.map(jnp.shape, jaxnn.recurrent_from_keras(jaxnn.gru, arrays))
        {'b': (6,), 'b_u': (2,), 'u': (2, 6), 'w': (3, 6)}
    """
    n_gates = len(_gates(op))
    arrays = _given("recurrent_from_keras", arrays, "arrays")
    names = ["kernel", "recurrent_kernel", *(["bias"] if "bias" in arrays else [])]
    w, u, *biases = _named("recurrent_from_keras", arrays, names)
    n_all = n_gates * len(u)
    shapes = {"kernel": (len(w), n_all), "recurrent_kernel": (len(u), n_all)}
    if op != gru:
        _require_shapes("recurrent_from_keras", arrays, shapes, (n_all,))
        return {"w": w, "u": u} | ({"b": biases[0]} if biases else {})
    if biases and biases[0].ndim != 2:
        raise ValueError(
            f"recurrent_from_keras: the bias of a GRU has shape {biases[0].shape}; with "
            f"reset_after=True it is {(2, w.shape[-1])}"
        )
    _require_shapes("recurrent_from_keras", arrays, shapes, (2, n_all))
    w, u, *biases = map(_swapped, (w, u, *biases))
    return {"w": w, "u": u} | (joined_biases(op, *biases[0]) if biases else {})


def recurrent_to_keras(op: Op, params: Params) -> Arrays:
    """The inverse of `recurrent_from_keras`.

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        params: its params.

    Raises:
        TypeError: the op is none of the three.

    Example:
        >>> params = jaxnn.GRU(3, 2).init(jax.random.key(0))
        >>> jaxnn.recurrent_to_keras(jaxnn.gru, params)["bias"].shape
        (2, 6)
    """
    params = _params("recurrent_to_keras", op, params)
    arrays = {"kernel": params["w"], "recurrent_kernel": params["u"]}
    if _has_biases(params):
        arrays["bias"] = jnp.stack(two_biases(op, params)) if gru.is_same_as(op) else params["b"]
    return {name: _swapped(a) for name, a in arrays.items()} if gru.is_same_as(op) else arrays


def recurrent_from_flax(op: Op, arrays: dict[str, Arrays]) -> Params:
    """Params of a recurrent op from those of Flax's `SimpleCell`, `GRUCell` or `LSTMCell`.

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        arrays: the cell's params: "i" and "h" with the letter of each gate appended, each a dict
            of a "kernel" and, where Flax has one, a "bias".

    Raises:
        TypeError: the op is none of the three.
        ValueError: an entry is missing, unknown or of a wrong shape.

    Example:
        >>> kernel, bias = {"kernel": jnp.ones((3, 2))}, {"bias": jnp.ones(2)}
        >>> arrays = {"i": kernel | bias, "h": {"kernel": jnp.ones((2, 2))}}
        >>> jax.tree.map(jnp.shape, jaxnn.recurrent_from_flax(jaxnn.rnn, arrays))
        {'b': (2,), 'u': (2, 2), 'w': (3, 2)}
    """
    caller, gates = "recurrent_from_flax", _gates(op)
    arrays = _given(caller, arrays, "arrays")
    _require_names(caller, arrays, [side + gate for side in "ih" for gate in gates])
    biased = "h" if lstm.is_same_as(op) else "i"
    params: Params = {}
    for side, name in (("i", "w"), ("h", "u")):
        denses = []
        for gate in gates:
            with_bias = side == biased or (gru.is_same_as(op) and side + gate == "hn")
            names = ["kernel", "bias"] if with_bias else ["kernel"]
            where = f"{caller}: {side + gate}"
            dense = dict(zip(names, _named(where, arrays[side + gate], names), strict=True))
            n_hidden = dense["kernel"].shape[-1]
            rows = len(dense["kernel"]) if side == "i" else n_hidden
            _require_shapes(where, dense, {"kernel": (rows, n_hidden)}, (n_hidden,))
            denses.append(dense)
        if len({dense["kernel"].shape for dense in denses}) > 1:
            raise ValueError(f"{caller}: the kernels of {side!r} have different shapes")
        params[name] = jnp.concatenate([dense["kernel"] for dense in denses], axis=-1)
        if side == biased:
            params["b"] = jnp.concatenate([dense["bias"] for dense in denses])
        if gru.is_same_as(op) and side == "h":
            params["b_u"] = denses[-1]["bias"]
    return _params(caller, op, params)


def recurrent_to_flax(op: Op, params: Params) -> dict[str, Arrays]:
    """The inverse of `recurrent_from_flax`.

    Args:
        op: `jaxnn.rnn`, `jaxnn.gru` or `jaxnn.lstm`.
        params: its params. A bias that it lacks is written as zeros, because Flax's cells have one.

    Raises:
        TypeError: the op is none of the three.

    Example:
        >>> params = jaxnn.LSTM(3, 2).init(jax.random.key(0))
        >>> sorted(jaxnn.recurrent_to_flax(jaxnn.lstm, params))
        ['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io']
    """
    params, gates = _params("recurrent_to_flax", op, params), _gates(op)
    arrays: dict[str, Arrays] = {}
    for side, name in (("i", "w"), ("h", "u")):
        kernels = jnp.split(params[name], len(gates), axis=-1)
        arrays |= {side + g: {"kernel": k} for g, k in zip(gates, kernels, strict=True)}
    biased = "h" if lstm.is_same_as(op) else "i"
    n_all = params["u"].shape[-1]
    b = params.get("b", jnp.zeros(n_all, params["u"].dtype))
    for gate, bias in zip(gates, jnp.split(b, len(gates)), strict=True):
        arrays[biased + gate]["bias"] = bias
    if gru.is_same_as(op):
        arrays["hn"]["bias"] = params.get("b_u", jnp.zeros(n_all // 3, params["u"].dtype))
    return arrays


def _gates(op) -> tuple[str, ...]:
    """The letters of an op's gates, in its order."""
    for known, gates in _GATES.items():
        if known.is_same_as(op):
            return gates
    raise TypeError(f"expected jaxnn.rnn, jaxnn.gru or jaxnn.lstm, got {op!r}")


def _given(function, arrays, what) -> dict:
    """A dict with names as keys."""
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        kind = type(arrays).__name__
        raise TypeError(f"{function}: {what} must be a dict of arrays by name, got a {kind}")
    return dict(arrays)


def _require_names(function, arrays, names) -> None:
    """Raise unless all the names are there, and no others."""
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{function}: there is no {missing[0]!r} in {sorted(arrays)}")
    if unknown := sorted(set(arrays) - set(names)):
        raise ValueError(f"{function}: {unknown[0]!r} is not used; the names are {sorted(names)}")


def _named(function, arrays, names) -> list:
    """The floating-point arrays of these names, each with at least one axis."""
    arrays = _given(function, arrays, "arrays")
    _require_names(function, arrays, names)
    found = []
    for name in names:
        array = as_array(f"{function}: {name}", arrays[name])
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{function}: {name} must be floating point, got {describe(array)}")
        if array.ndim == 0:
            raise ValueError(f"{function}: {name} has no axes, got {describe(array)}")
        found.append(array)
    return found


def _require_shapes(function, arrays, shapes, of_bias) -> None:
    """Raise unless each array has its shape; one that `shapes` lacks is a bias."""
    for name, array in arrays.items():
        shape = shapes.get(name, of_bias)
        if np.shape(array) != shape:
            raise ValueError(
                f"{function}: {name} has shape {np.shape(array)}, but the other arrays require "
                f"shape {shape}"
            )


def _params(function, op: Op, params) -> Params:
    """The params of a recurrent op, as arrays of the right shapes."""
    n_gates, biases = len(_gates(op)), ["b", "b_u"] if gru.is_same_as(op) else ["b"]
    params = _given(function, params, "params")
    names = ["w", "u", *(name for name in biases if name in params)]
    params = dict(zip(names, _named(f"{function}: params", params, names), strict=True))
    n_hidden, n_inputs = len(params["u"]), len(params["w"])
    n_all = n_gates * n_hidden
    shapes = {"w": (n_inputs, n_all), "u": (n_hidden, n_all), "b_u": (n_hidden,)}
    _require_shapes(f"{function}: params", params, shapes, (n_all,))
    return params


def joined_biases(op: Op, b_w, b_u) -> Params:
    """The "b", and for a GRU the "b_u", of the two biases of PyTorch."""
    if op != gru:
        return {"b": b_w + b_u}
    n_hidden = b_u.size // 3
    return {"b": b_w.at[:-n_hidden].add(b_u[:-n_hidden]), "b_u": b_u[-n_hidden:]}


def two_biases(op: Op, params: Params) -> tuple:
    """The inverse of `joined_biases`; the second is 0 except for the "b_u" of a GRU."""
    b, b_u = params.get("b"), params.get("b_u")
    if b is None:
        b = jnp.zeros(3 * b_u.size, b_u.dtype)
    second = jnp.zeros_like(b)
    return b, second if b_u is None else second.at[-b_u.size :].set(b_u)


def _has_biases(params) -> bool:
    return "b" in params or "b_u" in params


def _swapped(array):
    """The first two of the three gates of a GRU in the other order."""
    first, second, third = jnp.split(array, 3, axis=-1)
    return jnp.concatenate([second, first, third], axis=-1)
