"""Rotary embedding of positions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_floating, require_integers, require_number

Heads = Float[Array, "B T H D"]
Positions = Int[Array, "T"] | Int[Array, "B T"]


class RotaryResiduals(NamedTuple):
    """The given positions, or `None`."""

    positions: Positions | None


@op
def rotary_embedding(
    x: Heads, positions: Positions | None = None, *, base: float = 10000.0
) -> Heads:
    """Rotary embedding: turn each pair of a head's components by an angle ∝ the position.

    Shapes:
        B batch; T positions; H heads; D components of a head, an even number
        x, y, dx, dy: (B, T, H, D)
        positions:    integers (T,) or (B, T), by default 0 … T − 1; they have no gradient

    Component i of the first half and component i of the second half are a pair, and at position t
    they are turned by the angle θ = t·base^(−2i/D):
        (y₁, y₂) = (x₁·cos θ − x₂·sin θ, x₁·sin θ + x₂·cos θ)
    so the product of a query and a key depends on the distance of their positions alone. (Others
    pair neighbours, 2i with 2i + 1: the same up to the order of the components.)

    Backward, from ⟨dy, ẏ⟩ with ẏ = R(θ)·ẋ; the transpose of a rotation is the rotation back:
        dx = R(θ)ᵀ·dy = R(−θ)·dy      ⟨dy, R(θ)·ẋ⟩ = ⟨R(θ)ᵀ·dy, ẋ⟩

    Saves only the given positions: recomputing the angles is cheap. They are computed in at least
    float32.

    Args:
        x: queries or keys.
        positions: optional, the position of each.
        base: of the wavelengths.

    Raises:
        TypeError: x is not floating point, positions are not integers, or base is not a number.
        ValueError: D is odd, the shapes do not fit, or base is not positive.

    Reference: J. Su et al., "RoFormer", 2021, equation 34.

    Example:
        >>> x = jnp.ones((1, 2, 1, 2))
        >>> print(jaxnn.rotary_embedding(x).reshape(2, 2))
        [[ 1.          1.        ]
         [-0.30116868  1.3817732 ]]
    """
    n_batch, n_positions, n_heads, d = x.shape
    dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    t = jnp.arange(n_positions) if positions is None else positions
    theta = jnp.multiply.outer(t.astype(dtype), base ** (-jnp.arange(0, d, 2, dtype=dtype) / d))
    theta = jnp.broadcast_to(theta[..., None, :], (n_batch, n_positions, n_heads, d // 2))
    cos, sin = (f(theta).astype(x.dtype) for f in (jnp.cos, jnp.sin))
    x1, x2 = x[..., : d // 2], x[..., d // 2 :]
    return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis=-1)


@rotary_embedding.validate
def _(x, positions, *, base):
    require_floating(x=x)
    require_number("base", base, above=0)
    if x.ndim != 4:
        raise ValueError(f"x must be (B, T, H, D), got shape {x.shape}")
    if x.shape[-1] % 2:
        raise ValueError(
            f"x has shape {x.shape}; its components are turned in pairs, so "
            "the last axis must be even"
        )
    if positions is None:
        return
    require_integers("positions", positions)
    if positions.shape not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"positions has shape {positions.shape}; it must be "
            f"{x.shape[1:2]} or {x.shape[:2]}, one for each position of x"
        )


@rotary_embedding.forward
@wide
def rotary_embedding_fwd(x, positions=None, *, base=10000.0):
    """y = R(θ)·x."""
    cos, sin = _cos_sin(x, positions, base)
    return _turned(x, cos, sin), RotaryResiduals(positions)


@rotary_embedding.backward
@wide
def rotary_embedding_bwd(residuals, dy, *, base=10000.0):
    """dx = R(−θ)·dy."""
    cos, sin = _cos_sin(dy, residuals.positions, base)
    return _turned(dy, cos, -sin), None


def _turned(x, cos, sin):
    """The pairs of components turned by angles with these cosines and sines."""
    x1, x2 = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis=-1)


def _cos_sin(x, positions, base):
    """Cosine and sine of the angles at the positions of x, (B or 1, T, 1, D/2)."""
    _, t, _, d = x.shape
    positions = jnp.arange(t) if positions is None else positions
    positions = jnp.expand_dims(positions, (-2, -1))
    if positions.ndim == 3:
        positions = positions[None]
    frequencies = base ** (-jnp.arange(0, d, 2, dtype=x.dtype) / d)
    angles = positions.astype(x.dtype) * frequencies[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)
