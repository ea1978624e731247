"""Multi-head attention, and the block that transformers are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.combinators import Serial, residual, serial
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


class MultiHeadAttentionResiduals(NamedTuple):
    """The residuals of each linear layer, of each rotary embedding and of the attention."""

    linear: dict
    rotary: dict
    attention: NamedTuple


@dataclass(frozen=True, repr=False)
class MultiHeadAttention(Layer):
    """Self-attention of several heads, from (B, T, dim) to the same; see `attention`.

    Its params are those of four linear layers: {"q", "k", "v", "o"}, each {"w", "b"}. With D the
    size of a head, dim/heads:
        q = x·W_q + b_q, likewise k and v          (B, T, heads·D), k and v (B, T, kv_heads·D)
        a = attention(q, k, v)                     each head on its own D components
        y = a·W_o + b_o

    Backward, by the chain rule, the last step first; x goes into three products, so
        dx = dx_q + dx_k + dx_v

    Args:
        dim: the number of components of x and y.
        heads: the number of heads.
        kv_heads: the number of key/value heads, by default the same.
        causal: whether a position sees only itself and those before.
        rotary: whether queries and keys are turned by their position; see `rotary_embedding`.
        use_bias: whether the linear layers have a "b".
        w_init: of the four weights, one of `jax.nn.initializers`.
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
    causal: bool = field(default=False, kw_only=True)
    rotary: bool = field(default=False, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)

    def __post_init__(self):
        name = "MultiHeadAttention"
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        require_sizes(name, dim=self.dim, heads=self.heads, kv_heads=kv_heads)
        if not isinstance(self.causal, bool):
            raise TypeError(f"{name}: causal must be True or False, got {self.causal!r}")
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
        layers = {n: Linear(self.dim, width, **options) for n, width in self.widths.items()}
        layers["o"] = Linear(self.dim, self.dim, **options)
        keys = jax.random.split(key, len(layers))
        return {n: layer.init(k) for (n, layer), k in zip(layers.items(), keys, strict=True)}

    def apply(self, params, x, state=None):
        """The linear layers, the attention, and the last linear layer."""
        self._require(params, x)
        parts = {n: self._in_heads(linear(params[n], x)) for n in self.widths}
        if self.rotary:
            parts |= {n: rotary_embedding(parts[n]) for n in ("q", "k")}
        a = attention(**parts, causal=self.causal)
        return linear(params["o"], a.reshape(x.shape))

    def fwd(self, params, x, key=None):
        """The same, with the residuals of each step."""
        self._require(params, x)
        parts, saved, turned = {}, {}, {}
        for n in self.widths:
            flat, saved[n] = linear.fwd(params[n], x)
            parts[n] = self._in_heads(flat)
        for n in ("q", "k") if self.rotary else ():
            parts[n], turned[n] = rotary_embedding.fwd(parts[n])
        a, of_attention = attention.fwd(**parts, causal=self.causal)
        y, saved["o"] = linear.fwd(params["o"], a.reshape(x.shape))
        return y, MultiHeadAttentionResiduals(saved, turned, of_attention)

    def bwd_input(self, residuals, dy):
        """The steps in reverse; x goes into three products, so dx is the sum of three."""
        saved, turned, of_attention = residuals
        deltas = {}
        deltas["o"], da = linear.bwd_input(saved["o"], dy)
        dparts = dict(zip("qkv", attention.bwd(of_attention, self._in_heads(da))[:3], strict=True))
        for n, residuals_of_rotary in turned.items():
            dparts[n], _ = rotary_embedding.bwd(residuals_of_rotary, dparts[n])
        dxs = []
        for n, width in self.widths.items():
            flat = dparts[n].reshape(*dy.shape[:2], width)
            deltas[n], dx = linear.bwd_input(saved[n], flat)
            dxs.append(dx)
        return deltas, sum(dxs[1:], dxs[0])

    def bwd_params(self, residuals, deltas):
        """The gradients of the four linear layers."""
        return {n: linear.bwd_params(residuals.linear[n], delta) for n, delta in deltas.items()}

    def _require(self, params, x):
        name = "MultiHeadAttention"
        try:
            require_keys(params, ["q", "k", "v", "o"])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"{name}: x has shape {x.shape}; it must be (B, T, {self.dim})")

    def _in_heads(self, a):
        return a.reshape(*a.shape[:2], a.shape[-1] // self.head_size, self.head_size)


@dataclass(frozen=True, repr=False)
class TransformerBlock(BuiltLayer):
    """Self-attention, then an MLP at each position, each normalised and with a residual path.

        x = x + dropout(attention(norm(x)))
        y = x + dropout(Linear(activation(Linear(norm(x)))))

    It is built as `serial` of two `residual`s, and its params are theirs.

    Args:
        dim: the number of components of x and y, (B, T, dim).
        heads: the number of heads.
        hidden: the number of hidden units, by default 4·dim.
        kv_heads: as of `MultiHeadAttention`.
        causal: as of `MultiHeadAttention`.
        rotary: as of `MultiHeadAttention`.
        use_bias: of all the linear layers.
        norm: `(dim) -> layer`, such as `LayerNorm` or `RMSNorm`.
        activation: of the hidden units; one that halves its input, as `swiglu`, gets twice as many.
        dropout: the fraction that training drops, which then needs a key.

    Raises:
        TypeError: the activation is neither a layer nor an op, or dropout is not a number.
        ValueError: a size or dropout is out of range.

    Reference: R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
    figure 1b; N. Shazeer, "GLU Variants Improve Transformer", 2020, for gated activations.

    Example:
        >>> block = jaxnn.TransformerBlock(8, 4, causal=True, activation=jaxnn.swiglu)
        >>> block.apply(block.init(jax.random.key(0)), jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    dim: int
    heads: int
    hidden: int | None = field(default=None, kw_only=True)
    kv_heads: int | None = field(default=None, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    rotary: bool = field(default=False, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)
    norm: Callable[[int], Layer] = field(default=LayerNorm, kw_only=True)
    activation: Layer | Op = field(default=gelu, kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        _ = self.net  # bad sizes and options are refused here

    @cached_property
    def net(self) -> Serial:
        """The two residual branches."""
        hidden = 4 * self.dim if self.hidden is None else self.hidden
        activation = as_layer(self.activation)
        dropped = [Dropout(self.dropout)] if self.dropout else []
        attend = MultiHeadAttention(
            self.dim,
            self.heads,
            kv_heads=self.kv_heads,
            causal=self.causal,
            rotary=self.rotary,
            use_bias=self.use_bias,
        )
        width = 2 * hidden if _halves(activation) else hidden
        network = (
            Linear(self.dim, width, use_bias=self.use_bias),
            activation,
            Linear(hidden, self.dim, use_bias=self.use_bias),
        )
        return serial(
            residual(serial(self.norm(self.dim), attend, *dropped)),
            residual(serial(self.norm(self.dim), *network, *dropped)),
        )


def _halves(layer: Layer) -> bool:
    """Whether a layer makes one component of two."""

    def four_components():
        return layer.apply(layer.init(jax.random.key(0)), jnp.zeros(4))

    return jax.eval_shape(four_components).shape == (2,)
