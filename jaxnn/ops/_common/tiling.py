"""Tiles of the T×S pairs of queries and keys, all heads at once.

The arrays of attention are (batch, positions, heads, components). The part of one that belongs to
a tile is (batch, key/value heads, rows, components): the queries of the heads that share a
key/value head are rows of one matrix, so that no product needs a copy of the keys for each head,
and a sum over the rows is also a sum over those heads.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim

from jaxnn.ops._common.tuning import LONGEST_TILE, SHORTEST_TILE, TILE_SCORES


class Band(NamedTuple):
    """The keys around its own position that a query sees.

    Attributes:
        before: the largest distance of a key before the query; `None` for no limit.
        after: the same for keys after the query.
        start: the position of the first query among the keys: a number, symbolic or not, or an
            array of integers, () or (batch,).
    """

    before: int | None = None
    after: int | None = None
    start: int | Array = 0

    def meets(self, queries: range, keys: range) -> bool:
        """Whether any of these queries may see any of these keys; true if that is not known."""
        if not isinstance(self.start, int):
            return True
        first, last = queries.start + self.start, queries.stop - 1 + self.start
        early = self.after is None or keys.start <= last + self.after
        late = self.before is None or keys.stop - 1 >= first - self.before
        return early and late


class Tiles(NamedTuple):
    """The tiles that cover the pairs.

    Attributes:
        n_queries: T.
        n_keys: S.
        heads: the number of heads of the queries.
        kv_heads: the number of heads of the keys.
        band: the keys that a query sees by their positions.
        rows: the number of queries in a tile.
        columns: the number of keys in a tile.
        places: the row and the column of each tile.
    """

    n_queries: int
    n_keys: int
    heads: int
    kv_heads: int
    band: Band
    rows: int
    columns: int
    places: tuple[np.ndarray, np.ndarray] | tuple[Array, Array]

    @property
    def padded_queries(self) -> int:
        """The number of queries of all tiles: T, rounded up to whole tiles."""
        return _whole(self.n_queries, self.rows)

    def pad_queries(self, a: Array) -> Array:
        """The array with zeros after the last query, up to whole tiles."""
        return _resized(a, 1, self.padded_queries)

    def pad_keys(self, a: Array) -> Array:
        """The array with zeros after the last key, up to whole tiles."""
        return _resized(a, 1, _whole(self.n_keys, self.columns))

    def pad_pairs(self, a: Array) -> Array:
        """The same for a bias or a mask; an axis of size 1 stays as it is."""
        for axis, n, size in ((2, self.n_queries, self.rows), (3, self.n_keys, self.columns)):
            a = a if a.shape[axis] == 1 else _resized(a, axis, _whole(n, size))
        return a

    def crop_queries(self, a: Array) -> Array:
        """The array without the padding of `pad_queries`."""
        return _resized(a, 1, self.n_queries)

    def crop_keys(self, a: Array) -> Array:
        """The array without the padding of `pad_keys`."""
        return _resized(a, 1, self.n_keys)

    def crop_pairs(self, a: Array) -> Array:
        """The array without the padding of `pad_pairs`."""
        for axis, n in ((2, self.n_queries), (3, self.n_keys)):
            a = a if a.shape[axis] == 1 else _resized(a, axis, n)
        return a

    def queries(self, a: Array, i) -> Array:
        """The part that belongs to row i of the tiles."""
        part = lax.dynamic_slice_in_dim(a, i * self.rows, self.rows, 1)
        return self.by_group(part.transpose(0, 2, 1, 3))

    def set_queries(self, a: Array, i, part: Array) -> Array:
        """The array with this part in row i of the tiles."""
        part = self.by_head(part).transpose(0, 2, 1, 3)
        return lax.dynamic_update_slice_in_dim(a, part, i * self.rows, 1)

    def add_queries(self, a: Array, i, part: Array) -> Array:
        """The array with this part added to row i of the tiles."""
        return self.set_queries(a, i, self.queries(a, i) + part)

    def keys(self, a: Array, j) -> Array:
        """The part that belongs to column j of the tiles."""
        part = lax.dynamic_slice_in_dim(a, j * self.columns, self.columns, 1)
        return part.transpose(0, 2, 1, 3)

    def add_keys(self, a: Array, j, part: Array) -> Array:
        """The array with this part added to column j of the tiles."""
        part = (self.keys(a, j) + part).transpose(0, 2, 1, 3)
        return lax.dynamic_update_slice_in_dim(a, part, j * self.columns, 1)

    def pairs(self, a: Array, i, j) -> Array:
        """The part of a bias or a mask that belongs to tile (i, j); an axis of size 1 stays so."""
        for axis, index, size in ((2, i, self.rows), (3, j, self.columns)):
            if a.shape[axis] != 1:
                a = lax.dynamic_slice_in_dim(a, index * size, size, axis)
        return a

    def add_pairs(self, a: Array, i, j, part: Array) -> Array:
        """The array with a (batch, heads, rows, columns) part added, summed over its axes of 1."""
        axes = tuple(axis for axis in range(4) if a.shape[axis] == 1)
        part = self.pairs(a, i, j) + jnp.sum(part, axes, keepdims=True)
        starts = [
            0 * index if a.shape[axis] == 1 else index * size
            for axis, index, size in ((2, i, self.rows), (3, j, self.columns))
        ]
        return lax.dynamic_update_slice(a, part, (0 * i, 0 * j, *starts))

    def query_places(self, i) -> Array:
        """The positions of the queries of row i of the tiles."""
        return i * self.rows + jnp.arange(self.rows, dtype=jnp.int32)

    def key_places(self, j) -> Array:
        """The positions of the keys of column j of the tiles."""
        return j * self.columns + jnp.arange(self.columns, dtype=jnp.int32)

    def by_head(self, part: Array) -> Array:
        """(batch, key/value heads, rows of a group, components) → (batch, heads, rows, …)."""
        return part.reshape(part.shape[0], self.heads, self.rows, part.shape[-1])

    def by_group(self, part: Array) -> Array:
        """The inverse of `by_head`."""
        group = self.heads // self.kv_heads
        return part.reshape(part.shape[0], self.kv_heads, group * self.rows, part.shape[-1])

    def seen(self, mask, q_lengths, kv_lengths) -> Callable[..., Array] | None:
        """`(i, j) ->` mask of the pairs of tile (i, j), (batch or 1, heads or 1, rows, columns).

        `None` if no pair of any tile is masked.
        """
        mask = None if mask is None else self.pad_pairs(mask)
        q_lengths = _within(q_lengths, self.n_queries, self.rows)
        kv_lengths = _within(kv_lengths, self.n_keys, self.columns)
        before, after, start = self.band
        if mask is q_lengths is kv_lengths is before is after is None:
            return None

        def of_tile(i, j):
            rows, columns = self.query_places(i), self.key_places(j)
            shape = (1, 1, self.rows, self.columns)
            seen = jnp.ones(shape, bool) if mask is None else self.pairs(mask, i, j)
            if before is not None or after is not None:
                positions = jnp.atleast_1d(jnp.asarray(start, jnp.int32))[:, None] + rows[None]
                distance = (columns[None, None] - positions[:, :, None])[:, None]
                if after is not None:
                    seen = seen & (distance <= after)
                if before is not None:
                    seen = seen & (distance >= -before)
            if q_lengths is not None:
                seen = seen & (rows[None, :] < q_lengths[:, None])[:, None, :, None]
            if kv_lengths is not None:
                seen = seen & (columns[None, :] < kv_lengths[:, None])[:, None, None, :]
            return seen

        return of_tile


def tiles_of(
    q: Array,
    k: Array,
    *,
    band: Band,
    block: int | None,
    scores: int | None = None,
    aspect: int = 1,
) -> Tiles:
    """Tiles of `block` by `block`, or smaller where that needs less padding.

    Without `block`, a tile has about `scores` times `aspect` scores, of all heads of all examples,
    and `aspect` queries for each key; `scores` is `TILE_SCORES` by default.

    Tiles outside the band are omitted: with causal attention those above the diagonal, where every
    key comes after every query. If T or S is a symbolic dimension of `jax.export`, so is the number
    of tiles. In that case, and if the start of the band is an array, the loop visits all tiles and
    masks the pairs outside the band.
    """
    batch, t, heads, _ = q.shape
    _, s, kv_heads, _ = k.shape
    sides = block, block
    if block is None:
        side = _default_block(scores or TILE_SCORES.here, batch * heads, t, s)
        sides = aspect * side, side
    (rows, rows_of), (columns, columns_of) = map(_split, (t, s), sides)
    places: tuple[np.ndarray, np.ndarray] | tuple[Array, Array]
    if is_symbolic_dim(t) or is_symbolic_dim(s):
        tile = jnp.arange(rows_of * columns_of, dtype=jnp.int32)
        across = jnp.full_like(tile, columns_of)
        places = tile // across, tile % across
    else:
        listed = [
            (i, j)
            for i in range(rows_of)
            for j in range(columns_of)
            if band.meets(
                range(i * rows, min((i + 1) * rows, t)),
                range(j * columns, min((j + 1) * columns, s)),
            )
        ]
        i, j = np.array(listed, np.int32).reshape(-1, 2).T
        places = i, j
    return Tiles(t, s, heads, kv_heads, band, rows, columns, places)


def _default_block(scores, heads, t, s) -> int:
    """The side of a tile with this many scores of all heads of all examples."""
    if any(map(is_symbolic_dim, (heads, t, s))):
        return SHORTEST_TILE
    fits = math.isqrt(scores // max(heads, 1))
    return min(max(fits, SHORTEST_TILE), LONGEST_TILE.here)


def _split(n, block):
    """The size and number of equal pieces of n, none longer than block."""
    pieces = -(-n // block)
    return (block if is_symbolic_dim(n) else -(-n // max(pieces, 1))), pieces


def _whole(n, size):
    """The least multiple of size that is no less than n."""
    return -(-n // size) * size if size else n


def _resized(a, axis, size):
    """Zeros added at the end of an axis, or entries removed from it."""
    extra = [(0, size - a.shape[axis] if axis == each else 0, 0) for each in range(a.ndim)]
    return lax.pad(a, jnp.zeros((), a.dtype), extra)


def _within(lengths, n, size):
    """Lengths that also mask the padding added to fill the last tile after position n."""
    filled = size == 0 or n % size == 0
    if lengths is None:
        return None if filled else jnp.full(1, n, jnp.int32)
    return clamped(lengths, n)


def clamped(numbers: Array, largest) -> Array:
    """Integers as int32, clamped to −`largest` … `largest`.

    A narrow integer is widened first: in int8, a bound of 299 would be 43.
    """
    if numbers.dtype.itemsize < 4:
        numbers = numbers.astype(jnp.int32)
    numbers = jnp.minimum(numbers, jnp.full((), largest, numbers.dtype))
    if jnp.issubdtype(numbers.dtype, jnp.signedinteger):
        numbers = jnp.maximum(numbers, jnp.full((), -largest, numbers.dtype))
    return numbers.astype(jnp.int32)
