"""Tiles of the T×S pairs of queries and keys, all heads at once.

The arrays of attention are (batch, positions, heads, components). A part of one, what belongs to
a tile, is (batch, key/value heads, rows, components): the queries of the heads that share a
key/value head are rows of one matrix, so no product needs a copy of the keys for each head, and
one over the rows sums over those heads by itself.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

SCORES = 2**20  # of all heads in a tile, by default
SHORTEST, LONGEST = 128, 512  # sides of a tile, by default, where there are so many positions


class Tiles(NamedTuple):
    """A cover of the pairs.

    Attributes:
        heads: of the queries.
        kv_heads: of the keys.
        rows: queries in a tile.
        columns: keys in a tile.
        places: the row and the column of every tile that is not left out.
    """

    heads: int
    kv_heads: int
    rows: int
    columns: int
    places: tuple[np.ndarray, np.ndarray]

    def pad_queries(self, a: Array) -> Array:
        """Zeros after the last query, up to whole tiles."""
        return _pad(a, 1, self.rows)

    def pad_keys(self, a: Array) -> Array:
        """Zeros after the last key, up to whole tiles."""
        return _pad(a, 1, self.columns)

    def pad_pairs(self, a: Array) -> Array:
        """The same for a bias or a mask; what is 1 stays 1."""
        for axis, size in ((2, self.rows), (3, self.columns)):
            a = a if a.shape[axis] == 1 else _pad(a, axis, size)
        return a

    def queries(self, a: Array, i) -> Array:
        """The part that belongs to row i of tiles."""
        part = lax.dynamic_slice_in_dim(a, i * self.rows, self.rows, 1)
        return self.by_group(part.transpose(0, 2, 1, 3))

    def set_queries(self, a: Array, i, part: Array) -> Array:
        """The array with this part."""
        part = self.by_head(part).transpose(0, 2, 1, 3)
        return lax.dynamic_update_slice_in_dim(a, part, i * self.rows, 1)

    def add_queries(self, a: Array, i, part: Array) -> Array:
        """The array with this added to the part."""
        return self.set_queries(a, i, self.queries(a, i) + part)

    def keys(self, a: Array, j) -> Array:
        """The part that belongs to column j of tiles."""
        part = lax.dynamic_slice_in_dim(a, j * self.columns, self.columns, 1)
        return part.transpose(0, 2, 1, 3)

    def add_keys(self, a: Array, j, part: Array) -> Array:
        """The array with this added to the part."""
        part = (self.keys(a, j) + part).transpose(0, 2, 1, 3)
        return lax.dynamic_update_slice_in_dim(a, part, j * self.columns, 1)

    def pairs(self, a: Array, i, j) -> Array:
        """The part of a bias or a mask that belongs to tile (i, j); what is 1 stays 1."""
        for axis, index, size in ((2, i, self.rows), (3, j, self.columns)):
            if a.shape[axis] != 1:
                a = lax.dynamic_slice_in_dim(a, index * size, size, axis)
        return a

    def add_pairs(self, a: Array, i, j, part: Array) -> Array:
        """The array with this, (batch, heads, rows, columns), added, summed where it is 1."""
        axes = tuple(axis for axis in range(4) if a.shape[axis] == 1)
        part = self.pairs(a, i, j) + jnp.sum(part, axes, keepdims=True)
        starts = [
            0 * index if a.shape[axis] == 1 else index * size
            for axis, index, size in ((2, i, self.rows), (3, j, self.columns))
        ]
        return lax.dynamic_update_slice(a, part, (0 * i, 0 * j, *starts))

    def by_head(self, part: Array) -> Array:
        """(batch, key/value heads, rows of a group, components) → (batch, heads, rows, …)."""
        return part.reshape(part.shape[0], self.heads, self.rows, part.shape[-1])

    def by_group(self, part: Array) -> Array:
        """The way back."""
        group = self.heads // self.kv_heads
        return part.reshape(part.shape[0], self.kv_heads, group * self.rows, part.shape[-1])


def tiles_of(q: Array, k: Array, *, causal: bool, block: int | None) -> Tiles:
    """Tiles of `block` by `block`, or less where that leaves less to fill up.

    Where causal, tiles above the diagonal are left out: all their keys come after their queries.
    """
    batch, t, heads, _ = q.shape
    _, s, kv_heads, _ = k.shape
    if block is None:
        fits = math.isqrt(SCORES // max(batch * heads, 1))
        block = min(max(fits, SHORTEST), LONGEST)
    (rows, rows_of), (columns, columns_of) = (_split(n, block) for n in (t, s))
    places = [
        (i, j)
        for i in range(rows_of)
        for j in range(columns_of)
        if not causal or j * columns < (i + 1) * rows
    ]
    i, j = np.array(places, np.int32).reshape(-1, 2).T
    return Tiles(heads, kv_heads, rows, columns, (i, j))


def _split(n, block):
    """The size and number of equal pieces of n, none longer than block."""
    pieces = -(-n // block)
    return -(-n // max(pieces, 1)), pieces


def _pad(a, axis, size):
    missing = -a.shape[axis] % size if size else 0
    widths = [(0, missing if axis == each else 0) for each in range(a.ndim)]
    return jnp.pad(a, widths)
