"""Sums, means and maxima over the segments of a ragged batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import describe, require_floating, require_integers

Values = Float[Array, "N *D"]
Segments = Float[Array, "S *D"]
Ids = Integer[Array, " N"]
Winners = Integer[Array, "..."]


class SegmentSumResiduals(NamedTuple):
    """The ids."""

    segment_ids: Ids


class SegmentMeanResiduals(NamedTuple):
    """The ids, and the number of values in each segment."""

    segment_ids: Ids
    number: Float[Array, " S"]


class SegmentMaxResiduals(NamedTuple):
    """The ids, and the position of each maximum; N where a segment is empty."""

    segment_ids: Ids
    winner: Winners


@op
def segment_sum(values: Values, segment_ids: Ids, *, num_segments: int) -> Segments:
    """Sum of the values of each segment, yₛ = Σ vₙ over the n with idₙ = s.

    The ids need no order. A value whose id is out of range is dropped, even NaN; an empty segment
    has the sum 0.

    Shapes:
        N values of any shape D; S segments
        values, dv: (N, D)
        segment_ids: integers (N,), 0 … S − 1
        y, dy: (S, D)

    Backward, from ⟨dy, ẏ⟩ = Σₛ Σ ⟨dyₛ, v̇ₙ⟩ over the n with idₙ = s:
        dvₙ = dy[idₙ], and 0 where the id is out of range

    Saves the ids. Sums of float16 and bfloat16 accumulate in float32.

    Args:
        values: the values of all segments.
        segment_ids: the segment of each value.
        num_segments: S.

    Raises:
        TypeError: values are not floating point, ids are not integers, or num_segments is not one.
        ValueError: there is not one id for each value, or num_segments is below 0.

    Reference: JAX's `jax.ops.segment_sum`, which drops ids out of range as well.

    Example:
        >>> values = jnp.array([1.0, 2.0, 4.0, 8.0])
        >>> print(jaxnn.segment_sum(values, jnp.array([0, 2, 0, -1]), num_segments=3))
        [5. 0. 2.]
    """
    return jax.ops.segment_sum(values, segment_ids.astype(int), num_segments)


@segment_sum.validate
def _(values, segment_ids, *, num_segments):
    require_segments(values, segment_ids, num_segments)


@segment_sum.forward
@wide
def segment_sum_fwd(values, segment_ids, *, num_segments):
    """yₛ = Σ vₙ over the n with idₙ = s."""
    return _sums(values, segment_ids, num_segments), SegmentSumResiduals(segment_ids)


@segment_sum.backward
def segment_sum_bwd(residuals, dy, *, num_segments):
    """dvₙ = dy[idₙ]."""
    return _of_each_value(dy, residuals.segment_ids), None


@op
def segment_mean(values: Values, segment_ids: Ids, *, num_segments: int) -> Segments:
    """Mean of the values of each segment, yₛ = (1/Nₛ)·Σ vₙ over the n with idₙ = s.

    The ids need no order. A value whose id is out of range is dropped, even NaN; an empty segment
    has the mean 0.

    Shapes:
        N values of any shape D; S segments, of Nₛ values each
        values, dv: (N, D)
        segment_ids: integers (N,), 0 … S − 1
        y, dy: (S, D)

    Backward, from ⟨dy, ẏ⟩ = Σₛ Σ ⟨dyₛ/Nₛ, v̇ₙ⟩ over the n with idₙ = s:
        dvₙ = dy[idₙ]/N[idₙ], and 0 where the id is out of range
    dy is divided before it is spread over the values.

    Saves the ids and the numbers Nₛ, which would cost another pass over the ids.

    Args:
        values: the values of all segments.
        segment_ids: the segment of each value.
        num_segments: S.

    Raises:
        TypeError: values are not floating point, ids are not integers, or num_segments is not one.
        ValueError: there is not one id for each value, or num_segments is below 0.

    Reference: the mean of JAX's `jax.ops.segment_sum`; TensorFlow's `unsorted_segment_mean`.

    Example:
        >>> values = jnp.array([1.0, 2.0, 4.0, 8.0])
        >>> print(jaxnn.segment_mean(values, jnp.array([0, 2, 0, -1]), num_segments=3))
        [2.5 0.  2. ]
    """
    ids = segment_ids.astype(int)
    number = jax.ops.segment_sum(jnp.ones_like(values, shape=ids.shape), ids, num_segments)
    total = jax.ops.segment_sum(values, ids, num_segments)
    return total / jnp.maximum(number, 1).reshape(-1, *[1] * (values.ndim - 1))


@segment_mean.validate
def _(values, segment_ids, *, num_segments):
    require_segments(values, segment_ids, num_segments)


@segment_mean.forward
@wide
def segment_mean_fwd(values, segment_ids, *, num_segments):
    """yₛ = (1/Nₛ)·Σ vₙ over the n with idₙ = s."""
    ones = jnp.ones_like(values, shape=segment_ids.shape)
    number = jnp.maximum(_sums(ones, segment_ids, num_segments), 1)
    total = _sums(values, segment_ids, num_segments)
    return total / _beside(number, total), SegmentMeanResiduals(segment_ids, number)


@segment_mean.backward
@wide
def segment_mean_bwd(residuals, dy, *, num_segments):
    """dvₙ = dy[idₙ]/N[idₙ]."""
    segment_ids, number = residuals
    return _of_each_value(dy / _beside(number, dy), segment_ids), None


@op
def segment_max(values: Values, segment_ids: Ids, *, num_segments: int) -> Segments:
    """Maximum of the values of each segment, yₛ = max vₙ over the n with idₙ = s.

    The ids need no order. A value whose id is out of range is dropped, even NaN; an empty segment
    has the maximum 0.

    Shapes:
        N values of any shape D; S segments
        values, dv: (N, D)
        segment_ids: integers (N,), 0 … S − 1
        y, dy: (S, D)

    Backward: each maximum is one of the values, ẏₛ = v̇ at its position, so
        dvₙ = dy[idₙ] where n is the position of the maximum, and else 0
    Of several equal maxima the first one counts.

    Saves the ids, and the position of each maximum as an integer.

    Args:
        values: the values of all segments.
        segment_ids: the segment of each value.
        num_segments: S.

    Raises:
        TypeError: values are not floating point, ids are not integers, or num_segments is not one.
        ValueError: there is not one id for each value, or num_segments is below 0.

    Reference: JAX's `jax.ops.segment_max`, where an empty segment is −∞ and equal maxima share the
    gradient.

    Example:
        >>> values = jnp.array([1.0, 2.0, 4.0, 8.0])
        >>> print(jaxnn.segment_max(values, jnp.array([0, 2, 0, -1]), num_segments=3))
        [4. 0. 2.]
    """
    ids, n = segment_ids.astype(int), values.shape[0]
    if num_segments == 0:
        return jnp.zeros_like(values, shape=(0, *values.shape[1:]))
    fixed = jax.lax.stop_gradient(values)
    maxima = jax.ops.segment_max(fixed, ids, num_segments)
    of_value = maxima.at[ids].get(mode="fill", wrap_negative_indices=False)
    places = jnp.arange(n).reshape(-1, *[1] * (values.ndim - 1))
    is_largest = (fixed == of_value) | jnp.isnan(fixed)
    first = jax.ops.segment_min(jnp.where(is_largest, places, n), ids, num_segments)
    first = jnp.minimum(first, n)
    padded = jnp.concatenate([values, jnp.zeros_like(values, shape=(1, *values.shape[1:]))])
    return jnp.take_along_axis(padded, first, axis=0)


@segment_max.validate
def _(values, segment_ids, *, num_segments):
    require_segments(values, segment_ids, num_segments)


@segment_max.forward
def segment_max_fwd(values, segment_ids, *, num_segments):
    """yₛ = max vₙ over the n with idₙ = s, and the first n that has it."""
    shape = (num_segments, *values.shape[1:])
    ids, none = _rows(segment_ids), jnp.int32(values.shape[0])
    lowest = jnp.finfo(values.dtype).min  # −∞ counts as this; the winner's own value is returned
    clipped = jnp.maximum(values, lowest)
    room = jnp.full(shape, lowest, values.dtype).at[ids]
    maxima = room.max(clipped, mode="drop", wrap_negative_indices=False)
    is_largest = (clipped == _of_each_value(maxima, segment_ids)) | jnp.isnan(values)
    places = jnp.where(is_largest, _places(values), none)
    winner = jnp.full(shape, none).at[ids].min(places, mode="drop", wrap_negative_indices=False)
    y = jnp.take_along_axis(values, winner, axis=0, mode="fill", fill_value=0)
    return y, SegmentMaxResiduals(segment_ids, winner)


@segment_max.backward
def segment_max_bwd(residuals, dy, *, num_segments):
    """dvₙ = dy[idₙ] where n is the position of the maximum."""
    segment_ids, winner = residuals
    of_value = _of_each_value(winner, segment_ids)
    wins = of_value == _places(of_value)
    return jnp.where(wins, _of_each_value(dy, segment_ids), 0), None


def require_segments(values, segment_ids, num_segments) -> None:
    """Raise unless there is one integer for each value, and a number of segments."""
    require_floating(values=values)
    require_integers("segment_ids", segment_ids)
    if values.ndim == 0 or segment_ids.shape != values.shape[:1]:
        raise ValueError(
            f"segment_ids is {describe(segment_ids)} but values is {describe(values)}; there must "
            "be one id for each entry of the first axis of values"
        )
    if type(num_segments) is not int:
        raise TypeError(f"option num_segments must be an integer, got {num_segments!r}")
    if num_segments < 0:
        raise ValueError(f"option num_segments must not be negative, got {num_segments}")


def _rows(segment_ids: Ids) -> Ids:
    """Ids in a dtype that holds the number of segments."""
    return segment_ids.astype(jnp.int32) if segment_ids.dtype.itemsize < 4 else segment_ids


def _sums(values, segment_ids, num_segments):
    """Σ vₙ over the n with idₙ = s."""
    zeros = jnp.zeros_like(values, shape=(num_segments, *values.shape[1:]))
    return zeros.at[_rows(segment_ids)].add(values, mode="drop", wrap_negative_indices=False)


def _of_each_value(segments, segment_ids):
    """The entry of each value's segment, 0 for an id out of range."""
    if len(segments) == 0:  # JAX gathers from no rows only with bounds checked
        return jnp.zeros_like(segments, shape=(*segment_ids.shape, *segments.shape[1:]))
    rows = segments.at[_rows(segment_ids)]
    return rows.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _beside(vector, array):
    """A vector along the first axis of an array, with the other axes of size 1."""
    return jnp.expand_dims(vector, tuple(range(1, array.ndim)))


def _places(values):
    """The position of each value."""
    return _beside(jnp.arange(values.shape[0], dtype=jnp.int32), values)
