"""Convolution over one or two axes, and its transpose."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.convolutions import (
    Inputs,
    Outputs,
    convolve,
    gradient_of_w,
    gradient_of_x,
    transposed,
)
from jaxnn.ops._common.numerics import at_least_float32
from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_for_each_axis,
    require_keys,
    require_padding,
)
from jaxnn.ops._common.windows import Lengths, Padding, transposed_windows, windows_along

Params = dict[str, Float[Array, "..."]]


class ConvolutionResiduals(NamedTuple):
    """The arguments of `conv` or `conv_transpose`."""

    params: Params
    x: Inputs


@op
def conv(
    params: Params,
    x: Inputs,
    *,
    stride: Lengths = 1,
    padding: Padding = "SAME",
    dilation: Lengths = 1,
    groups: int = 1,
) -> Outputs:
    """Convolution over one or two axes, y[p] = Σₖ x[s·p + d·k − l]·W[k] + b.

    The rank of x decides over how many axes; with two, p, k, s, d and l are pairs. As everywhere in
    neural networks the kernel is not flipped: this is a cross-correlation.

    Shapes:
        N batch; H, W space; h, w kernel; I input and O output channels; G groups
        params: {"w": (h, w, I/G, O), "b": (O,)}; "b" is optional
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O) with H' = ⌊(H + padding − d·(h − 1) − 1)/s⌋ + 1, and W' likewise
        Over one axis there is no H and no h: x (N, W, I), w (w, I/G, O).

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with
    ẏ[p] = Σₖ x[s·p + d·k − l]·Ẇ[k] + ḃ + Σₖ ẋ[s·p + d·k − l]·W[k]:
        dW[k] = Σₙₚ x[n, s·p + d·k − l]ᵀ·dy[n, p]      every n, p meets the same W[k]
        db    = Σₙₚ dy[n, p]                           and the same b
        dx[q] = Σₖ dy[(q + l − d·k)/s]·W[k]ᵀ           s·p + d·k − l = q, if s divides

    Both sums over p and k are convolutions again. In dW, x is the image and dy the kernel, and the
    sum also runs over N; stride and dilation change places, because p and k do in s·p + d·k. In dx,
    the image is dy with s − 1 zeros between its entries, which the indices meet that s does not
    divide; the kernel is W flipped, with I and O exchanged. Groups are convolutions side by side:
    group g maps the g-th share of the inputs to the g-th share of the outputs.

    Saves x and the params. Neither x nor W can be recomputed, and saving them copies nothing.

    Implementation notes:
        Products of float16 and bfloat16 accumulate in float32. On a CPU, dW of a large batch is
        summed over a few images at a time, because the whole batch does not fit the caches, and dW
        of several groups is computed one group after the other; see `gradient_of_w`. The tangent
        has its own rule, because the transpose of that loop takes 18 times as long (128 images
        of 56×56 and 16 channels).

    Args:
        params: W and b.
        x: images (N, H, W, I) or sequences (N, W, I).
        stride: s, an integer or one for each axis.
        padding: zeros around x: "SAME" (⌈H/s⌉ outputs, an odd zero goes to the end), "VALID"
            (none), or a pair (before, after) for each axis.
        dilation: d, the distance between the entries that neighbours in the kernel meet; an
            integer or one for each axis.
        groups: G, which divides I and O. G = I is the depthwise convolution.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or an option has a wrong type.
        ValueError: the shapes do not fit, the kernel is larger than the padded x, groups does not
            divide I and O, an option is out of range, or params has keys other than "w" and "b".

    Reference: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
    2016.

    Example:
        >>> x = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
        >>> params = {"w": jnp.array([1.0, -1.0]).reshape(2, 1, 1)}
        >>> print(jaxnn.conv(params, x, padding="VALID").ravel())
        [-1. -2. -4.]
    """
    strides, dilations, channels_last = _options_of_lax(x, stride, dilation)
    y = lax.conv_general_dilated(
        x,
        params["w"],
        strides,
        padding,
        rhs_dilation=dilations,
        dimension_numbers=channels_last,
        feature_group_count=groups,
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv.validate
def _(params, x, *, stride, padding, dilation, groups):
    _require_arrays(params, x)
    _require_options(x, padding, stride=stride, dilation=dilation)
    if type(groups) is not int:
        raise TypeError(f"option groups must be an integer, got {groups!r}")
    n_in, n_out = x.shape[-1], params["w"].shape[-1]
    if groups < 1 or n_in % groups or n_out % groups:
        raise ValueError(
            f"option groups is {groups}; it must divide the {n_in} channels of x and the "
            f"{n_out} outputs of params['w']"
        )
    _require_channels(params, x, groups)
    for axis in _space(params, x, stride, padding, dilation):
        _require_outputs(axis.number, axis, params, x)


@conv.forward
def conv_fwd(params, x, *, stride=1, padding="SAME", dilation=1, groups=1):
    """y[p] = Σₖ x[s·p + d·k − l]·W[k] + b."""
    space = _space(params, x, stride, padding, dilation)
    y = _plus_bias(convolve(x, params["w"], space, groups), params)
    return y, ConvolutionResiduals(params, x)


@conv.backward
def conv_bwd(residuals, dy, **options):
    """dW = x convolved with dy, db = Σₙₚ dy, dx = dy convolved with the flipped Wᵀ."""
    dy, dx = conv_bwd_input(residuals, dy, **options)
    return conv_bwd_params(residuals, dy, **options), dx


@conv.backward_input
def conv_bwd_input(residuals, dy, *, stride=1, padding="SAME", dilation=1, groups=1):
    """dx = dy convolved with the flipped Wᵀ; the gradients of the params need dy itself."""
    params, x = residuals
    space = _space(params, x, stride, padding, dilation)
    return dy, gradient_of_x(dy, params["w"], space, groups)


@conv.backward_params
def conv_bwd_params(residuals, dy, *, stride=1, padding="SAME", dilation=1, groups=1):
    """dW = x convolved with dy, db = Σₙₚ dy."""
    params, x = residuals
    space = _space(params, x, stride, padding, dilation)
    return _with_bias(gradient_of_w(x, dy, space, groups), dy, params)


@conv.tangent
def conv_tangent(residuals, tangents, *, stride=1, padding="SAME", dilation=1, groups=1):
    """ẏ = x convolved with Ẇ, plus ẋ convolved with W, plus ḃ."""
    space = _space(*residuals, stride, padding, dilation)
    return _tangent(lambda x, w: convolve(x, w, space, groups), residuals, tangents)


@op
def conv_transpose(
    params: Params,
    x: Inputs,
    *,
    stride: Lengths = 1,
    padding: Padding = "SAME",
    dilation: Lengths = 1,
) -> Outputs:
    """Transposed convolution, y[p] = Σₖ x̃[p + d·k − l]·W[k] + b, where x̃ is x spread out by s.

    x̃ holds entry q of x at s·q, with s − 1 zeros between neighbours. It enlarges images by the
    stride, as the backward of `conv` does: with W flipped and its inputs and outputs exchanged,
    ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩, provided that s divides the size of x under "SAME", and
    that every entry of x is in a window under "VALID".

    Shapes:
        N batch; H, W space; h, w kernel; I input and O output channels
        params: {"w": (h, w, I, O), "b": (O,)}; "b" is optional
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O) with H' = s·H for "SAME", s·H + max(d·(h − 1) + 1 − s, 0) for
                "VALID", s·(H − 1) + 1 + padding − d·(h − 1) for pairs, and W' likewise
        Over one axis there is no H and no h: x (N, W, I), w (w, I, O).

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with
    ẏ[p] = Σₖ x̃[p + d·k − l]·Ẇ[k] + ḃ + Σₖ ẋ[(p + d·k − l)/s]·W[k]:
        dW[k] = Σₙₚ x̃[n, p + d·k − l]ᵀ·dy[n, p]        every n, p meets the same W[k]
        db    = Σₙₚ dy[n, p]                           and the same b
        dx[q] = Σₖ dy[s·q + l − d·k]·W[k]ᵀ             p + d·k − l = s·q, if s divides

    dx is a plain convolution of stride s with the flipped kernel.

    Saves x and the params, for the reasons given in `conv`.

    Implementation notes:
        The forward is the dx of `conv`, dx is the value of `conv`, and dW is its dW with x and dy
        exchanged. x̃ is never built. The tangent has its own rule, as in `conv`.

    Args:
        params: W and b.
        x: images (N, H, W, I) or sequences (N, W, I).
        stride: s, an integer or one for each axis.
        padding: "SAME", "VALID", or a pair (before, after) of zeros around x̃ for each axis.
        dilation: d, an integer or one for each axis.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or an option has a wrong type.
        ValueError: the shapes do not fit, the kernel is larger than the padded x̃, an option is out
            of range, or params has keys other than "w" and "b".

    Reference: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
    2016, chapter 4; the conventions are those of `jax.lax.conv_transpose`.

    Example:
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> params = {"w": jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)}
        >>> print(jaxnn.conv_transpose(params, x, stride=2, padding="VALID").ravel())
        [100.  10. 201.  20.   2.]
    """
    strides, dilations, channels_last = _options_of_lax(x, stride, dilation)
    y = lax.conv_transpose(
        x,
        params["w"],
        strides,
        padding,
        rhs_dilation=dilations,
        dimension_numbers=channels_last,
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv_transpose.validate
def _(params, x, *, stride, padding, dilation):
    _require_arrays(params, x)
    _require_options(x, padding, stride=stride, dilation=dilation)
    _require_channels(params, x)
    for axis in _transposed_space(params, x, stride, padding, dilation):
        _require_outputs(axis.size, axis, params, x)


@conv_transpose.forward
def conv_transpose_fwd(params, x, *, stride=1, padding="SAME", dilation=1):
    """y = the dx of the convolution that it transposes, + b."""
    space = _transposed_space(params, x, stride, padding, dilation)
    y = _plus_bias(gradient_of_x(x, transposed(params["w"]), space), params)
    return y, ConvolutionResiduals(params, x)


@conv_transpose.backward
def conv_transpose_bwd(residuals, dy, **options):
    """dW = dy convolved with x, transposed; db = Σₙₚ dy; dx = dy convolved with the flipped Wᵀ."""
    dy, dx = conv_transpose_bwd_input(residuals, dy, **options)
    return conv_transpose_bwd_params(residuals, dy, **options), dx


@conv_transpose.backward_input
def conv_transpose_bwd_input(residuals, dy, *, stride=1, padding="SAME", dilation=1):
    """dx = dy convolved with the flipped Wᵀ; the gradients of the params need dy itself."""
    params, x = residuals
    space = _transposed_space(params, x, stride, padding, dilation)
    return dy, convolve(dy, transposed(params["w"]), space)


@conv_transpose.backward_params
def conv_transpose_bwd_params(residuals, dy, *, stride=1, padding="SAME", dilation=1):
    """dW = dy convolved with x, transposed; db = Σₙₚ dy."""
    params, x = residuals
    space = _transposed_space(params, x, stride, padding, dilation)
    return _with_bias(transposed(gradient_of_w(dy, x, space)), dy, params)


@conv_transpose.tangent
def conv_transpose_tangent(residuals, tangents, *, stride=1, padding="SAME", dilation=1):
    """The ẏ of `conv`, with transposed convolutions."""
    space = _transposed_space(*residuals, stride, padding, dilation)
    return _tangent(lambda x, w: gradient_of_x(x, transposed(w), space), residuals, tangents)


def _options_of_lax(x, stride, dilation):
    """The options of a definition as JAX's own convolutions take them."""
    n_axes = x.ndim - 2
    strides, dilations = ((n,) * n_axes if isinstance(n, int) else n for n in (stride, dilation))
    space = "HW"[-n_axes:]
    return strides, dilations, (f"N{space}C", f"{space}IO", f"N{space}C")


