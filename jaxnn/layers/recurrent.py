"""Recurrent layers, each from a sequence (T, N, I) to its hidden states (T, N, H)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.combinators import parallel
from jaxnn.layer import BuiltLayer, Layer, require_sizes
from jaxnn.layers.initialisation import lecun_normal, orthogonal
from jaxnn.op import Op
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn
from jaxnn.padded import Padded, with_values


class RecurrentResiduals(NamedTuple):
    """The residuals of the op, and the lengths of a `Padded` sequence."""

    op: NamedTuple
    lengths: jax.Array | None


@dataclass(frozen=True, repr=False)
class RecurrentLayer(Layer):
    """A layer of an op `(params, x) -> (y, state)` that returns only y.

    Attributes:
        op: the op.
        gates: the number of its gates.
        n_states: the number of arrays in its state.
    """

    n_in: int
    n_hidden: int
    reverse: bool = field(default=False, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    u_init: Callable = field(default=orthogonal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)

    op: ClassVar[Op]
    gates: ClassVar[int]
    n_states: ClassVar[int] = 1

    def __post_init__(self):
        require_sizes(type(self).__name__, n_in=self.n_in, n_hidden=self.n_hidden)

    def init(self, key):
        """The matrices of each gate by `w_init` and `u_init`, the biases by `b_init`."""
        w_key, u_key, b_key, _ = jax.random.split(key, 4)
        params = {
            "w": _each_gate(self.w_init, w_key, (self.n_in, self.n_hidden), self.gates),
            "u": _each_gate(self.u_init, u_key, (self.n_hidden, self.n_hidden), self.gates),
        }
        if self.use_bias:
            params["b"] = self.b_init(b_key, (self.gates * self.n_hidden,))
        return params

    def apply(self, params, x, state=None):
        """The hidden states; 0 beyond the lengths of a `Padded` sequence."""
        values, lengths = self._values_and_lengths(x)
        values = self._directed(values, lengths)
        y, _ = self.op(params, values, lengths=lengths)
        return with_values(x, self._directed(y, lengths))

    def fwd(self, params, x, key=None):
        """The hidden states, and the residuals of the op."""
        values, lengths = self._values_and_lengths(x)
        (y, _), residuals = self.op.fwd(params, self._directed(values, lengths), lengths=lengths)
        return with_values(x, self._directed(y, lengths)), RecurrentResiduals(residuals, lengths)

    def bwd_input(self, residuals, dy):
        """The gradient of the sequence; that of the final state is zero."""
        of_op, lengths = residuals
        if not isinstance(dy, jax.Array) or dy.ndim != 3:
            got = f"shape {dy.shape}" if isinstance(dy, jax.Array) else f"a {type(dy).__name__}"
            raise ValueError(f"{type(self).__name__}: dy must be an array (T, N, H), got {got}")
        no_state = jnp.zeros(dy.shape[1:], dy.dtype)
        dfinal = no_state if self.n_states == 1 else (no_state,) * self.n_states
        deltas, dx, _, _ = self.op.bwd_input(of_op, (self._directed(dy, lengths), dfinal))
        return deltas, self._directed(dx, lengths)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the matrices and the biases."""
        return self.op.bwd_params(residuals.op, deltas, weights, axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the matrices and the biases, sequence by sequence."""
        return self.op.bwd_examples(residuals.op, deltas, axis)

    def init_cache(self, batch, length, dtype=jnp.float32):
        """The state, 0 before the first step; it does not grow with the length."""
        state = jnp.zeros((batch, self.n_hidden), dtype)
        return state if self.n_states == 1 else (state,) * self.n_states

    def extend(self, params, x, cache):
        """The hidden states of the next steps, from the state after those before."""
        if self.reverse:
            raise ValueError(
                f"{type(self).__name__}: a layer that reads from the last step to the first cannot "
                "be extended step by step"
            )
        return self.op(params, x, cache)

    def _values_and_lengths(self, x):
        """The sequence and its lengths, if there are any."""
        if not isinstance(x, Padded):
            return x, None
        if x.mask is not None:
            raise ValueError(
                f"{type(self).__name__}: a recurrent layer takes lengths, but x has a mask"
            )
        return x.values, x.lengths

    def _directed(self, sequences, lengths):
        return reverse_sequences(sequences, lengths) if self.reverse else sequences


@dataclass(frozen=True, repr=False)
class RNN(RecurrentLayer):
    """Layer of a simple recurrent network with params {"w", "u", "b"}; see `rnn`.

    Its state starts at zero, and only y is passed to the next layer.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        activation: "tanh" or "relu".
        reverse: whether the steps are read from the last to the first.
        use_bias: whether params has biases.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        u_init: the same for u.
        b_init: the same for b.

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.RNN(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (3,), 'u': (3, 3), 'w': (4, 3)}
    """

    gates = 1

    activation: str = field(default="tanh", kw_only=True)

    @cached_property
    def op(self):
        """`rnn` with the layer's activation."""
        return rnn.bind(activation=self.activation)


@dataclass(frozen=True, repr=False)
class GRU(RecurrentLayer):
    """Layer of gated recurrent units with params {"w", "u", "b", "b_u"}; see `gru`.

    Its state starts at zero, and only y is passed to the next layer.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        reverse: whether the steps are read from the last to the first.
        use_bias: whether params has biases.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`, for each gate.
        u_init: the same for u.
        b_init: the same for b and b_u.

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.GRU(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (9,), 'b_u': (3,), 'u': (3, 9), 'w': (4, 9)}
    """

    op = gru
    gates = 3

    def init(self, key):
        """The params of any recurrent layer, and the bias of the candidate's recurrent product."""
        params = super().init(key)
        if self.use_bias:
            params["b_u"] = self.b_init(jax.random.split(key, 4)[3], (self.n_hidden,))
        return params


@dataclass(frozen=True, repr=False)
class LSTM(RecurrentLayer):
    """Layer of long short-term memory with params {"w", "u", "b"}; see `lstm`.

    Its state starts at zero, and only y is passed to the next layer.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        reverse: whether the steps are read from the last to the first.
        use_bias: whether params has biases.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`, for each gate.
        u_init: the same for u.
        b_init: the same for b.

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.LSTM(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (12,), 'u': (3, 12), 'w': (4, 12)}
    """

    op = lstm
    gates = 4
    n_states = 2


@dataclass(frozen=True, repr=False, init=False)
class Bidirectional(BuiltLayer):
    """Layer that reads a sequence in both directions: y (T, N, 2H), forward and then backward.

    It is `parallel(recurrent(…), recurrent(…, reverse=True), combine="concatenate")`, and its
    params are the tuple of those of the two.

    Args:
        recurrent: `jaxnn.RNN`, `jaxnn.GRU` or `jaxnn.LSTM`.
        *sizes: its numbers of inputs and hidden units.
        **options: its options other than `reverse`.

    Reference: M. Schuster and K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

    Example:
        >>> layer = jaxnn.Bidirectional(jaxnn.LSTM, 4, 3)
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((7, 5, 4))).shape
        (7, 5, 6)
    """

    recurrent: type[RecurrentLayer]
    sizes: tuple[int, ...]
    options: tuple[tuple, ...]

    def __init__(self, recurrent, *sizes, **options):
        object.__setattr__(self, "recurrent", recurrent)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "options", tuple(sorted(options.items())))
        _ = self.net  # bad sizes and options are rejected here

    @cached_property
    def net(self):
        """One layer forward and one backward, side by side."""
        forward, backward = (
            self.recurrent(*self.sizes, reverse=way, **dict(self.options)) for way in (False, True)
        )
        return parallel(forward, backward, combine="concatenate")

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options]
        shown = [self.recurrent.__name__, *map(repr, self.sizes), *options]
        return f"Bidirectional({', '.join(shown)})"


def _each_gate(initialise, key, shape, gates):
    """The matrices of all gates side by side; the scale of one does not depend on their number."""
    keys = jax.random.split(key, gates)
    return jnp.concatenate([initialise(k, shape) for k in keys], axis=-1)
