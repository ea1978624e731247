"""Layers of convolution."""

from collections.abc import Callable

import jax

from jaxnn.layer import Layer, op_layer
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.ops.convolution import Padding, conv, conv_transpose


def Conv(
    n_in: int,
    n_out: int,
    kernel: tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    w_init: Callable = lecun_normal,
    b_init: Callable = jax.nn.initializers.zeros,
    use_bias: bool = True,
) -> Layer:
    """Layer of a convolution with params {"w": (*kernel, n_in/groups, n_out), "b": (n_out,)}.

    Args:
        n_in: the number of channels I of x.
        n_out: the number of channels O of y.
        kernel: the size of the kernel along each axis: (w,) for sequences, (h, w) for images.
        stride: see `conv`, as the next three.
        padding: "SAME", "VALID" or a pair for each axis.
        dilation: the distance between the entries that neighbours in the kernel meet.
        groups: convolutions side by side; n_in of them make the depthwise convolution.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: without it params has no "b".

    Raises:
        ValueError: a size is not a positive integer, or groups do not divide n_in and n_out.

    Example:
        >>> layer = jaxnn.Conv(3, 16, (5, 5), stride=2)
        >>> params = layer.init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, params)
        {'b': (16,), 'w': (5, 5, 3, 16)}
        >>> layer.apply(params, jnp.zeros((8, 32, 32, 3))).shape
        (8, 16, 16, 16)
    """
    _check_sizes("Conv", kernel, n_in=n_in, n_out=n_out, groups=groups)
    if n_in % groups or n_out % groups:
        raise ValueError(
            f"Conv: groups is {groups}; it must divide n_in, {n_in}, and n_out, {n_out}"
        )
    op = conv.bind(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return op_layer(op, _init((*kernel, n_in // groups, n_out), w_init, b_init, use_bias))


def ConvTranspose(
    n_in: int,
    n_out: int,
    kernel: tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    w_init: Callable = lecun_normal,
    b_init: Callable = jax.nn.initializers.zeros,
    use_bias: bool = True,
) -> Layer:
    """Layer of a transposed convolution with params {"w": (*kernel, n_in, n_out), "b": (n_out,)}.

    Args:
        n_in: the number of channels I of x.
        n_out: the number of channels O of y.
        kernel: the size of the kernel along each axis: (w,) for sequences, (h, w) for images.
        stride: how much larger y is; see `conv_transpose`, as for the next two.
        padding: "SAME", "VALID" or a pair for each axis.
        dilation: the distance between the entries that neighbours in the kernel meet.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: without it params has no "b".

    Raises:
        ValueError: a size is not a positive integer.

    Example:
        >>> layer = jaxnn.ConvTranspose(16, 3, (4, 4), stride=2)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.zeros((8, 16, 16, 16))).shape
        (8, 32, 32, 3)
    """
    _check_sizes("ConvTranspose", kernel, n_in=n_in, n_out=n_out)
    op = conv_transpose.bind(stride=stride, padding=padding, dilation=dilation)
    return op_layer(op, _init((*kernel, n_in, n_out), w_init, b_init, use_bias))


def _init(w_shape, w_init, b_init, use_bias):
    def init(key):
        w_key, b_key = jax.random.split(key)
        params = {"w": w_init(w_key, w_shape)}
        if use_bias:
            params["b"] = b_init(b_key, w_shape[-1:])
        return params

    return init


def _check_sizes(layer, kernel, **sizes):
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{layer}: {name} must be a positive integer, got {size!r}")
    if not isinstance(kernel, tuple) or len(kernel) not in (1, 2):
        raise ValueError(
            f"{layer}: kernel must be (w,) for sequences or (h, w) for images, got {kernel!r}"
        )
    if any(type(size) is not int or size < 1 for size in kernel):
        raise ValueError(f"{layer}: kernel must hold positive integers, got {kernel!r}")