def _space(params, x, stride, padding, dilation):
    """The windows of `conv` along each axis."""
    return windows_along(x.shape, params["w"].shape[:-2], stride, padding, dilation)


def _transposed_space(params, x, stride, padding, dilation):
    """The windows of the convolution that `conv_transpose` transposes, along each axis."""
    return transposed_windows(x.shape, params["w"].shape[:-2], stride, padding, dilation)


def _plus_bias(y, params):
    """y + b, where there is a b."""
    if "b" not in params:
        return y
    return y + jnp.broadcast_to(at_least_float32(params["b"]), y.shape)


def _with_bias(dw, dy, params):
    """dW, and db = Σₙₚ dy where there is a b."""
    if "b" not in params:
        return {"w": dw}
    return {"w": dw, "b": jnp.sum(at_least_float32(dy), axis=range(dy.ndim - 1))}


def _tangent(convolution, residuals, tangents):
    """The sum of the terms of ẏ; a tangent that is `None` has none."""
    (params, x), (params_dot, x_dot) = residuals, tangents
    terms = []
    if params_dot["w"] is not None:
        terms.append(convolution(x, params_dot["w"]))
    if x_dot is not None:
        terms.append(convolution(x_dot, params["w"]))
    if params_dot.get("b") is not None:
        shape = jax.eval_shape(convolution, x, params["w"]).shape
        terms.append(jnp.broadcast_to(at_least_float32(params_dot["b"]), shape))
    return reduce(jnp.add, terms)


