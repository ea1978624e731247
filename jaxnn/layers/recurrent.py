"""Recurrent layers, each reading (T, N, I) and giving the hidden states (T, N, H)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.combinators import parallel
from jaxnn.layer import Layer
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.op import Op
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn


def RNN(
    n_in: int,
    n_hidden: int,
    *,
    reverse: bool = False,
    w_init: Callable = lecun_normal,
    u_init: Callable = jax.nn.initializers.orthogonal(),  # noqa: B008
    b_init: Callable = jax.nn.initializers.zeros,
) -> Layer:
    """Layer of a simple recurrent network with params {"w", "u", "b"}; see `rnn`.

    Its state starts from zero, and only y goes on to the next layer; `rnn` has the rest.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        reverse: whether the steps are read from the last to the first.
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
    return _recurrent("RNN", rnn, n_in, n_hidden, 1, reverse, w_init, u_init, b_init)


def GRU(
    n_in: int,
    n_hidden: int,
    *,
    reverse: bool = False,
    w_init: Callable = lecun_normal,
    u_init: Callable = jax.nn.initializers.orthogonal(),  # noqa: B008
    b_init: Callable = jax.nn.initializers.zeros,
) -> Layer:
    """Layer of gated recurrent units with params {"w", "u", "b", "b_u"}; see `gru`.

    Its state starts from zero, and only y goes on to the next layer; `gru` has the rest.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        reverse: whether the steps are read from the last to the first.
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
    return _recurrent("GRU", gru, n_in, n_hidden, 3, reverse, w_init, u_init, b_init)


def LSTM(
    n_in: int,
    n_hidden: int,
    *,
    reverse: bool = False,
    w_init: Callable = lecun_normal,
    u_init: Callable = jax.nn.initializers.orthogonal(),  # noqa: B008
    b_init: Callable = jax.nn.initializers.zeros,
) -> Layer:
    """Layer of long short-term memory with params {"w", "u", "b"}; see `lstm`.

    Its state starts from zero, and only y goes on to the next layer; `lstm` has the rest.

    Args:
        n_in: the number of inputs I.
        n_hidden: the number of hidden units H.
        reverse: whether the steps are read from the last to the first.
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
    return _recurrent("LSTM", lstm, n_in, n_hidden, 4, reverse, w_init, u_init, b_init)


def Bidirectional(recurrent: Callable[..., Layer], *sizes: int, **options) -> Layer:
    """Layer that reads a sequence in both directions: y (T, N, 2H), forward and then backward.

    It is `parallel(recurrent(…), recurrent(…, reverse=True), combine="concatenate")`, and its
    params are the tuple of those of the two.

    Args:
        recurrent: `jaxnn.RNN`, `jaxnn.GRU` or `jaxnn.LSTM`.
        *sizes: what it takes, the numbers of inputs and hidden units.
        **options: its options but for `reverse_sequences`.

    Source: M. Schuster and K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997.

    Example:
        >>> layer = jaxnn.Bidirectional(jaxnn.LSTM, 4, 3)
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((7, 5, 4))).shape
        (7, 5, 6)
    """
    forward, backward = (recurrent(*sizes, reverse=way, **options) for way in (False, True))
    return parallel(forward, backward, combine="concatenate")


def _recurrent(name, op: Op, n_in, n_hidden, gates, backwards, w_init, u_init, b_init) -> Layer:
    """The layer of an op `(params, x) -> (y, state)` from which only y goes on."""
    for size_name, size in (("n_in", n_in), ("n_hidden", n_hidden)):
        if type(size) is not int or size < 1:
            raise ValueError(f"{name}: {size_name} must be a positive integer, got {size!r}")

    def directed(sequences):
        return reverse_sequences(sequences) if backwards else sequences

    def init(key):
        w_key, u_key, b_key, b_u_key = jax.random.split(key, 4)
        params = {
            "w": _each_gate(w_init, w_key, (n_in, n_hidden), gates),
            "u": _each_gate(u_init, u_key, (n_hidden, n_hidden), gates),
            "b": b_init(b_key, (gates * n_hidden,)),
        }
        if op == gru:
            params["b_u"] = b_init(b_u_key, (n_hidden,))
        return params

    def apply(params, x):
        return directed(op(params, directed(x))[0])

    def fwd(params, x, key=None):
        (y, _), residuals = op.fwd(params, directed(x))
        return directed(y), residuals

    def bwd(residuals, dy):
        no_state = jnp.zeros(dy.shape[1:], dy.dtype)
        dfinal = (no_state, no_state) if op == lstm else no_state
        dparams, dx, _, _ = op.bwd(residuals, (directed(dy), dfinal))
        return dparams, directed(dx)

    return Layer(init, apply, fwd, bwd)


def _each_gate(initialise, key, shape, gates):
    """Each gate's own matrix, side by side: its spread must not depend on how many there are."""
    keys = jax.random.split(key, gates)
    return jnp.concatenate([initialise(k, shape) for k in keys], axis=-1)
