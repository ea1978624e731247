"""Multi-head attention, and the transformer block."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.combinators import Serial, each, parallel, pick, residual, serial
from jaxnn.layer import BuiltLayer, Layer, as_layer, require_sizes
from jaxnn.layers.dropout import Dropout
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.layers.linear import Linear
from jaxnn.layers.normalisation import LayerNorm
from jaxnn.op import Op
from jaxnn.ops._common.validation import require_keys
from jaxnn.ops.activations.smooth import gelu
from jaxnn.ops.attention import attention
from jaxnn.ops.linear import linear
from jaxnn.ops.rotary import rotary_embedding
from jaxnn.padded import Padded, values_of, with_values, zero_padding


class MultiHeadAttentionResiduals(NamedTuple):
    """The residuals of each linear layer, of each rotary embedding and of the attention.

    The padding of the queries and the keys has no gradient; `valid` is false there.
    """

    linear: dict
    rotary: dict
    attention: NamedTuple
    valid: tuple


class Inputs(NamedTuple):
    """The parts of the input of an attention layer.

    Attributes:
        queries: the input of the queries.
        context: the input of the keys and values; `None` for self-attention.
        q_lengths: optional, the lengths of the queries.
        kv_lengths: optional, the lengths of the keys.
        mask: optional, true for the keys that each query sees.
    """

    queries: jax.Array
    context: jax.Array | None
    q_lengths: jax.Array | None
    kv_lengths: jax.Array | None
    mask: jax.Array | None


class Cache(NamedTuple):
    """The keys and values of the positions so far, and their number."""

    k: jax.Array
    v: jax.Array
    n: jax.Array


@dataclass(frozen=True, repr=False)
class MultiHeadAttention(Layer):
    """Attention of several heads, from (B, T, dim) to the same; see `attention`.

    Its params are those of four linear layers: {"q", "k", "v", "o"}, each {"w", "b"}. With D the
    size of a head, dim/heads:
        q = x·W_q + b_q, likewise k and v          (B, T, heads·D), k and v (B, T, kv_heads·D)
        a = attention(q, k, v)                     each head on its own D components
        y = a·W_o + b_o

    The input may be
        x                         self-attention
        Padded(x, lengths, mask)  self-attention in which padding and masked keys are not seen
        (x, context)              cross-attention: keys and values are made of the context, (B, S,
                                  context_dim). Each of the two may be `Padded`; a mask is that of
                                  the context.

    Backward, by the chain rule, the last step first; x goes into three products, so
        dx = dx_q + dx_k + dx_v
    and in cross-attention dx = dx_q, dcontext = dx_k + dx_v.

    Args:
        dim: the number of components of x and y.
        heads: the number of heads.
        kv_heads: the number of key/value heads, by default the same.
        context_dim: the number of components of the context, by default dim.
        causal: whether a position sees only itself and those before.
        window: the number of positions before and after itself that a position sees; see
            `attention`.
        softcap: a bound on the scores; see `attention`.
        rotary: whether queries and keys are turned by their position; see `rotary_embedding`.
        use_bias: whether the linear layers have a "b".
        w_init: `(key, shape) -> w` for the four weights, one of `jax.nn.initializers`.
        b_init: the same for the biases.

    Raises:
        TypeError: causal is not a boolean.
        ValueError: a size is not a positive integer, heads does not divide dim, kv_heads does not
            divide heads, or with `rotary` the size of a head is odd; later, x is not (B, T, dim).

    Example:
        >>> layer = jaxnn.MultiHeadAttention(8, 4, kv_heads=2, causal=True)
        >>> params = layer.init(jax.random.key(0))
        >>> params["k"]["w"].shape
        (8, 4)
        >>> layer.apply(params, jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    dim: int
    heads: int
    kv_heads: int | None = field(default=None, kw_only=True)
    context_dim: int | None = field(default=None, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    window: int | tuple[int | None, int | None] | None = field(default=None, kw_only=True)
    softcap: float | None = field(default=None, kw_only=True)
    rotary: bool = field(default=False, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)

    def __post_init__(self):
        name = "MultiHeadAttention"
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        context_dim = self.dim if self.context_dim is None else self.context_dim
        require_sizes(
            name, dim=self.dim, heads=self.heads, kv_heads=kv_heads, context_dim=context_dim
        )
        if self.dim % self.heads:
            raise ValueError(f"{name}: {self.heads} heads do not divide dim {self.dim}")
        if self.heads % kv_heads:
            raise ValueError(f"{name}: {kv_heads} kv_heads do not divide {self.heads} heads")
        if self.rotary and self.head_size % 2:
            raise ValueError(
                f"{name}: rotary turns pairs of components, so the size of a head, dim/heads = "
                f"{self.head_size}, must be even"
            )

    @property
    def head_size(self) -> int:
        """The number of components of a head."""
        return self.dim // self.heads

    @property
    def widths(self) -> dict[str, int]:
        """The outputs of the linear layers of queries, keys and values."""
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        of_keys = kv_heads * self.head_size
        return {"q": self.dim, "k": of_keys, "v": of_keys}

    def init(self, key):
        """Four linear layers."""
        options = {"w_init": self.w_init, "b_init": self.b_init, "use_bias": self.use_bias}
        context_dim = self.dim if self.context_dim is None else self.context_dim
        inputs = {"q": self.dim, "k": context_dim, "v": context_dim}
        layers = {n: Linear(inputs[n], width, **options) for n, width in self.widths.items()}
        layers["o"] = Linear(self.dim, self.dim, **options)
        keys = jax.random.split(key, len(layers))
        return {n: layer.init(k) for (n, layer), k in zip(layers.items(), keys, strict=True)}

    def apply(self, params, x, state=None):
        """The linear layers, the attention, and the last linear layer."""
        inputs = self._inputs(params, x)
        parts = {
            n: self._in_heads(linear(params[n], source)) for n, source in self._sources(inputs)
        }
        if self.rotary:
            parts |= {n: rotary_embedding(parts[n]) for n in ("q", "k")}
        a = attention(**parts, **self._seen(inputs))
        return _with_values(x, linear(params["o"], a.reshape(inputs.queries.shape)))

    def fwd(self, params, x, key=None):
        """The same, with the residuals of each step."""
        inputs = self._inputs(params, x)
        parts, saved, turned = {}, {}, {}
        for n, source in self._sources(inputs):
            flat, saved[n] = linear.fwd(params[n], source)
            parts[n] = self._in_heads(flat)
        for n in ("q", "k") if self.rotary else ():
            parts[n], turned[n] = rotary_embedding.fwd(parts[n])
        a, of_attention = attention.fwd(**parts, **self._seen(inputs))
        y, saved["o"] = linear.fwd(params["o"], a.reshape(inputs.queries.shape))
        valid = tuple(map(_valid, x if _is_pair(x) else (x,)))
        return _with_values(x, y), MultiHeadAttentionResiduals(saved, turned, of_attention, valid)

    def bwd_input(self, residuals, dy):
        """The steps in reverse; x goes into three products, so dx is the sum of three."""
        saved, turned, of_attention, valid = residuals
        deltas = {}
        deltas["o"], da = linear.bwd_input(saved["o"], dy)
        dparts = dict(zip("qkv", attention.bwd(of_attention, self._in_heads(da))[:3], strict=True))
        for n, residuals_of_rotary in turned.items():
            dparts[n], *_ = rotary_embedding.bwd(residuals_of_rotary, dparts[n])
        dxs = {}
        for n in self.widths:
            flat = dparts[n].reshape(*dparts[n].shape[:2], self.widths[n])
            deltas[n], dxs[n] = linear.bwd_input(saved[n], flat)
        if len(valid) == 2:
            dx = _where(valid[0], dxs["q"]), _where(valid[1], dxs["k"] + dxs["v"])
            return deltas, dx
        return deltas, _where(valid[0], dxs["q"] + dxs["k"] + dxs["v"])

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of the four linear layers."""
        each = weights if isinstance(weights, dict) else dict.fromkeys(deltas, weights)
        return {
            n: linear.bwd_params(residuals.linear[n], delta, each[n], axis)
            for n, delta in deltas.items()
        }

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of the four linear layers, example by example."""
        return {
            n: linear.bwd_examples(residuals.linear[n], delta, axis) for n, delta in deltas.items()
        }

    def init_cache(self, batch, length, dtype=jnp.float32):
        """Room for the keys and values of all positions."""
        kv_heads = self.widths["k"] // self.head_size
        room = jnp.zeros((batch, length, kv_heads, self.head_size), dtype)
        return Cache(room, room, jnp.zeros((), jnp.int32))

    def extend(self, params, x, cache):
        """The output for the next positions, which see themselves and all before them.

        In cross-attention the context is passed every time, and nothing is cached.
        """
        if _is_pair(x):
            return self.apply(params, x), cache
        self._require_extendable(x)
        n_new = x.shape[1]
        positions = cache.n + jnp.arange(n_new, dtype=jnp.int32)
        parts = {n: self._in_heads(linear(params[n], x)) for n in self.widths}
        if self.rotary:
            parts |= {n: rotary_embedding(parts[n], positions) for n in ("q", "k")}
        k, v = (
            jax.lax.dynamic_update_slice_in_dim(old, parts[n].astype(old.dtype), cache.n, axis=1)
            for n, old in (("k", cache.k), ("v", cache.v))
        )
        filled = jnp.broadcast_to(cache.n + n_new, x.shape[:1])
        start = jnp.broadcast_to(cache.n, x.shape[:1])
        seen = {"kv_lengths": filled, "q_start": start, **self._options}
        a = attention(parts["q"], k.astype(x.dtype), v.astype(x.dtype), **seen)
        return linear(params["o"], a.reshape(x.shape)), Cache(k, v, cache.n + n_new)

    @property
    def _options(self) -> dict:
        """The options of the attention."""
        return {"causal": self.causal, "window": self.window, "softcap": self.softcap}

    def _seen(self, inputs: Inputs) -> dict:
        """The arguments that determine which keys a query sees."""
        given = {"mask": inputs.mask, "q_lengths": inputs.q_lengths}
        return given | {"kv_lengths": inputs.kv_lengths, **self._options}

    def _sources(self, inputs: Inputs):
        """The inputs of the queries, keys and values."""
        context = inputs.queries if inputs.context is None else inputs.context
        return (("q", inputs.queries), ("k", context), ("v", context))

    def _inputs(self, params, x) -> Inputs:
        name = "MultiHeadAttention"
        try:
            require_keys(params, ["q", "k", "v", "o"])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        x, context = x if _is_pair(x) else (x, None)
        queries = zero_padding(x)
        keys = queries if context is None else zero_padding(context)
        for what, given, dim in (("x", queries, self.dim), ("the context", keys, self.context_dim)):
            if not isinstance(values_of(given), jax.Array):
                kind = type(values_of(given)).__name__
                raise TypeError(f"{name}: {what} must be an array (B, T, {dim}), got a {kind}")
            shape, dim = values_of(given).shape, self.dim if dim is None else dim
            if len(shape) != 3 or shape[-1] != dim:
                raise ValueError(f"{name}: {what} has shape {shape}; it must be (B, T, {dim})")
        return Inputs(
            queries=values_of(queries),
            context=None if context is None else values_of(keys),
            q_lengths=getattr(queries, "lengths", None),
            kv_lengths=getattr(keys, "lengths", None),
            mask=getattr(keys, "mask", None),
        )

    def _require_extendable(self, x) -> None:
        if isinstance(x, Padded):
            raise TypeError(
                "MultiHeadAttention: extend takes the next positions as an array in which all "
                "sequences have one length, not as Padded"
            )
        if not self.causal:
            raise ValueError(
                "MultiHeadAttention: without causal=True every position sees the later ones, so it "
                "cannot be extended position by position"
            )

    def _in_heads(self, a):
        return a.reshape(*a.shape[:2], a.shape[-1] // self.head_size, self.head_size)


def _is_pair(x) -> bool:
    """Whether x is a pair of an input and its context."""
    return type(x) is tuple and len(x) == 2


def _with_values(x, y):
    """y with the lengths of the input, without its mask if that belongs to the context."""
    return with_values(x[0] if _is_pair(x) else x, y)


def _valid(x):
    """True where an input is not padding; `None` if there is no padding."""
    return x.valid[..., None] if isinstance(x, Padded) and x.lengths is not None else None


def _where(valid, dx):
    """The gradient, with 0 in the padding."""
    return dx if valid is None else jnp.where(valid, dx, 0)


@dataclass(frozen=True, repr=False)
class TransformerBlock(BuiltLayer):
    """Self-attention, then an MLP at each position, each normalised and with a residual path.

        x = x + dropout(attention(norm(x)))
        y = x + dropout(Linear(activation(Linear(norm(x)))))

    It is built as `serial` of two `residual`s, and its params are theirs. Its input may be
    `Padded`.

    With `cross`, it is the block of a decoder, from (x, context) to (y, context), with another
    attention in between, to the context:
        x = x + dropout(attention(norm(x), context))
    so that several blocks may follow each other.

    Args:
        dim: the number of components of x and y, (B, T, dim).
        heads: the number of heads.
        hidden: the number of hidden units, by default 4·dim.
        cross: whether there is a context.
        kv_heads, causal, window, softcap, rotary: as in `MultiHeadAttention`; attention to the
            context is neither causal nor rotary, and has no window.
        use_bias: whether the linear layers have a "b".
        norm: `(dim) -> layer`, such as `LayerNorm` or `RMSNorm`.
        activation: the activation of the hidden units; one that halves its input, such as `swiglu`,
            gets twice as many.
        dropout: the fraction that training drops, which then needs a key.

    Raises:
        TypeError: the activation is neither a layer nor an op, or dropout is not a number.
        ValueError: a size or dropout is out of range.

    Reference: R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
    figure 1b; N. Shazeer, "GLU Variants Improve Transformer", 2020, for gated activations; A.
    Vaswani et al., "Attention Is All You Need", 2017, figure 1, for the decoder.

    Example:
        >>> block = jaxnn.TransformerBlock(8, 4, causal=True, activation=jaxnn.swiglu)
        >>> block.apply(block.init(jax.random.key(0)), jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    dim: int
    heads: int
    hidden: int | None = field(default=None, kw_only=True)
    cross: bool = field(default=False, kw_only=True)
    kv_heads: int | None = field(default=None, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    window: int | tuple[int | None, int | None] | None = field(default=None, kw_only=True)
    softcap: float | None = field(default=None, kw_only=True)
    rotary: bool = field(default=False, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)
    norm: Callable[[int], Layer] = field(default=LayerNorm, kw_only=True)
    activation: Layer | Op = field(default=gelu, kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        sizes = {
            "dim": self.dim,
            "heads": self.heads,
            "hidden": 1 if self.hidden is None else self.hidden,
        }
        require_sizes("TransformerBlock", **sizes)
        _ = self.net  # other bad options are rejected here

    @cached_property
    def net(self) -> Serial:
        """The residual branches."""
        hidden = 4 * self.dim if self.hidden is None else self.hidden
        activation = as_layer(self.activation)
        dropout = Dropout(self.dropout)  # it checks the rate
        dropped = [dropout] if self.dropout else []
        options: dict[str, Any] = {
            "kv_heads": self.kv_heads,
            "softcap": self.softcap,
            "use_bias": self.use_bias,
        }
        attend = MultiHeadAttention(
            self.dim,
            self.heads,
            causal=self.causal,
            window=self.window,
            rotary=self.rotary,
            **options,
        )
        width = 2 * hidden if _halves(activation) else hidden
        network = (
            Linear(self.dim, width, use_bias=self.use_bias),
            activation,
            Linear(hidden, self.dim, use_bias=self.use_bias),
        )
        itself = residual(serial(self.norm(self.dim), attend, *dropped))
        each_position = residual(serial(self.norm(self.dim), *network, *dropped))
        if not self.cross:
            return serial(itself, each_position)
        to_context = serial(
            each(self.norm(self.dim), serial()),
            MultiHeadAttention(self.dim, self.heads, **options),
            *dropped,
        )
        with_context = parallel(pick(0), to_context)
        return serial(
            each(itself, serial()),
            parallel(with_context, pick(1), combine=None),
            each(each_position, serial()),
        )


def _halves(layer: Layer) -> bool:
    """Whether a layer makes one component out of two."""

    def four_components():
        return layer.apply(layer.init(jax.random.key(0)), jnp.zeros(4))

    return jax.eval_shape(four_components).shape == (2,)
