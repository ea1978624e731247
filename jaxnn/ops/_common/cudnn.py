"""Attention by JAX's cuDNN kernels: the calls, and a test of which problems they can take.

JAX's public function returns no statistics in float32 and has no backward without autodiff, so
this module calls JAX's private functions. If a version of JAX changes them, `obstacle` reports it
and attention falls back to tiles.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

LARGEST_HEAD = 128


class Problem(NamedTuple):
    """The static part of a call.

    Attributes:
        scale: the factor of the products of queries and keys.
        causal: whether a query sees no later key.
        before: the number of earlier keys that a query of causal attention sees; `None` for all.
    """

    scale: float
    causal: bool
    before: int | None


def obstacle(q, k, v, problem: Problem) -> str | None:
    """The reason why cuDNN cannot compute this, or `None` if it can."""
    if jax.default_backend() != "gpu":
        return f"the default backend is {jax.default_backend()}, not a GPU"
    if q.dtype not in (jnp.float16, jnp.bfloat16):
        return f"it takes float16 and bfloat16, but q is {q.dtype}"
    if q.shape[3] % 8 or q.shape[3] > LARGEST_HEAD or v.shape[3] != q.shape[3]:
        return (
            f"it takes heads of one size, a multiple of 8 up to {LARGEST_HEAD}, but those of q "
            f"have {q.shape[3]} components and those of v have {v.shape[3]}"
        )
    if any(map(is_symbolic_dim, (*q.shape, *k.shape))):
        return "a size is symbolic"
    if 0 in (*q.shape, *k.shape):
        return "an array is empty"
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (q, k, v))
    return _untraceable(shapes, problem)


def forward(q, k, v, problem: Problem):
    """The output, and for each row log Σ e^s in float32, (batch, T, heads, 1)."""
    fused, mask, window = _settings(problem)
    y, log_total = fused.dot_product_attention(
        q,
        k,
        v,
        scale=problem.scale,
        mask_type=mask,
        sliding_window_length=window,
        return_residual=True,
    )
    return y, log_total.transpose(0, 2, 1)[..., None]


def backward(q, k, v, y, log_total, dy, problem: Problem):
    """The gradients dq, dk and dv, from the results of `forward`."""
    fused, mask, window = _settings(problem)
    unused = (jnp.zeros(0, q.dtype),) * 7
    saved = q, k, v, *unused, log_total[..., 0].transpose(0, 2, 1), y
    layout, seed, version = fused.AttentionLayout.BTNH.value, 42, fused.check_cudnn_version()
    return fused._dot_product_attention_bwd_rule(
        problem.scale, seed, 0.0, (False, False), mask, layout, window, version, False, saved, dy
    )[:3]


def on_cuda(ours, tiles, *args):
    """`ours(*args)` on an NVIDIA GPU, and `tiles(*args)`, the same function, on other platforms.

    cuDNN's kernels have no second-order derivative: for it, JAX differentiates `tiles`.
    """

    @jax.custom_jvp
    def of_args(*args):
        return lax.platform_dependent(*args, cuda=ours, default=tiles)

    @of_args.defjvp
    def _(primals, tangents):
        return jax.jvp(tiles, primals, tangents)

    return of_args(*args)


def _settings(problem: Problem):
    """JAX's module, and its encoding of the mask and the window."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    mask = fused.MaskType.CAUSAL if problem.causal else fused.MaskType.NO_MASK
    return fused, mask, None if problem.before is None else problem.before + 1


@cache
def _untraceable(shapes, problem: Problem) -> str | None:
    """The reason why JAX cannot trace forward and backward for these shapes, or `None`."""

    def both(q, k, v):
        y, log_total = forward(q, k, v, problem)
        return backward(q, k, v, y, log_total, y, problem)

    try:
        gradients = jax.eval_shape(both, *shapes)
    except Exception as error:
        return f"JAX rejects it: {error}"
    fits = [(g.shape, g.dtype) for g in gradients] == [(a.shape, a.dtype) for a in shapes]
    return None if fits else "this version of JAX has another interface to it"
