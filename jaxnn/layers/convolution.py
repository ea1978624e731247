"""Layers of convolution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax

from jaxnn.layer import ParametricOpLayer, require_sizes
from jaxnn.layers.initialisation import lecun_normal
from jaxnn.ops.convolution import Padding, conv, conv_transpose


class ConvolutionLayer(ParametricOpLayer):
    """The base of the two layers, with params {"w": kernel, "b": one number for each output}."""

    n_in: int
    n_out: int
    kernel: Sequence[int]
    groups: int
    use_bias: bool
    w_init: Callable
    b_init: Callable

    def __post_init__(self):
        name = type(self).__name__
        for option, value in vars(self).items():  # a layer is hashable, and lists are not
            object.__setattr__(self, option, _as_tuple(value))
        require_sizes(name, n_in=self.n_in, n_out=self.n_out, groups=self.groups)
        _require_kernel(name, self.kernel)
        if self.n_in % self.groups or self.n_out % self.groups:
            raise ValueError(
                f"{name}: groups is {self.groups}; it must divide n_in, {self.n_in}, and n_out, "
                f"{self.n_out}"
            )

    @property
    def w_shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return (*self.kernel, self.n_in // self.groups, self.n_out)

    def init(self, key):
        """The kernel by `w_init` and the bias by `b_init`."""
        w_key, b_key = jax.random.split(key)
        params = {"w": self.w_init(w_key, self.w_shape)}
        if self.use_bias:
            params["b"] = self.b_init(b_key, self.w_shape[-1:])
        return params


@dataclass(frozen=True, repr=False)
class Conv(ConvolutionLayer):
    """Layer of a convolution with params {"w": (*kernel, n_in/groups, n_out), "b": (n_out,)}.

    Args:
        n_in: the number of channels I of x.
        n_out: the number of channels O of y.
        kernel: the size of the kernel along each axis: (w,) for sequences, (h, w) for images,
            (d, h, w) for volumes.
        stride: see `conv`, also for the next three.
        padding: "SAME", "SAME_LOWER", "VALID", "CAUSAL", an integer, or one of these or a pair for
            each axis.
        dilation: the distance in x between neighbouring entries of the kernel.
        groups: the number of independent convolutions; n_in of them make a depthwise convolution.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: whether params has a "b".

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

    n_in: int
    n_out: int
    kernel: Sequence[int]
    stride: int | Sequence[int] = field(default=1, kw_only=True)
    padding: Padding | list = field(default="SAME", kw_only=True)
    dilation: int | Sequence[int] = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    @cached_property
    def op(self):
        """`conv` with the layer's options."""
        return conv.bind(
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )


@dataclass(frozen=True, repr=False)
class ConvTranspose(ConvolutionLayer):
    """Layer of a transposed convolution.

    Its params are {"w": (*kernel, n_in/groups, n_out), "b": (n_out,)}.

    Args:
        n_in: the number of channels I of x.
        n_out: the number of channels O of y.
        kernel: the size of the kernel along each axis: (w,) for sequences, (h, w) for images,
            (d, h, w) for volumes.
        stride: the factor by which y is larger; see `conv_transpose`, also for the next four.
        padding: "SAME", "SAME_LOWER", "VALID", "CAUSAL", an integer, or one of these or a pair for
            each axis. Integers remove entries of y, as in PyTorch; pairs add zeros around x̃.
        dilation: the distance in y between neighbouring entries of the kernel.
        groups: the number of independent convolutions.
        output_padding: further entries at the end of y.
        w_init: `(key, shape) -> w`, one of `jax.nn.initializers`.
        b_init: the same for b.
        use_bias: whether params has a "b".

    Raises:
        ValueError: a size is not a positive integer, or groups do not divide n_in and n_out.

    Example:
        >>> layer = jaxnn.ConvTranspose(16, 3, (4, 4), stride=2)
        >>> params = layer.init(jax.random.key(0))
        >>> layer.apply(params, jnp.zeros((8, 16, 16, 16))).shape
        (8, 32, 32, 3)
    """

    n_in: int
    n_out: int
    kernel: Sequence[int]
    stride: int | Sequence[int] = field(default=1, kw_only=True)
    padding: Padding | list = field(default="SAME", kw_only=True)
    dilation: int | Sequence[int] = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    output_padding: int | Sequence[int] = field(default=0, kw_only=True)
    w_init: Callable = field(default=lecun_normal, kw_only=True)
    b_init: Callable = field(default=jax.nn.initializers.zeros, kw_only=True)
    use_bias: bool = field(default=True, kw_only=True)

    @cached_property
    def op(self):
        """`conv_transpose` with the layer's options."""
        return conv_transpose.bind(
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            output_padding=self.output_padding,
        )


def _as_tuple(value):
    """A list, and the lists in it, as tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _require_kernel(layer, kernel):
    if not isinstance(kernel, tuple) or len(kernel) not in (1, 2, 3):
        raise ValueError(
            f"{layer}: kernel must be (w,) for sequences, (h, w) for images or (d, h, w) for "
            f"volumes, got {kernel!r}"
        )
    if any(type(size) is not int or size < 1 for size in kernel):
        raise ValueError(f"{layer}: kernel must hold positive integers, got {kernel!r}")
