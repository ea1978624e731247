"""Convolution over one, two or three axes, and its transpose."""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnn.example_gradients import Patches, require_examples_first, sum_over_places
from jaxnn.op import op
from jaxnn.ops._common.convolutions import (
    Inputs,
    Outputs,
    convolve,
    gradient_of_w,
    gradient_of_x,
    pixels_met,
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
from jaxnn.ops._common.windows import (
    Lengths,
    Padding,
    for_each,
    padding_of_lax,
    transposed_windows,
    windows_along,
)

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
    """Convolution over one, two or three axes, y[p] = Σₖ x[s·p + d·k − l]·W[k] + b.

    The rank of x determines the number of axes; with two, p, k, s, d and l are pairs. As usual in
    neural networks, the kernel is not flipped: this is a cross-correlation.

    Shapes:
        N batch; H, W space; h, w kernel; I input and O output channels; G groups
        params: {"w": (h, w, I/G, O), "b": (O,)}; "b" is optional
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O) with H' = ⌊(H + padding − d·(h − 1) − 1)/s⌋ + 1, and W' likewise
        Over one axis there is no H and no h: x (N, W, I), w (w, I/G, O). Over three there is a
        depth: x (N, D, H, W, I), w (d, h, w, I/G, O).

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with
    ẏ[p] = Σₖ x[s·p + d·k − l]·Ẇ[k] + ḃ + Σₖ ẋ[s·p + d·k − l]·W[k]:
        dW[k] = Σₙₚ x[n, s·p + d·k − l]ᵀ·dy[n, p]      every n, p meets the same W[k]
        db    = Σₙₚ dy[n, p]                           and the same b
        dx[q] = Σₖ dy[(q + l − d·k)/s]·W[k]ᵀ           s·p + d·k − l = q, if s divides

    Both sums over p and k are convolutions again. In dW, x is the image and dy the kernel, and the
    sum also runs over N; stride and dilation trade places, because p and k do in s·p + d·k. In dx,
    the image is dy with s − 1 zeros between its entries, at the indices that s does not divide; the
    kernel is the flipped W, with I and O exchanged. Groups are independent convolutions: group g
    maps the g-th part of the input channels to the g-th part of the output channels.

    The gradient of example n is the same sum over p alone: one product of dyₙ and the pixels under
    an entry k of the kernel, so ‖dWₙ‖² = Σₖ ‖Σₚ x[n, s·p + d·k − l]ᵀ·dy[n, p]‖².

    Saves x and the params. Neither x nor W can be recomputed, and saving them copies nothing.

    Implementation notes:
        Products of float16 and bfloat16 accumulate in float32. On a CPU, dW of a large batch is
        summed over a few images at a time, because the whole batch does not fit the caches, and dW
        of several groups is computed one group at a time; see `gradient_of_w`. The tangent has its
        own rule, because the transpose of that loop takes 18 times as long (128 images of 56×56 and
        16 channels).

    Args:
        params: W and b.
        x: sequences (N, W, I), images (N, H, W, I) or volumes (N, D, H, W, I).
        stride: s, an integer or one for each axis.
        padding: zeros around x, one choice for all axes or a tuple of one for each: "SAME" (⌈H/s⌉
            outputs, an odd zero goes to the end), "SAME_LOWER" (it goes to the start), "VALID"
            (none), "CAUSAL" (d·(h − 1) before x, so that y[p] depends on no x beyond s·p), or an
            integer for both sides. A tuple may also hold pairs (before, after).
        dilation: d, the distance in x between neighbouring entries of the kernel; an integer or one
            for each axis.
        groups: G, which divides I and O. G = I is the depthwise convolution.

    Raises:
        TypeError: an array is not floating point, or an option has a wrong type.
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
    reaches = _reaches(params["w"], dilations)
    y = lax.conv_general_dilated(
        x,
        params["w"],
        strides,
        padding_of_lax(padding, x.shape[1:-1], reaches, strides),
        rhs_dilation=dilations,
        dimension_numbers=channels_last,
        feature_group_count=groups,
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv.validate
def _(params, x, *, stride, padding, dilation, groups):
    _require_arrays(params, x)
    _require_options(x, padding, stride=stride, dilation=dilation)
    _require_channels(params, x, groups)
    for axis in _space(params, x, stride, padding, dilation):
        if axis.number < 1:
            raise ValueError(
                f"along axis {axis.axis} the kernel covers {axis.reach} entries, which is more "
                f"than the padded x has; x has shape {x.shape} and params['w'] "
                f"{params['w'].shape}"
            )


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


@conv.backward_examples
def conv_bwd_examples(residuals, dy, *, examples_axis, groups=1, **options):
    """dWₙ[k] = Σₚ xₙ[s·p + d·k − l]ᵀ·dyₙ[p], dbₙ = Σₚ dyₙ[p]."""
    require_examples_first(examples_axis)
    params, x = residuals
    image, met = pixels_met(x, _space(params, x, **options))
    form = Patches(image, _grouped(dy, groups), met, params["w"].shape[:-2], transpose=False)
    return _of_examples(form, dy, params)


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
    groups: int = 1,
    output_padding: Lengths = 0,
) -> Outputs:
    """Transposed convolution, y[p] = Σₖ x̃[p + d·k − l]·W[k] + b, where x̃ is x spread out by s.

    x̃ holds entry q of x at s·q, with s − 1 zeros between neighbours. The op enlarges images by the
    stride, as the backward of `conv` does: with W flipped and its inputs and outputs exchanged,
    ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩, provided that s divides the size of x under "SAME", and
    that every entry of x is in a window under "VALID".

    Shapes:
        N batch; H, W space; h, w kernel; I input and O output channels; G groups
        params: {"w": (h, w, I/G, O), "b": (O,)}; "b" is optional
        x, dx:  (N, H, W, I)
        y, dy:  (N, H', W', O), with W' like H'; with the reach r = d·(h − 1) + 1 of the kernel and
                the output_padding e
                    "SAME", "SAME_LOWER", "CAUSAL"   H' = s·H + e
                    "VALID"                          H' = s·H + max(r − s, 0) + e
                    an integer c                     H' = s·(H − 1) + r − 2·c + e
                    a pair                           H' = s·(H − 1) + 2 − r + before + after + e
        Over one axis there is no H and no h, over three there is a depth, as in `conv`.

    Backward, from ⟨dy, ẏ⟩ = ⟨dW, Ẇ⟩ + ⟨db, ḃ⟩ + ⟨dx, ẋ⟩ with
    ẏ[p] = Σₖ x̃[p + d·k − l]·Ẇ[k] + ḃ + Σₖ ẋ[(p + d·k − l)/s]·W[k]:
        dW[k] = Σₙₚ x̃[n, p + d·k − l]ᵀ·dy[n, p]        every n, p meets the same W[k]
        db    = Σₙₚ dy[n, p]                           and the same b
        dx[q] = Σₖ dy[s·q + l − d·k]·W[k]ᵀ             p + d·k − l = s·q, if s divides

    dx is a plain convolution of stride s with the flipped kernel. Groups are independent transposed
    convolutions, as in `conv`.

    Saves x and the params, for the reasons given in `conv`.

    Implementation notes:
        The forward is the dx of `conv`, dx is the value of `conv`, and dW is its dW with x and dy
        exchanged. x̃ is never built. The tangent has its own rule, as in `conv`.

    Args:
        params: W and b. The kernel is the one that x̃ is convolved with, as in `jax.lax` and Flax.
            PyTorch and Keras store that of the convolution being transposed: flipped along every
            spatial axis, with inputs and outputs exchanged. For G = 1, PyTorch's kernel becomes
            `jnp.flip(kernel, (2, 3)).transpose(2, 3, 0, 1)`; with groups, the same within each.
        x: sequences (N, W, I), images (N, H, W, I) or volumes (N, D, H, W, I).
        stride: s, an integer or one for each axis.
        padding: one choice for all axes or a tuple of one for each:
            an integer c removes c entries from both ends of y, like PyTorch's padding, which is
            that of the convolution being transposed;
            a pair (before, after), only in a tuple, puts zeros around x̃ and so adds entries to y,
            as in `jax.lax`: c is the same as (r − 1 − c, r − 1 − c);
            "SAME" removes the r − s entries in excess of s·H, an odd one from the end of y, and
            "SAME_LOWER" from its start: they transpose the `conv` of that padding;
            "VALID" removes nothing;
            "CAUSAL" removes them all from the end, so that y[p] depends on no x beyond ⌊p/s⌋.
        dilation: d, an integer or one for each axis.
        groups: G, which divides I and O.
        output_padding: e further entries at the end of y, an integer or one for each axis, which
            distinguishes the sizes that `conv` maps to the same H. As in PyTorch, it must be
            smaller than the stride or than the dilation.

    Raises:
        TypeError: an array is not floating point, or an option has a wrong type.
        ValueError: the shapes do not fit, there is no output, groups does not divide I and O, an
            option is out of range, or params has keys other than "w" and "b".

    Reference: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
    2016, chapter 4; names and pairs as in `jax.lax.conv_transpose`, integers and output_padding as
    in `torch.nn.ConvTranspose2d`.

    Example:
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> params = {"w": jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)}
        >>> print(jaxnn.conv_transpose(params, x, stride=2, padding="VALID").ravel())
        [100.  10. 201.  20.   2.]
        >>> y = jaxnn.conv_transpose(params, x, stride=2, padding=1, output_padding=1)
        >>> print(y.ravel())
        [ 10. 201.  20.   2.]
    """
    strides, dilations, channels_last = _options_of_lax(x, stride, dilation)
    reaches = _reaches(params["w"], dilations)
    y = lax.conv_general_dilated(
        x,
        params["w"],
        (1,) * len(strides),
        _padding_of_spread_x(padding, reaches, strides, output_padding),
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=channels_last,
        feature_group_count=groups,
    )
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


@conv_transpose.validate
def _(params, x, *, stride, padding, dilation, groups, output_padding):
    _require_arrays(params, x)
    _require_options(x, padding, stride=stride, dilation=dilation)
    require_for_each_axis("output_padding", output_padding, x.ndim - 2, at_least=0)
    _require_channels(params, x, groups)
    space = _transposed_space(params, x, stride, padding, dilation, output_padding)
    for axis, extra in zip(space, for_each(output_padding, space), strict=True):
        if extra >= max(axis.stride, axis.dilation):
            raise ValueError(
                f"option output_padding is {output_padding!r}; along axis {axis.axis} it must be "
                f"smaller than the stride, {axis.stride}, or the dilation, {axis.dilation}"
            )
        if axis.size < 1:
            raise ValueError(
                f"along axis {axis.axis} the kernel covers {axis.reach} entries, and with padding "
                f"{padding!r} nothing remains of the output; x has shape {x.shape} and "
                f"params['w'] {params['w'].shape}"
            )


@conv_transpose.forward
def conv_transpose_fwd(params, x, *, groups=1, **options):
    """y = the dx of the convolution that it transposes, + b."""
    space = _transposed_space(params, x, **options)
    y = _plus_bias(gradient_of_x(x, transposed(params["w"], groups), space, groups), params)
    return y, ConvolutionResiduals(params, x)


@conv_transpose.backward
def conv_transpose_bwd(residuals, dy, **options):
    """dW = dy convolved with x, transposed; db = Σₙₚ dy; dx = dy convolved with the flipped Wᵀ."""
    dy, dx = conv_transpose_bwd_input(residuals, dy, **options)
    return conv_transpose_bwd_params(residuals, dy, **options), dx


@conv_transpose.backward_input
def conv_transpose_bwd_input(residuals, dy, *, groups=1, **options):
    """dx = dy convolved with the flipped Wᵀ; the gradients of the params need dy itself."""
    params, x = residuals
    space = _transposed_space(params, x, **options)
    return dy, convolve(dy, transposed(params["w"], groups), space, groups)


@conv_transpose.backward_params
def conv_transpose_bwd_params(residuals, dy, *, groups=1, **options):
    """dW = dy convolved with x, transposed; db = Σₙₚ dy."""
    params, x = residuals
    space = _transposed_space(params, x, **options)
    return _with_bias(transposed(gradient_of_w(dy, x, space, groups), groups), dy, params)


@conv_transpose.backward_examples
def conv_transpose_bwd_examples(residuals, dy, *, examples_axis, groups=1, **options):
    """dWₙ[k] = Σ_q xₙ[q]ᵀ·dyₙ[s·q + l − d·k], dbₙ = Σₚ dyₙ[p]."""
    require_examples_first(examples_axis)
    params, x = residuals
    image, met = pixels_met(dy, _transposed_space(params, x, **options))
    kernel = params["w"].shape[:-2]
    form = Patches(image, _grouped(x, groups), met[::-1], kernel, transpose=True)
    return _of_examples(form, dy, params)


@conv_transpose.tangent
def conv_transpose_tangent(residuals, tangents, *, groups=1, **options):
    """The ẏ of `conv`, with transposed convolutions."""
    space = _transposed_space(*residuals, **options)

    def convolution(x, w):
        return gradient_of_x(x, transposed(w, groups), space, groups)

    return _tangent(convolution, residuals, tangents)


def _options_of_lax(x, stride, dilation):
    """For a definition: the options in the form that JAX's own convolutions take."""
    n_axes = x.ndim - 2
    strides, dilations = ((n,) * n_axes if isinstance(n, int) else n for n in (stride, dilation))
    space = "DHW"[-n_axes:]
    return strides, dilations, (f"N{space}C", f"{space}IO", f"N{space}C")


