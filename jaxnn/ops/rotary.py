"""Rotary embedding of positions."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import (
    describe,
    require_floating,
    require_number,
)

Heads = Float[Array, "B T H D"]
Positions = Integer[Array, "N"] | Integer[Array, "B N"] | Float[Array, "N"] | Float[Array, "B N"]
Scaling = float | tuple[float, float, float, int]


class RotaryResiduals(NamedTuple):
    """The given positions, or `None`, and the output if they have a gradient."""

    positions: Positions | None
    y: Heads | None


@op
def rotary_embedding(
    x: Heads,
    positions: Positions | None = None,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    rotated: int | None = None,
    scaling: Scaling = 1.0,
    time_axis: int = 1,
) -> Heads:
    """Rotary embedding: turn each pair of a head's components by an angle ∝ the position.

    Shapes:
        B batch; T positions; H heads; D components of a head; R ≤ D rotated ones, an even number
        x, y, dx, dy: (B, T, H, D), or (B, H, T, D) with `time_axis=2`
        positions:    (T,) or (B, T), integers or floating point, by default 0 … T − 1
        dpositions:   the same for floating-point positions; integers have no gradient

    The first R components form R/2 pairs (x₁, x₂). At position t, pair i is turned by the angle
    θ = t·fᵢ, fᵢ = base^(−2i/R):
        (y₁, y₂) = (x₁·cos θ − x₂·sin θ, x₁·sin θ + x₂·cos θ)
    so the product of a query and a key depends only on the distance of their positions. The other
    D − R components do not change. Pair i consists of component i of the first half and component i
    of the second half of the R, or with `interleaved` of the neighbours 2i and 2i + 1.

    Backward, from ⟨dy, ẏ⟩ with ẏ = R(θ)·ẋ + θ̇·∂R/∂θ·x; the transpose of a rotation is the rotation
    back, and ∂R/∂θ·x is y turned by a right angle, (−y₂, y₁):
        dx = R(θ)ᵀ·dy = R(−θ)·dy                  ⟨dy, R(θ)·ẋ⟩ = ⟨R(θ)ᵀ·dy, ẋ⟩
        dt = Σ_h Σᵢ fᵢ·(dy₂·y₁ − dy₁·y₂)          θ̇ = fᵢ·ṫ for every head; summed over the batch
                                                  where all examples share their positions

    Saves the given positions, since recomputing the angles is cheap, and y if positions have a
    gradient: the attention that follows saves the same array as its queries or keys. Angles are
    computed in at least float32.

    Args:
        x: queries or keys.
        positions: optional, the position of each query or key.
        base: the base of the wavelengths, at least 1.
        interleaved: whether a pair consists of neighbours, as in GPT-J, rather than of one
            component of each half, as in GPT-NeoX and Llama.
        rotated: R, by default D.
        scaling: the scaling of the frequencies. A number c divides them all by c, which is the same
            as dividing the positions (position interpolation). A tuple (c, low, high, L), such as
            Llama 3.1's (8.0, 1.0, 4.0, 8192), divides by c the frequencies that turn fewer than
            `low` times within L positions, keeps those that turn more than `high` times, and
            interpolates between 1/c and 1 in between.
        time_axis: the axis of the positions in x, 1 or 2.

    Raises:
        TypeError: x is not floating point, positions are not numbers, or an option has a wrong
            type.
        ValueError: R is odd, the shapes do not fit, or an option is out of range.

    Reference: J. Su et al., "RoFormer", 2021, equation 34; S. Chen et al., "Extending Context
    Window of Large Language Models via Positional Interpolation", 2023; Hugging Face
    `modeling_rope_utils`, "linear" and "llama3".

    Example:
        >>> x = jnp.ones((1, 2, 1, 2))
        >>> print(jaxnn.rotary_embedding(x).reshape(2, 2))
        [[ 1.          1.        ]
         [-0.30116868  1.3817732 ]]
    """
    n, d = x.shape[time_axis], x.shape[-1] if rotated is None else rotated
    dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    t = (jnp.arange(n) if positions is None else positions).astype(dtype)
    frequency = base ** (-jnp.arange(0, d, 2, dtype=dtype) / d)
    if isinstance(scaling, tuple):
        factor, low, high, length = scaling
        turns = length * frequency / (2 * jnp.pi)
        between = (turns - low) / (high - low)
        mixed = (1 - between) * frequency / factor + between * frequency
        frequency = jnp.where(
            turns < low, frequency / factor, jnp.where(turns > high, frequency, mixed)
        )
    else:
        frequency = frequency / scaling
    theta = jnp.multiply.outer(t, frequency)
    theta = jnp.expand_dims(theta, -2 if time_axis in (1, -3) else -3)
    theta = jnp.broadcast_to(theta, (*x.shape[:3], d // 2))
    cos, sin = (f(theta).astype(x.dtype) for f in (jnp.cos, jnp.sin))
    if interleaved:
        x1, x2 = x[..., 0:d:2], x[..., 1:d:2]
    else:
        x1, x2 = x[..., : d // 2], x[..., d // 2 : d]
    y1, y2 = x1 * cos - x2 * sin, x1 * sin + x2 * cos
    if interleaved:
        return x.at[..., 0:d:2].set(y1).at[..., 1:d:2].set(y2)
    return jnp.concatenate([y1, y2, x[..., d:]], axis=-1)


@rotary_embedding.validate
def _(x, positions, *, base, interleaved, rotated, scaling, time_axis):
    require_floating(x=x)
    require_number("base", base, at_least=1)
    _require_scaling(scaling)
    if x.ndim != 4:
        raise ValueError(f"x must be (B, T, H, D), got shape {x.shape}")
    if type(time_axis) is not int or time_axis not in (1, 2, -3, -2):
        raise ValueError(
            "option time_axis must be 1 for x of (B, T, H, D) or 2 for (B, H, T, D), got "
            f"{time_axis!r}"
        )
    if rotated is not None and (
        type(rotated) is not int or rotated % 2 or not 0 <= rotated <= x.shape[-1]
    ):
        raise ValueError(
            f"option rotated must be an even number of components, at most the {x.shape[-1]} of x, "
            f"got {rotated!r}"
        )
    if rotated is None and x.shape[-1] % 2:
        raise ValueError(
            f"x has shape {x.shape}; its components are turned in pairs, so "
            "the last axis must be even"
        )
    if positions is None:
        return
    if not jnp.issubdtype(positions.dtype, jnp.number) or jnp.iscomplexobj(positions):
        raise TypeError(f"positions must be integers or floating point, got {describe(positions)}")
    n = x.shape[time_axis]
    if positions.shape not in ((n,), (x.shape[0], n)):
        raise ValueError(
            f"positions has shape {positions.shape}; with time_axis={time_axis} it must be "
            f"{(n,)} or {(x.shape[0], n)}, one for each position of x, which has shape {x.shape}"
        )


@rotary_embedding.forward
@wide
def rotary_embedding_fwd(x, positions=None, *, rotated=None, interleaved=False, **options):
    """y = R(θ)·x."""
    cos, sin = _cos_sin(x, positions, rotated, **options)
    y = _turned(x, cos, sin, interleaved)
    moving = positions is not None and jnp.issubdtype(positions.dtype, jnp.floating)
    return y, RotaryResiduals(positions, y if moving else None)


@rotary_embedding.backward
@wide
def rotary_embedding_bwd(
    residuals, dy, *, rotated=None, interleaved=False, base=10000.0, scaling=1.0, time_axis=1
):
    """dx = R(−θ)·dy, dt = Σ_h Σᵢ fᵢ·(dy₂·y₁ − dy₁·y₂)."""
    positions, y = residuals
    cos, sin = _cos_sin(dy, positions, rotated, base, scaling, time_axis)
    dx = _turned(dy, cos, -sin, interleaved)
    if y is None:
        return dx, None
    (dy1, dy2), (y1, y2) = (_pairs(a, 2 * cos.shape[-1], interleaved) for a in (dy, y))
    frequencies = _frequencies(dy, rotated, base, scaling)
    dt = jnp.sum((dy2 * y1 - dy1 * y2) * frequencies, (_axis_of_heads(time_axis), 3))
    return dx, jnp.sum(dt, 0) if positions.ndim == 1 else dt


def _cos_sin(x, positions, rotated, base=10000.0, scaling=1.0, time_axis=1):
    """Cosine and sine of the angles, with the axes of x; those of batch and heads have size 1."""
    if positions is None:
        positions = jnp.arange(x.shape[time_axis])
    positions = positions[None] if positions.ndim == 1 else positions
    positions = jnp.expand_dims(positions.astype(x.dtype), (_axis_of_heads(time_axis), 3))
    angles = positions * _frequencies(x, rotated, base, scaling)
    return jnp.cos(angles), jnp.sin(angles)


def _frequencies(x, rotated, base, scaling):
    """The angle between neighbouring positions for each pair, (1, 1, 1, R/2)."""
    width = x.shape[-1] if rotated is None else rotated
    frequencies = float(base) ** (-np.arange(0, width, 2) / max(width, 1))
    if isinstance(scaling, tuple):
        factor, low, high, length = scaling
        turns = length * frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = frequencies * (kept + (1 - kept) / factor)
    else:
        frequencies = frequencies / scaling
    return jnp.asarray(frequencies, x.dtype)[None, None, None]


def _axis_of_heads(time_axis):
    return 2 if time_axis in (1, -3) else 1


def _turned(x, cos, sin, interleaved):
    """The pairs of components turned by angles with these cosines and sines."""
    width = 2 * cos.shape[-1]
    x1, x2 = _pairs(x, width, interleaved)
    pairs = [x1 * cos - x2 * sin, x1 * sin + x2 * cos]
    if interleaved:
        pairs = [jnp.stack(pairs, -1).reshape(*x.shape[:3], width)]
    return jnp.concatenate([*pairs, x[..., width:]] if width < x.shape[3] else pairs, -1)


def _pairs(x, width, interleaved) -> tuple:
    """The two components of each pair of the first `width`."""
    if interleaved:
        return x[..., 0:width:2], x[..., 1:width:2]
    return x[..., : width // 2], x[..., width // 2 : width]


def _require_scaling(scaling) -> None:
    """Raise unless the option is a positive number or four of them, with low below high."""
    if not isinstance(scaling, tuple):
        require_number("scaling", scaling, above=0)
        return
    if len(scaling) != 4:
        raise ValueError(
            f"option scaling must be a number or a tuple (factor, low, high, length), got "
            f"{scaling!r}"
        )
    for name, value in zip(("factor", "low", "high", "length"), scaling, strict=True):
        require_number(f"scaling ({name})", value, above=0)
    if scaling[1] >= scaling[2]:
        raise ValueError(f"option scaling must have low below high, got {scaling!r}")
