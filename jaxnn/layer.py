"""Layers: parameters, a forward pass and a hand-written backward that compose."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax

from jaxnn.op import Op
from jaxnn.ops.activations import identity, relu
from jaxnn.ops.linear import linear

Params = Any
Residuals = Any


class Layer(NamedTuple):
    """Four pure functions of something that may have parameters.

        params        = init(key)
        y             = apply(params, x)                  inference: nothing is kept
        y, residuals  = fwd(params, x, key=None)          training: key feeds random layers
        dparams, dx   = bwd(residuals, dy)                dparams has the tree of params

    Parameters are a pytree: dicts of arrays and tuples of such dicts; a layer without parameters
    has the empty tuple. Whatever composes layers (`serial`) is a layer again.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    fwd: Callable[..., tuple[jax.Array, Residuals]]
    bwd: Callable[[Residuals, jax.Array], tuple[Params, jax.Array]]


class OpLayer(Layer):
    """A layer that is one op.

    Attributes:
        op: the op; its arguments are `(params, x)`, or `(x,)` where it has no parameters.
    """

    op: Op


class Serial(Layer):
    """Layers one after the other.

    Attributes:
        layers: the layers, first to last.
    """

    layers: tuple[Layer, ...]


def as_layer(layer: Layer | Op) -> Layer:
    """A layer itself, or an op of one argument as a layer without parameters.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(layer, Layer):
        return layer
    if not isinstance(layer, Op):
        hint = "; call it to make a layer" if callable(layer) else ""
        raise TypeError(f"expected a Layer or an op such as jaxnn.relu, got {layer!r}{hint}")
    if len(layer.arguments) != 1:
        raise TypeError(
            f"{layer.__name__} takes ({', '.join(layer.arguments)}); only an op of one argument "
            "can stand as a layer"
        )

    def fwd(params, x, key=None):
        return layer.fwd(x)

    def bwd(residuals, dy):
        (dx,) = layer.bwd(residuals, dy)
        return (), dx

    made = OpLayer(init=lambda key: (), apply=lambda params, x: layer(x), fwd=fwd, bwd=bwd)
    made.op = layer
    return made


def Linear(
    n_in: int,
    n_out: int,
    *,
    w_init: Callable = jax.nn.initializers.lecun_normal(),  # noqa: B008
    b_init: Callable = jax.nn.initializers.zeros,
    use_bias: bool = True,
) -> Layer:
    """Layer y = x·W + b with params {"w": (n_in, n_out), "b": (n_out,)}; see `linear`.

    Args:
        n_in: the number of inputs I.
        n_out: the number of outputs O.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: without it params has no "b".

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.Linear(4, 3)
        >>> jax.tree.map(jnp.shape, layer.init(jax.random.key(0)))
        {'b': (3,), 'w': (4, 3)}
    """
    for name, size in (("n_in", n_in), ("n_out", n_out)):
        if type(size) is not int or size < 1:
            raise ValueError(f"Linear: {name} must be a positive integer, got {size!r}")

    def init(key):
        w_key, b_key = jax.random.split(key)
        params = {"w": w_init(w_key, (n_in, n_out))}
        if use_bias:
            params["b"] = b_init(b_key, (n_out,))
        return params

    def fwd(params, x, key=None):
        return linear.fwd(params, x)

    made = OpLayer(init=init, apply=linear, fwd=fwd, bwd=linear.bwd)
    made.op = linear
    return made


def serial(*layers: Layer | Op) -> Serial:
    """Layers one after the other: y = fₙ(… f₂(f₁(x))), again a layer.

    Its params are the tuple of the layers' params. Its backward is the chain rule: it walks back
    through the layers, hands each one the gradient of its output and takes that of its input.

    Args:
        *layers: layers, or ops of one argument.

    Raises:
        TypeError: something is neither.
        ValueError: params has another number of entries than there are layers.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(4, 3), jaxnn.relu, jaxnn.Linear(3, 2))
        >>> params = net.init(jax.random.key(0))
        >>> net.apply(params, jnp.ones((5, 4))).shape
        (5, 2)
    """
    layers = tuple(as_layer(layer) for layer in layers)

    def init(key):
        keys = jax.random.split(key, max(len(layers), 1))
        return tuple(layer.init(k) for layer, k in zip(layers, keys, strict=False))

    def each(params):
        if not isinstance(params, tuple | list) or len(params) != len(layers):
            raise ValueError(
                f"serial: params must be a tuple with one entry for each of {len(layers)} layers, "
                f"got {jax.tree.structure(params)}"
            )
        return zip(layers, params, strict=True)

    def apply(params, x):
        for layer, layer_params in each(params):
            x = layer.apply(layer_params, x)
        return x

    def fwd(params, x, key=None):
        residuals = []
        for i, (layer, layer_params) in enumerate(each(params)):
            layer_key = None if key is None else jax.random.fold_in(key, i)
            x, kept = layer.fwd(layer_params, x, layer_key)
            residuals.append(kept)
        return x, tuple(residuals)

    def bwd(residuals, dy):
        dparams = []
        for layer, kept in zip(reversed(layers), reversed(residuals), strict=True):
            dlayer, dy = layer.bwd(kept, dy)
            dparams.append(dlayer)
        return tuple(reversed(dparams)), dy

    made = Serial(init, apply, fwd, bwd)
    made.layers = layers
    return made


def mlp(
    sizes: Sequence[int],
    activation: Layer | Op = relu,
    output: Layer | Op = identity,
) -> Serial:
    """Multilayer perceptron: Linear → activation → … → Linear → output.

    Args:
        sizes: the numbers of units (inputs, hidden …, outputs), at least two.
        activation: what follows each linear layer but the last.
        output: what follows the last one.

    Raises:
        ValueError: there are fewer than two sizes, or one is not a positive integer.

    Example:
        >>> net = jaxnn.mlp((64, 128, 10))
        >>> sum(p.size for p in jax.tree.leaves(net.init(jax.random.key(0))))
        9610
    """
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes must hold inputs and outputs, got {tuple(sizes)}")
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [Linear(n_in, n_out), activation]
    return serial(*layers[:-1], output)
