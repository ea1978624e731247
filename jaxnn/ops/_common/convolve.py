"""The three convolutions of which one is `conv`, and the others its gradients.

`conv_transpose` and its gradients are the same three in another order.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.ops._common.numerics import accumulator

WHOLE_BYTES = 2**23  # of x and dy together, up to which dW is summed over all images at once
PART_BYTES = 2**22  # of x and dy together, beyond that: what the caches of a CPU hold

Inputs = Float[Array, "N *x_space I"]
Outputs = Float[Array, "N *y_space O"]
Kernel = Float[Array, "*kernel I_of_group O"]


class Window(NamedTuple):
    """How the kernel meets x, with a number or pair for each axis in space.

    y[p] = Σₖ x[stride·p + dilation·k − before]·W[k]

    Attributes:
        stride: the distance from one window to the next.
        padding: (before, after), the zeros around x; a negative number takes entries away.
        dilation: the distance in x between neighbours in the kernel.
        groups: of channels that have nothing to do with each other.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


def channels_last(ndim: int) -> tuple[str, str, str]:
    """The axes of x, of the kernel and of y, in the words of `lax.conv_general_dilated`."""
    space = "HW"[-(ndim - 2) :]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def reaches(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """How many entries of x the kernel covers, along each axis."""
    return tuple(_spread(size, d) for size, d in zip(kernel, dilation, strict=True))


def convolve(x: Inputs, w: Kernel, window: Window) -> Outputs:
    """y[p] = Σₖ x[s·p + d·k − l]·W[k], in at least float32."""
    return _convolve(x, w, window)


def gradient_of_x(dy: Outputs, w: Kernel, window: Window, x_space: tuple[int, ...]) -> Inputs:
    """dx[q] = Σₖ dy[(q + l − d·k)/s]·W[k]ᵀ, in at least float32.

    dy, with s − 1 zeros between its entries, is convolved with the flipped kernel.

    Args:
        dy: the gradient of y.
        w: the kernel.
        window: that of the convolution.
        x_space: the sizes of x in space, some of which may have been left over.
    """
    along_axes = _along_axes(window, w.shape[:-2], x_space, dy.shape[1:-1])
    padding = tuple(
        (reach - 1 - before, size + before - spread) for reach, before, size, spread in along_axes
    )
    back = window._replace(stride=(1,) * len(x_space), padding=padding)
    return _convolve(dy, transposed(w, window.groups), back, spread=window.stride)


def transposed(w: Kernel, groups: int = 1) -> Float[Array, "*kernel O_of_group I"]:
    """The flipped kernel with the inputs and outputs of each group changed about."""
    *kernel, n_in, n_out = w.shape
    flipped = jnp.flip(w, axis=tuple(range(len(kernel))))
    by_group = flipped.reshape(*kernel, n_in, groups, n_out // groups)
    return jnp.swapaxes(by_group, -3, -1).reshape(*kernel, n_out // groups, groups * n_in)


def gradient_of_w(x: Inputs, dy: Outputs, window: Window, kernel: tuple[int, ...]) -> Kernel:
    """dW[k] = Σₙₚ x[n, s·p + d·k − l]ᵀ·dy[n, p], in at least float32.

    x is convolved with dy as the kernel: p and k, and so stride and dilation, change places.

    On a CPU a large batch is summed over a few images at a time: the whole does not fit the caches.
    A small one is not, because the parts of a loop do not run beside other work. And the sum goes
    over one group after the other: XLA can be a hundred times slower on all of them at once.

    Args:
        x: what was convolved.
        dy: the gradient of y.
        window: that of the convolution.
        kernel: the sizes of the kernel in space.
    """
    along_axes = _along_axes(window, kernel, x.shape[1:-1], dy.shape[1:-1])
    padding = tuple(
        (before, spread + reach - 1 - size - before) for reach, before, size, spread in along_axes
    )
    exchanged = window._replace(stride=window.dilation, padding=padding, dilation=window.stride)
    return _dw(x, dy, exchanged)


def _along_axes(window, kernel, x_space, y_space):
    """For each axis: the kernel's reach, the zeros before x, the size of x, how far y spreads."""
    before = (before for before, _ in window.padding)
    spread = map(_spread, y_space, window.stride)
    return zip(reaches(kernel, window.dilation), before, x_space, spread, strict=True)


@partial(jax.jit, static_argnums=2)
def _dw(x, dy, window):
    whole_bytes = (x.size + dy.size) * accumulator(x.dtype).itemsize
    at_once = partial(_dw_at_once, window=window)
    if window.groups == 1 and whole_bytes <= WHOLE_BYTES:
        return at_once(x, dy)
    at_most = max(1, x.shape[0] * PART_BYTES // max(1, whole_bytes))
    images = 1 << (at_most.bit_length() - 1)  # a power of two, for the sake of vector instructions
    by_parts = partial(_dw_by_parts, window=window, images=images)
    return lax.platform_dependent(x, dy, cpu=by_parts, default=at_once)


def _dw_at_once(x, dy, window):
    """The images are the channels that are summed over.

    The axes are moved here and not by naming them to the convolution: XLA's CPU compiler brings
    them in order by itself, but not in the body of a loop, where it then is many times slower.
    """
    x, dy = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2)
    return jnp.moveaxis(_convolve(x, dy, window, over_batch=True), 0, -2)


def _dw_by_parts(x, dy, window, images):
    """The sum over a few images at a time, of one group after the other."""
    groups, window = window.groups, window._replace(groups=1)

    def of_group(pair):
        return _dw_at_once(*pair, window)

    def part(x, dy):
        if groups == 1:
            return _dw_at_once(x, dy, window)
        split = [a.reshape(*a.shape[:-1], groups, -1) for a in (x, dy)]
        by_group = jnp.moveaxis(lax.map(of_group, [jnp.moveaxis(a, -2, 0) for a in split]), 0, -2)
        return by_group.reshape(*by_group.shape[:-2], -1)

    def add(dw, start):
        return dw + part(*(lax.dynamic_slice_in_dim(a, start, images) for a in (x, dy))), None

    if images >= x.shape[0]:
        return part(x, dy)
    whole = x.shape[0] - x.shape[0] % images
    return lax.scan(add, part(x[whole:], dy[whole:]), jnp.arange(0, whole, images))[0]


def _convolve(x, w, window, spread=None, over_batch=False):
    """XLA's convolution; its groups are of x's channels, or of its batch."""
    return lax.conv_general_dilated(
        x,
        w,
        window.stride,
        window.padding,
        lhs_dilation=spread,
        rhs_dilation=window.dilation,
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=1 if over_batch else window.groups,
        batch_group_count=window.groups if over_batch else 1,
        preferred_element_type=accumulator(x.dtype),
    )


def _spread(size, by):
    """The size of an axis with `by` − 1 zeros between its entries."""
    return (size - 1) * by + 1
