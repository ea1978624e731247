"""Attention by cuDNN's kernels, as JAX has them: which calls they can take, and the calls.

JAX's public function gives no statistics in float32, and no backward without autodiff, so the
functions below its public surface are called. Where a version of JAX has others, `obstacle` says
so, and attention goes over tiles.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

LARGEST_HEAD = 128


class Problem(NamedTuple):
    """What is static in a call.

    Attributes:
        scale: of the products of queries and keys.
        causal: whether a query sees no later key.
        before: how many earlier keys a query of causal attention sees; `None` for all.
    """

    scale: float
    causal: bool
    before: int | None


def obstacle(q, k, v, problem: Problem) -> str | None:
    """Why cuDNN cannot compute this, in words, or `None` if it can."""
    if jax.default_backend() != "gpu":
        return f"the default backend is {jax.default_backend()}, not a GPU"
    if q.dtype not in (jnp.float16, jnp.bfloat16):
        return f"it takes float16 and bfloat16, and q is {q.dtype}"
    if q.shape[3] % 8 or q.shape[3] > LARGEST_HEAD or v.shape[3] != q.shape[3]:
        return (
            f"it takes heads of a multiple of 8 up to {LARGEST_HEAD} components, the same for "
            f"values, and these have {q.shape[3]} and {v.shape[3]}"
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
    """The gradients dq, dk and dv, from what `forward` returned."""
    fused, mask, window = _settings(problem)
    unused = (jnp.zeros(0, q.dtype),) * 7
    saved = q, k, v, *unused, log_total[..., 0].transpose(0, 2, 1), y
    layout, seed, version = fused.AttentionLayout.BTNH.value, 42, fused.check_cudnn_version()
    return fused._dot_product_attention_bwd_rule(
        problem.scale, seed, 0.0, (False, False), mask, layout, window, version, False, saved, dy
    )[:3]


def on_cuda(ours, tiles, *args):
    """`ours(*args)` on an NVIDIA GPU, and `tiles(*args)`, the same function, on other platforms.

    cuDNN's kernels have no derivative of second order: there JAX differentiates `tiles`.
    """

    @jax.custom_jvp
    def of_args(*args):
        return lax.platform_dependent(*args, cuda=ours, default=tiles)

    @of_args.defjvp
    def _(primals, tangents):
        return jax.jvp(tiles, primals, tangents)

    return of_args(*args)


def _settings(problem: Problem):
    """JAX's module, and the mask and the window in its terms."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    mask = fused.MaskType.CAUSAL if problem.causal else fused.MaskType.NO_MASK
    return fused, mask, None if problem.before is None else problem.before + 1


@cache
def _untraceable(shapes, problem: Problem) -> str | None:
    """Why JAX refuses to trace forward and backward for these shapes, or `None`."""

    def both(q, k, v):
        y, log_total = forward(q, k, v, problem)
        return backward(q, k, v, y, log_total, y, problem)

    try:
        gradients = jax.eval_shape(both, *shapes)
    except Exception as error:
        return f"JAX refuses it: {error}"
    fits = [(g.shape, g.dtype) for g in gradients] == [(a.shape, a.dtype) for a in shapes]
    return None if fits else "this version of JAX calls it in another way"
