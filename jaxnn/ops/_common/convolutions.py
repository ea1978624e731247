"""The three convolutions: one is `conv`, the other two are its gradients.

`conv_transpose` and its gradients are the same three in another order. All of them accumulate in at
least float32, and take the position of the kernel on x as the `Windows` along each spatial axis.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.ops._common.numerics import accumulator
from jaxnn.ops._common.tuning import CONVOLUTION_PART_BYTES, CONVOLUTION_WHOLE_BYTES
from jaxnn.ops._common.windows import Windows

Inputs = Float[Array, "N *x_space I"]
Outputs = Float[Array, "N *y_space O"]
Kernel = Float[Array, "*kernel I_of_group O"]
Space = tuple[Windows, ...]


def convolve(x: Inputs, w: Kernel, space: Space, groups: int = 1) -> Outputs:
    """y[p] = Σₖ x[s·p + d·k − l]·W[k].

    Args:
        x: the input.
        w: the kernel.
        space: the windows along each axis; s, d and l are their stride, dilation and padding.
        groups: the number of independent convolutions.
    """
    return _convolve(
        x,
        w,
        window_strides=[axis.stride for axis in space],
        padding=[(axis.before, axis.after) for axis in space],
        rhs_dilation=[axis.dilation for axis in space],
        feature_group_count=groups,
    )


def gradient_of_x(dy: Outputs, w: Kernel, space: Space, groups: int = 1) -> Inputs:
    """dx[q] = Σₖ dy[(q + l − d·k)/s]·W[k]ᵀ.

    dy, with s − 1 zeros between its entries, is convolved with the flipped kernel.

    Args:
        dy: the gradient of y.
        w: the kernel.
        space: the windows of the convolution.
        groups: its groups.
    """
    return _convolve(
        dy,
        transposed(w, groups),
        window_strides=[1] * len(space),
        padding=[(a.reach - 1 - a.before, a.size + a.before - a.spread) for a in space],
        lhs_dilation=[axis.stride for axis in space],
        rhs_dilation=[axis.dilation for axis in space],
        feature_group_count=groups,
    )


def transposed(w: Kernel, groups: int = 1) -> Float[Array, "*kernel O_of_group I"]:
    """The flipped kernel with the inputs and outputs of each group exchanged."""
    *kernel, n_in, n_out = w.shape
    flipped = jnp.flip(w, axis=tuple(range(len(kernel))))
    by_group = flipped.reshape(*kernel, n_in, groups, n_out // groups)
    return jnp.swapaxes(by_group, -3, -1).reshape(*kernel, n_out // groups, groups * n_in)


@partial(jax.jit, static_argnames=("space", "groups"))
def gradient_of_w(x: Inputs, dy: Outputs, space: Space, groups: int = 1) -> Kernel:
    """dW[k] = Σₙₚ x[n, s·p + d·k − l]ᵀ·dy[n, p].

    x is convolved with dy as the kernel: p and k trade places, and so do stride and dilation.

    On a CPU a large batch is summed over a few images at a time, because all of it does not fit the
    caches; a small batch is not split, because the steps of a loop do not run in parallel with
    other work. Groups are processed one at a time. `tuning` has the measurements. Both loops gather
    a batch that is sharded over CPU devices. If a size is symbolic, the batch stays in one piece.

    Args:
        x: the input of the convolution.
        dy: the gradient of y.
        space: the windows of the convolution.
        groups: its groups.
    """
    whole_bytes = (x.size + dy.size) * accumulator(x.dtype).itemsize
    is_symbolic = not isinstance(whole_bytes, int)
    at_once = partial(_dw, space=space, groups=groups)
    if groups == 1 and (is_symbolic or whole_bytes <= CONVOLUTION_WHOLE_BYTES):
        return at_once(x, dy)
    images = x.shape[0] if is_symbolic else _images_at_a_time(x.shape[0], whole_bytes)
    by_parts = partial(_dw_by_images, space=space, groups=groups, images=images)
    return lax.platform_dependent(x, dy, cpu=by_parts, default=at_once)


def pixels_met(x: Inputs, space: Space) -> tuple[jax.Array, tuple]:
    """x with its padding, and for each entry k of the kernel the slices that hold x[s·p + d·k − l].

    Args:
        x: the input of the convolution.
        space: the windows of the convolution.
    """
    padding = [(axis.before, axis.after, 0) for axis in space]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    met = []
    for k in product(*(range(axis.length) for axis in space)):
        starts = [i * axis.dilation for i, axis in zip(k, space, strict=True)]
        pairs = zip(starts, space, strict=True)
        met.append(tuple((start, start + axis.spread, axis.stride) for start, axis in pairs))
    return padded, tuple(met)


def _images_at_a_time(n_images, whole_bytes):
    """As many as fit the caches of a CPU; a power of two, which fills its vector instructions."""
    at_most = max(1, n_images * CONVOLUTION_PART_BYTES // max(1, whole_bytes))
    return 1 << (at_most.bit_length() - 1)


def _dw(x, dy, space, groups=1):
    """The convolution of x with dy, whose channels are the images.

    The axes are transposed here instead of passing their order to the convolution: XLA's CPU
    compiler transposes them itself, but not in the body of a loop. There 64 images of 56×56 and 16
    channels take 1546 ms with the order passed, and 32 ms with the axes transposed.
    """
    dw = _convolve(
        jnp.swapaxes(x, 0, -1),
        jnp.moveaxis(dy, 0, -2),
        window_strides=[axis.dilation for axis in space],
        padding=[(a.before, a.spread + a.reach - 1 - a.size - a.before) for a in space],
        rhs_dilation=[axis.stride for axis in space],
        batch_group_count=groups,
    )
    return jnp.moveaxis(dw, 0, -2)


def _dw_by_group(x, dy, space, groups):
    """The same, one group at a time."""
    if groups == 1:
        return _dw(x, dy, space)
    split = [a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups) for a in (x, dy)]
    of_group = lax.map(lambda pair: _dw(*pair, space), [jnp.moveaxis(a, -2, 0) for a in split])
    by_group = jnp.moveaxis(of_group, 0, -2)
    return by_group.reshape(*by_group.shape[:-2], dy.shape[-1])


def _dw_by_images(x, dy, space, groups, images):
    """The sum over a few images at a time."""
    if images >= x.shape[0]:
        return _dw_by_group(x, dy, space, groups)

    def add(dw, start):
        part = [lax.dynamic_slice_in_dim(a, start, images) for a in (x, dy)]
        return dw + _dw_by_group(*part, space, groups), None

    whole = x.shape[0] - x.shape[0] % images
    rest = _dw_by_group(x[whole:], dy[whole:], space, groups)
    return lax.scan(add, rest, jnp.arange(0, whole, images))[0]


def _convolve(x, w, **options):
    """XLA's convolution with the channels last."""
    space = "DHW"[-(x.ndim - 2) :]
    return lax.conv_general_dilated(
        x,
        w,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        preferred_element_type=accumulator(x.dtype),
        **options,
    )