def _reaches(w, dilations):
    """For a definition: the number of entries that the kernel spans along each axis."""
    return tuple(d * (n - 1) + 1 for n, d in zip(w.shape[:-2], dilations, strict=True))


def _padding_of_spread_x(padding, reaches, strides, output_padding):
    """For a definition: the zeros around x̃."""
    n_axes, pairs = len(reaches), []
    paddings = padding if isinstance(padding, tuple) else (padding,) * n_axes
    extras = output_padding if isinstance(output_padding, tuple) else (output_padding,) * n_axes
    for padded, r, s, extra in zip(paddings, reaches, strides, extras, strict=True):
        cut = {
            "VALID": (0, 0),
            "CAUSAL": (0, r - s),
            "SAME": ((r - s) // 2, r - s - (r - s) // 2),
            "SAME_LOWER": (r - s - (r - s) // 2, (r - s) // 2),
        }
        if isinstance(padded, tuple):
            before, after = padded
        elif isinstance(padded, int):
            before = after = r - 1 - padded
        elif r < s:  # without a kernel to fill them, the last s − r entries are zeros
            before, after = r - 1, s - 1
        else:
            before, after = r - 1 - cut[padded][0], r - 1 - cut[padded][1]
        pairs.append((before, after + extra))
    return pairs


def _space(params, x, stride=1, padding="SAME", dilation=1):
    """The windows of `conv` along each axis."""
    return windows_along(x.shape, params["w"].shape[:-2], stride, padding, dilation)


def _transposed_space(params, x, stride=1, padding="SAME", dilation=1, output_padding=0):
    """The windows of the convolution that `conv_transpose` transposes, along each axis."""
    kernel = params["w"].shape[:-2]
    return transposed_windows(x.shape, kernel, stride, padding, dilation, output_padding)


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


def _of_examples(form, dy, params):
    """The gradient of W for each example, and that of b where there is a b."""
    if "b" not in params:
        return {"w": form}
    return {"w": form, "b": sum_over_places(dy, range(1, dy.ndim - 1))}


def _grouped(x, groups):
    """(N, P, G, channels of a group)."""
    return x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)


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
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            "x must be (N, W, channels), (N, H, W, channels) or (N, D, H, W, channels), got shape "
            f"{x.shape}"
        )
    if 0 in x.shape[1:-1]:
        raise ValueError(f"x has shape {x.shape}, with no entries along a spatial axis")
    if len(w_shape) != x.ndim:
        kernel = ("w", "h, w", "d, h, w")[x.ndim - 3]
        raise ValueError(
            f"params['w'] must be ({kernel}, inputs, outputs) for x of shape {x.shape}, got shape "
            f"{w_shape}"
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


def _require_channels(params, x, groups):
    if type(groups) is not int:
        raise TypeError(f"option groups must be an integer, got {groups!r}")
    n_in, w_shape = x.shape[-1], params["w"].shape
    if groups < 1 or n_in % groups or w_shape[-1] % groups:
        raise ValueError(
            f"option groups is {groups}; it must divide the {n_in} channels of x and the "
            f"{w_shape[-1]} outputs of params['w']"
        )
    expected = n_in // groups
    if w_shape[-2] != expected:
        share = f" in {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"x is {describe(x)} but params['w'] has shape {w_shape}: with {n_in} "
            f"channels{share} its axis -2 must be {expected}"
        )
