"""Multi-head attention, and the block that transformers are made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.combinators import residual, serial
from jaxnn.layer import Layer, as_layer
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


def MultiHeadAttention(
    dim: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    use_bias: bool = True,
    w_init: Callable = lecun_normal,
    b_init: Callable = jax.nn.initializers.zeros,
) -> Layer:
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
        use_bias: without it the linear layers have no "b".
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
    name = "MultiHeadAttention"
    kv_heads = heads if kv_heads is None else kv_heads
    for what, size in (("dim", dim), ("heads", heads), ("kv_heads", kv_heads)):
        if type(size) is not int or size < 1:
            raise ValueError(f"{name}: {what} must be a positive integer, got {size!r}")
    if dim % heads:
        raise ValueError(f"{name}: {heads} heads do not divide dim {dim}")
    if heads % kv_heads:
        raise ValueError(f"{name}: {kv_heads} kv_heads do not divide {heads} heads")
    size = dim // heads
    if rotary and size % 2:
        raise ValueError(
            f"{name}: rotary turns pairs of components, so the size of a head, dim/heads = {size}, "
            "must be even"
        )
    attend = attention.bind(causal=causal)
    widths = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * size}
    turned = ("q", "k") if rotary else ()

    def init(key):
        options = {"w_init": w_init, "b_init": b_init, "use_bias": use_bias}
        layers = {n: Linear(dim, width, **options) for n, width in widths.items()}
        layers["o"] = Linear(dim, dim, **options)
        keys = jax.random.split(key, len(layers))
        return {n: layer.init(k) for (n, layer), k in zip(layers.items(), keys, strict=True)}

    def checked(params, x):
        require_keys(name, params, [*widths, "o"])
        if x.ndim != 3 or x.shape[-1] != dim:
            raise ValueError(f"{name}: x has shape {x.shape}; it must be (B, T, {dim})")

    def in_heads(a):
        return a.reshape(*a.shape[:2], a.shape[-1] // size, size)

    def apply(params, x):
        checked(params, x)
        parts = {n: in_heads(linear(params[n], x)) for n in widths}
        parts |= {n: rotary_embedding(parts[n]) for n in turned}
        return linear(params["o"], attend(**parts).reshape(x.shape))

    def fwd(params, x, key=None):
        checked(params, x)
        parts, kept = {}, {}
        for n in widths:
            flat, kept[n] = linear.fwd(params[n], x)
            parts[n] = in_heads(flat)
        turns = {}
        for n in turned:
            parts[n], turns[n] = rotary_embedding.fwd(parts[n])
        a, of_attention = attend.fwd(**parts)
        y, kept["o"] = linear.fwd(params["o"], a.reshape(x.shape))
        return y, (kept, turns, of_attention)

    def bwd(residuals, dy):
        kept, turns, of_attention = residuals
        dparams = {}
        dparams["o"], da = linear.bwd(kept["o"], dy)
        dparts = dict(zip(widths, attend.bwd(of_attention, in_heads(da))[:3], strict=True))
        for n in turned:
            dparts[n], _ = rotary_embedding.bwd(turns[n], dparts[n])
        dxs = []
        for n, width in widths.items():
            dparams[n], dx = linear.bwd(kept[n], dparts[n].reshape(*dy.shape[:2], width))
            dxs.append(dx)
        return dparams, sum(dxs)

    return Layer(init, apply, fwd, bwd)


def TransformerBlock(
    dim: int,
    heads: int,
    *,
    hidden: int | None = None,
    kv_heads: int | None = None,
    causal: bool = False,
    rotary: bool = False,
    use_bias: bool = True,
    norm: Callable[[int], Layer] = LayerNorm,
    activation: Layer | Op = gelu,
    dropout: float = 0.0,
) -> Layer:
    """Attention, then a small network at each position, both normalised and with a path around.

        x = x + dropout(attention(norm(x)))
        y = x + dropout(Linear(activation(Linear(norm(x)))))

    It is `serial` of two `residual`s, and so are its params.

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
        dropout: the share that is left out in training, which then needs a key.

    Raises:
        TypeError: the activation is neither a layer nor an op, or dropout is not a number.
        ValueError: a size or dropout is out of range.

    Source: R. Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020,
    figure 1b; N. Shazeer, "GLU Variants Improve Transformer", 2020, for gated activations.

    Example:
        >>> block = jaxnn.TransformerBlock(8, 4, causal=True, activation=jaxnn.swiglu)
        >>> block.apply(block.init(jax.random.key(0)), jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """
    hidden = 4 * dim if hidden is None else hidden
    activation = as_layer(activation)
    dropped = [Dropout(dropout)] if dropout else []
    attend = MultiHeadAttention(
        dim, heads, kv_heads=kv_heads, causal=causal, rotary=rotary, use_bias=use_bias
    )
    network = (
        Linear(dim, 2 * hidden if _halves(activation) else hidden, use_bias=use_bias),
        activation,
        Linear(hidden, dim, use_bias=use_bias),
    )
    return serial(
        residual(serial(norm(dim), attend, *dropped)),
        residual(serial(norm(dim), *network, *dropped)),
    )


def _halves(layer: Layer) -> bool:
    """Whether a layer makes one component of two."""

    def four_components():
        return layer.apply(layer.init(jax.random.key(0)), jnp.zeros(4))

    return jax.eval_shape(four_components).shape == (2,)
