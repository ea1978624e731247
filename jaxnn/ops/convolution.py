"""Convolution over one or two axes, and its transpose."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.op import op
from jaxnn.ops._common.convolve import (
    Inputs,
    Outputs,
    Window,
    channels_last,
    convolve,
    gradient_of_w,
    gradient_of_x,
    reaches,
    transposed,
)
from jaxnn.ops._common.numerics import accumulator, at_least_float32
from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_for_each_axis,
    require_keys,
    require_padding,
)

Params = dict[str, Float[Array, "..."]]
Padding = str | tuple[tuple[int, int], ...]


class ConvolutionResiduals(NamedTuple):
    """What `conv` and `conv_transpose` keep: their own arguments."""

    params: Params
    x: Inputs


@op
def conv(
    params: Params,
    x: Inputs,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Outputs:
    """Convolution over one or two axes, y[p] = Σₖ x[s·p + d·k − l]·W[k] + b.

    The rank of x says over how many axes; with two, p and k are pairs, and s, d and l too. As
    everywhere in neural networks the kernel is not flipped: it is a cross-correlation.

    Shapes (N batch; H, W space; h, w kernel; I input and O output channels; G groups):
        params: {"w": (h, w, I/G, O), "b": (O,)}; without "b" there is no bias
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O) with H' = ⌊(H + padding − d·(h − 1) − 1)/s⌋ + 1, W' likewise
    Over one axis there is no H and no h: x (N, W, I), w (w, I/G, O).

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩:
        dW[k] = Σₙₚ x[n, s·p + d·k − l]ᵀ·dy[n, p]
        db    = Σₙₚ dy[n, p]
        dx[q] = Σₖ dy[(q + l − d·k)/s]·W[k]ᵀ    over the k for which s divides

    Both sums are convolutions again. dW: x is the image, dy the kernel, N what is summed over, and
    stride and dilation change places, for in s·p + d·k so do p and k. dx: the image is dy with
    s − 1 zeros between its entries, which the indices that s does not divide meet, the kernel is
    W flipped, with I and O changed about. Groups are convolutions side by side, group g from the
    g-th share of the inputs to the g-th share of the outputs.

    On a CPU dW of a large batch is added up over a few images at a time, because the whole does not
    fit its caches, and one group after the other, because a convolution in groups is slow there.

    Keeps x and the params: x and W are both needed and neither can be recomputed. Nothing is
    copied; b is there for its presence and dtype alone. Products and sums of float16 and bfloat16
    accumulate in float32.

    Args:
        params: W and b.
        x: images (N, H, W, I) or sequences (N, W, I).
        stride: s, an integer or one for each axis.
        padding: zeros around x: "SAME" (⌈H/s⌉ outputs, the odd zero at the end), "VALID" (none),
            or a pair (before, after) for each axis.
        dilation: d, the distance between the entries that neighbours in the kernel meet; an
            integer or one for each axis.
        groups: G, which divides I and O. G = I is the depthwise convolution.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or an option is no such thing.
        ValueError: the shapes do not fit; the kernel is larger than the padded x; groups do not
            divide; an option is out of range; params has other keys than "w" and "b".

    Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016.

    Example:
        >>> x = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
        >>> params = {"w": jnp.array([1.0, -1.0]).reshape(2, 1, 1)}
        >>> print(jaxnn.conv(params, x, padding="VALID").ravel())
        [-1. -2. -4.]
    """
    y = lax.conv_general_dilated(
        x,
        params["w"],
        _for_each_axis(stride, x),
        padding,
        rhs_dilation=_for_each_axis(dilation, x),
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=groups,
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv.forward
def conv_fwd(params, x, *, stride=1, padding="SAME", dilation=1, groups=1):
    """y[p] = Σₖ x[s·p + d·k − l]·W[k] + b, and the arguments themselves."""
    window = _conv_window(params["w"], x, stride, padding, dilation, groups)
    y = _plus_bias(convolve(x, params["w"], window), params)
    return y.astype(x.dtype), ConvolutionResiduals(params, x)


@conv.backward
def conv_bwd(residuals, dy, *, stride=1, padding="SAME", dilation=1, groups=1):
    """dW = x convolved with dy, db = Σ dy, dx = dy convolved with the flipped Wᵀ."""
    params, x = residuals
    w, space = params["w"], x.shape[1:-1]
    window = _conv_window(w, x, stride, padding, dilation, groups)
    dw = gradient_of_w(x, dy, window, w.shape[:-2])
    return _dparams(params, dw, dy), gradient_of_x(dy, w, window, space).astype(x.dtype)


@op
def conv_transpose(
    params: Params,
    x: Inputs,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
) -> Outputs:
    """Transposed convolution, y[p] = Σₖ x̃[p + d·k − l]·W[k] + b with x̃ of s − 1 zeros between.

    It makes images larger by the stride, as the backward of `conv` does: with W flipped and its
    inputs and outputs changed about, ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩, where s divides the
    size of x under "SAME", and where no entry of x is left over under "VALID".

    Shapes (N batch; H, W space; h, w kernel; I input and O output channels):
        params: {"w": (h, w, I, O), "b": (O,)}; without "b" there is no bias
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O) with H' = s·H for "SAME", s·H + max(d·(h − 1) + 1 − s, 0) for
            "VALID", s·(H − 1) + 1 + padding − d·(h − 1) for pairs; W' likewise
    Over one axis there is no H and no h: x (N, W, I), w (w, I, O).

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩, with entry q of x at s·q in x̃:
        dW[k] = Σₙₚ x̃[n, p + d·k − l]ᵀ·dy[n, p]
        db    = Σₙₚ dy[n, p]
        dx[q] = Σₖ dy[s·q + l − d·k]·W[k]ᵀ

    dx is a plain convolution of stride s with the flipped kernel.

    Keeps x and the params, for the reasons of `conv`.

    Args:
        params: W and b.
        x: images (N, H, W, I) or sequences (N, W, I).
        stride: s, an integer or one for each axis.
        padding: "SAME", "VALID", or a pair (before, after) of zeros around x̃ for each axis.
        dilation: d, an integer or one for each axis.

    Raises:
        TypeError: an array is not floating point, the dtypes differ, or an option is no such thing.
        ValueError: the shapes do not fit; the kernel is larger than the padded x̃; an option is out
            of range; params has other keys than "w" and "b".

    Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016,
    chapter 4; the conventions are those of `jax.lax.conv_transpose`.

    Example:
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> params = {"w": jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)}
        >>> print(jaxnn.conv_transpose(params, x, stride=2, padding="VALID").ravel())
        [100.  10. 201.  20.   2.]
    """
    y = lax.conv_transpose(
        x,
        params["w"],
        _for_each_axis(stride, x),
        padding,
        rhs_dilation=_for_each_axis(dilation, x),
        dimension_numbers=channels_last(x.ndim),
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv_transpose.forward
def conv_transpose_fwd(params, x, *, stride=1, padding="SAME", dilation=1):
    """y = the gradient of the convolution that it transposes, + b; and the arguments themselves."""
    w = params["w"]
    window = _transposed_window(w, x, stride, padding, dilation)
    y = gradient_of_x(x, transposed(w), window, _transpose_space(w, x, window))
    return _plus_bias(y, params).astype(x.dtype), ConvolutionResiduals(params, x)


@conv_transpose.backward
def conv_transpose_bwd(residuals, dy, *, stride=1, padding="SAME", dilation=1):
    """dW = dy convolved with x, transposed; db = Σ dy; dx = dy convolved with the flipped Wᵀ."""
    params, x = residuals
    w = params["w"]
    window = _transposed_window(w, x, stride, padding, dilation)
    dw = transposed(gradient_of_w(dy, x, window, w.shape[:-2]))
    return _dparams(params, dw, dy), convolve(dy, transposed(w), window).astype(x.dtype)


def _plus_bias(y, params):
    """y + b where there is a b."""
    if "b" not in params:
        return y
    return y + jnp.broadcast_to(at_least_float32(params["b"]), y.shape)


def _dparams(params, dw, dy):
    """The gradients of W and of b, which every place n, p of y has the same of."""
    gradients = {"w": dw.astype(dy.dtype)}
    if "b" in params:
        db = jnp.sum(dy, axis=range(dy.ndim - 1), dtype=accumulator(dy.dtype))
        gradients["b"] = db.astype(dy.dtype)
    return gradients


def _conv_window(w, x, stride, padding, dilation, groups):
    strides, dilations = _for_each_axis(stride, x), _for_each_axis(dilation, x)
    if isinstance(padding, str):
        covered = reaches(w.shape[:-2], dilations)
        padding = tuple(lax.padtype_to_pads(x.shape[1:-1], covered, strides, padding))
    return Window(strides, padding, dilations, groups)


def _conv_space(w, x, window):
    covered = reaches(w.shape[:-2], window.dilation)
    return tuple(
        (size + sum(pair) - reach) // s + 1
        for size, pair, reach, s in zip(
            x.shape[1:-1], window.padding, covered, window.stride, strict=True
        )
    )


def _transposed_window(w, x, stride, padding, dilation):
    """The window of the convolution, from y to x, that is transposed."""
    strides, dilations = _for_each_axis(stride, x), _for_each_axis(dilation, x)
    covered = reaches(w.shape[:-2], dilations)
    overlaps = [reach - s for reach, s in zip(covered, strides, strict=True)]
    if padding == "SAME":
        befores = [max(overlap // 2, 0) for overlap in overlaps]
        padding = zip(befores, map(int.__sub__, overlaps, befores), strict=True)
    elif padding == "VALID":
        padding = [(0, min(overlap, 0)) for overlap in overlaps]
    else:
        padding = [
            (reach - 1 - before, reach - 1 - after)
            for reach, (before, after) in zip(covered, padding, strict=True)
        ]
    return Window(strides, tuple(padding), dilations)


def _transpose_space(w, x, window):
    covered = reaches(w.shape[:-2], window.dilation)
    return tuple(
        (size - 1) * s + reach - sum(pair)
        for size, pair, reach, s in zip(
            x.shape[1:-1], window.padding, covered, window.stride, strict=True
        )
    )


def _for_each_axis(option, x):
    return option if isinstance(option, tuple) else (option,) * (x.ndim - 2)


@conv.validate
def _(params, x, *, stride, padding, dilation, groups):
    _check_arrays(params, x)
    _check_options(x, padding, stride=stride, dilation=dilation)
    w = params["w"]
    if type(groups) is not int:
        raise TypeError(f"option groups must be an integer, got {groups!r}")
    n_in, n_out = x.shape[-1], w.shape[-1]
    if groups < 1 or n_in % groups or n_out % groups:
        raise ValueError(
            f"option groups is {groups}; it must divide the {n_in} channels of x and the "
            f"{n_out} outputs of params['w']"
        )
    _check_channels(w, x, groups)
    window = _conv_window(w, x, stride, padding, dilation, groups)
    _check_space(w, x, window, _conv_space(w, x, window))


@conv_transpose.validate
def _(params, x, *, stride, padding, dilation):
    _check_arrays(params, x)
    _check_options(x, padding, stride=stride, dilation=dilation)
    w = params["w"]
    _check_channels(w, x, 1)
    window = _transposed_window(w, x, stride, padding, dilation)
    _check_space(w, x, window, _transpose_space(w, x, window))


def _check_arrays(params, x):
    require_keys(params, ["w"], ["b"])
    named = {f"params[{name!r}]": array for name, array in params.items()}
    require_floating(**named, x=x)
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


def _check_options(x, padding, **steps):
    for name, value in steps.items():
        require_for_each_axis(name, value, x.ndim - 2)
    require_padding(padding, x.ndim - 2)


def _check_channels(w, x, groups):
    expected = x.shape[-1] // groups
    if w.shape[-2] != expected:
        share = f" in {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"x is {describe(x)} but params['w'] has shape {w.shape}: with {x.shape[-1]} "
            f"channels{share} its axis -2 must be {expected}"
        )


def _check_space(w, x, window, y_space):
    if 0 in x.shape[1:-1]:
        raise ValueError(f"x has no entries in space, shape {x.shape}")
    for axis, (size, reach) in enumerate(
        zip(y_space, reaches(w.shape[:-2], window.dilation), strict=True), start=1
    ):
        if size < 1:
            raise ValueError(
                f"along axis {axis} the kernel covers {reach} entries, which is more than "
                f"x with its padding has; x has shape {x.shape} and params['w'] {w.shape}"
            )