def _require_arrays(params, x):
    require_keys(params, ["w"], ["b"])
    require_floating(**{f"params[{name!r}]": params[name] for name in params}, x=x)
    w_shape = params["w"].shape
    if x.ndim not in (3, 4):
        raise ValueError(f"x must be (N, W, channels) or (N, H, W, channels), got shape {x.shape}")
    if len(w_shape) != x.ndim:
        wanted = "(w, inputs, outputs)" if x.ndim == 3 else "(h, w, inputs, outputs)"
        raise ValueError(
            f"params['w'] must be {wanted} for x of shape {x.shape}, got shape {w_shape}"
        )
    if 0 in w_shape:
        raise ValueError(f"params['w'] is empty, shape {w_shape}")
    if "b" in params and params["b"].shape != w_shape[-1:]:
        raise ValueError(
            f"params['b'] has shape {params['b'].shape} but params['w'] has shape "
            f"{w_shape}: b must be ({w_shape[-1]},)"
        )


def _require_options(x, padding, **steps):
    for name, value in steps.items():
        require_for_each_axis(name, value, x.ndim - 2)
    require_padding(padding, x.ndim - 2)


def _require_channels(params, x, groups=1):
    expected, w_shape = x.shape[-1] // groups, params["w"].shape
    if w_shape[-2] != expected:
        share = f" in {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"x is {describe(x)} but params['w'] has shape {w_shape}: with {x.shape[-1]} "
            f"channels{share} its axis -2 must be {expected}"
        )


def _require_outputs(size, windows, params, x):
    if x.shape[windows.axis] == 0:
        raise ValueError(f"x has no entries in space, shape {x.shape}")
    if size < 1:
        raise ValueError(
            f"along axis {windows.axis} the kernel covers {windows.reach} entries, which is more "
            f"than x with its padding has; x has shape {x.shape} and params['w'] "
            f"{params['w'].shape}"
        )
