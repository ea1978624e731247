"""Embedding: the rows of a table, one for each id or the sum of a bag of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from jaxnn.arrays import is_readable
from jaxnn.example_gradients import Rows, places, require_examples_axis
from jaxnn.op import op
from jaxnn.ops._common.numerics import at_least_float32, wide
from jaxnn.ops._common.tuning import BAG_UNROLL
from jaxnn.ops._common.validation import (
    require_equal_shapes,
    require_floating,
    require_integers,
    require_keys,
    require_where,
)
from jaxnn.ops.shape import Shape

Params = dict[str, Float[Array, "V D"]]
Ids = Integer[Array, "*N"]
Bags = Integer[Array, "*N L"]
Mask = Bool[Array, "..."]


class EmbeddingResiduals(NamedTuple):
    """The ids, and the shape of the table."""

    ids: Ids
    w: Shape


class EmbeddingBagResiduals(NamedTuple):
    """The ids, the weights, the mask, and the shape of the table; the table if there are weights.

    The gradient of the table needs only its shape; that of the weights needs its rows.
    """

    params: Params | None
    ids: Bags
    weights: Float[Array, "*N L"] | None
    where: Mask | None
    w: Shape


class Positions(NamedTuple):
    """The inputs of the loop over the positions of the bags, each (L, N)."""

    rows: Integer[Array, "..."]
    weights: Float[Array, "..."] | None
    seen: Mask | None


@op
def embedding(params: Params, ids: Ids, *, padding_idx: int | None = None) -> Float[Array, "*N D"]:
    """Embedding, y = w[ids]: one row of a table for each id.

    The row of `padding_idx` is read like any other, but its gradient is 0, as in PyTorch, so a row
    of zeros stays zero.

    Shapes:
        N ids, any number of axes or none; V rows; D components of each
        params: {"w": (V, D)}
        ids:    (N,) integers 0 … V − 1
        y, dy:  (N, D)

    Backward, from ⟨dy, ẏ⟩ with ẏₙ = ẇ[idsₙ]:
        ⟨dy, ẏ⟩ = Σₙ dyₙ·ẇ[idsₙ] = Σᵥ (Σ dyₙ over the n with idsₙ = v)·ẇᵥ, so
        dwᵥ = Σ dyₙ over the n with idsₙ = v

    That is dw = Eᵀ·dy of the linear map y = E·w, where Eₙᵥ = 1 if idsₙ = v and else 0. The matrix
    E is never built: each row of dy is added to its row of dw, which starts at zero. A row without
    an id has gradient 0, and that of `padding_idx` is set to 0. Ids have no gradient.

    For example n with the places t, dwₙ = Eₙᵀ·dYₙ, and since ⟨e_i, e_j⟩ = [i = j],
        ‖dwₙ‖² = Σₜₛ [idsₙₜ = idsₙₛ]·⟨dyₙₜ, dyₙₛ⟩

    Saves the ids and, of the table, only the shape. Sums of float16 and bfloat16 accumulate in
    float32.

    Args:
        params: the table.
        ids: the rows to read.
        padding_idx: a row without a gradient; −1 is the last row.

    Raises:
        TypeError: w is not floating point, ids are not integers, or padding_idx is not one.
        ValueError: params has keys other than "w", w is not a table with a row, or it has no row
            `padding_idx`; an id is out of range (under `jit`, where ids are not known, such an id
            gives a row of NaN, and its dy is dropped).

    Reference: Y. Bengio et al., "A Neural Probabilistic Language Model", 2003, section 2: the
    matrix C.

    Example:
        >>> params = {"w": jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])}
        >>> print(jaxnn.embedding(params, jnp.array([2, 0])))
        [[4. 5.]
         [0. 1.]]
    """
    w, wide_ids = params["w"], ids.astype(int)
    if padding_idx is not None:
        is_padding = jnp.arange(w.shape[0]) == padding_idx % w.shape[0]
        w = jnp.where(is_padding[:, None], lax.stop_gradient(w), w)
    return w.at[wide_ids].get(mode="fill", wrap_negative_indices=False)


@embedding.validate
def _(params, ids, *, padding_idx):
    require_table(params)
    require_padding_idx(padding_idx, params["w"].shape[0])
    require_ids(ids, params["w"].shape[0])


@embedding.forward
def embedding_fwd(params, ids, *, padding_idx=None):
    """y = w[ids], and the ids."""
    w, rows = params["w"], _rows(ids)
    y = w.at[rows].get(mode="fill", wrap_negative_indices=False)
    if padding_idx is not None:  # y itself; its derivative, which JAX takes for a second one, is 0
        is_padding = (rows == padding_idx % w.shape[0])[..., None]
        y = jnp.where(is_padding, lax.stop_gradient(y), y)
    return y, EmbeddingResiduals(ids, Shape(w.shape))


@embedding.backward
def embedding_bwd(residuals, dy, *, padding_idx=None):
    """dwᵥ = Σ dyₙ over the n with idsₙ = v; none for the ids."""
    dy, dids = embedding_bwd_input(residuals, dy, padding_idx=padding_idx)
    return embedding_bwd_params(residuals, dy, padding_idx=padding_idx), dids


@embedding.backward_input
def embedding_bwd_input(residuals, dy, *, padding_idx=None):
    """No gradient for the ids; that of the table needs dy itself."""
    return dy, None


@embedding.backward_params
@wide
def embedding_bwd_params(residuals, dy, *, padding_idx=None):
    """dwᵥ = Σ dyₙ over the n with idsₙ = v."""
    ids, w = residuals
    dw = jnp.zeros(w.sizes, dy.dtype).at[_rows(ids)]
    dw = dw.add(dy, mode="drop", wrap_negative_indices=False)
    return {"w": dw if padding_idx is None else dw.at[padding_idx].set(0)}


@embedding.backward_examples
def embedding_bwd_examples(residuals, dy, *, examples_axis, padding_idx=None):
    """Row v of dwₙ is Σₜ dyₙₜ over the t with idsₙₜ = v."""
    ids, w = residuals
    ids = _without(padding_idx, _rows(ids), w.sizes[0])
    return {"w": Rows(places(ids, examples_axis, 0), places(dy, examples_axis), w.sizes[0])}


@op
def embedding_bag(
    params: Params,
    ids: Bags,
    weights: Float[Array, "*N L"] | None = None,
    where: Mask | None = None,
    *,
    mode: str = "sum",
    padding_idx: int | None = None,
) -> Float[Array, "*N D"]:
    """Sum or mean of the rows of each bag of ids, yₙ = Σₗ aₙₗ·w[idsₙₗ], with optional weights a.

    Ids that `where` drops, and those equal to `padding_idx`, are omitted from the sum and from the
    number that a mean divides by. They may be any integers, and their weights anything, even NaN;
    their gradient is 0. A bag without ids gives 0.

    Shapes:
        N bags, any number of axes or none; L ids of each; V rows; D components of each
        params:  {"w": (V, D)}
        ids:     (N, L) integers 0 … V − 1
        weights: a (N, L); optional, 1 by default; only with mode="sum"
        where:   booleans that broadcast to (N, L); optional, all true by default
        y, dy:   (N, D)

    Backward, from ⟨dy, ẏ⟩ with ẏₙ = Σₗ aₙₗ·ẇ[idsₙₗ] + Σₗ ȧₙₗ·w[idsₙₗ], where a mean has
    aₙₗ = 1/(the number of ids in the bag):
        dwᵥ  = Σ aₙₗ·dyₙ over the n and l with idsₙₗ = v
        daₙₗ = ⟨dyₙ, w[idsₙₗ]⟩

    Saves the ids, the weights and the mask, and with weights the table, whose rows da uses.

    Implementation notes:
        A loop over the L positions adds one row to each bag at a time, forward and backward, so
        that no array of N·L·D numbers is built: 512 bags of 32 rows of 256 numbers take 7 ms and
        0.1 MB of temporary memory, and 31 ms and 34 MB in one piece (two cores of an AMD EPYC).

    Args:
        params: the table.
        ids: the rows of each bag.
        weights: the weight of each id.
        where: the ids that count, such as those within the length of a bag.
        mode: "sum" or "mean".
        padding_idx: a row that never counts; −1 is the last row.

    Raises:
        TypeError: w or the weights are not floating point, ids are not integers, where is not
            boolean, or padding_idx is not an integer.
        ValueError: params has keys other than "w", the shapes do not fit, the mode is unknown,
            there are weights for a mean, or an id is out of range (under `jit`, such an id gives a
            row of NaN, and its dy is dropped).

    Reference: PyTorch's `embedding_bag`, which also takes weights only for sums.

    Example:
        >>> params = {"w": jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])}
        >>> ids = jnp.array([[2, 0, 0], [1, 2, 2]])
        >>> lengths = jnp.array([1, 3])
        >>> print(jaxnn.embedding_bag(params, ids, where=jnp.arange(3)[None] < lengths[:, None]))
        [[ 4.  5.]
         [10. 13.]]
    """
    w, wide_ids = params["w"], ids.astype(int)
    seen = jnp.broadcast_to(True if where is None else where, ids.shape)
    if padding_idx is not None:
        seen &= wide_ids != padding_idx % w.shape[0]
    rows = w.at[jnp.where(seen, wide_ids, 0)].get(mode="fill", wrap_negative_indices=False)
    if weights is not None:
        rows = rows * jnp.where(seen, weights, 0)[..., None]
    total = jnp.sum(jnp.where(seen[..., None], rows, 0), axis=-2)
    if mode == "sum":
        return total
    number = jnp.sum(jnp.where(seen, jnp.ones_like(w, shape=ids.shape), 0), axis=-1, keepdims=True)
    return total / jnp.maximum(number, 1)


@embedding_bag.validate
def _(params, ids, weights, where, *, mode, padding_idx):
    require_table(params)
    require_padding_idx(padding_idx, params["w"].shape[0])
    require_integers("ids", ids)
    if ids.ndim == 0:
        raise ValueError("ids is a single number; its last axis must hold the ids of one bag")
    require_where(where, ids.shape)
    if mode not in ("sum", "mean"):
        raise ValueError(f"option mode must be 'sum' or 'mean', got {mode!r}")
    if weights is not None:
        require_floating(weights=weights)
        require_equal_shapes(ids=ids, weights=weights)
        if mode == "mean":
            raise ValueError("weights need mode='sum': a mean of ids has no weights")
    if is_readable(ids) and is_readable(where):
        counted = np.asarray(ids).astype(np.int64)
        if where is not None:
            counted = counted[np.broadcast_to(np.asarray(where), ids.shape)]
        if padding_idx is not None:
            counted = counted[counted != padding_idx % params["w"].shape[0]]
        require_ids(counted, params["w"].shape[0])


@embedding_bag.forward
def embedding_bag_fwd(params, ids, weights=None, where=None, *, mode="sum", padding_idx=None):
    """yₙ = Σₗ aₙₗ·w[idsₙₗ]."""
    w, table = params["w"], None if weights is None else params
    residuals = EmbeddingBagResiduals(table, ids, weights, where, Shape(w.shape))
    positions = _positions(residuals, padding_idx)

    def add(y, position):
        rows, a, seen = position
        picked = at_least_float32(_row_of_each(w, rows))
        return y + _only(seen, picked if a is None else picked * a[..., None]), None

    zeros = jnp.zeros_like(at_least_float32(w[:1]), shape=(*ids.shape[:-1], w.shape[1]))
    y, _ = lax.scan(add, zeros, positions, unroll=BAG_UNROLL.here)
    return y / _number(y, ids, positions.seen) if mode == "mean" else y, residuals


@embedding_bag.backward
def embedding_bag_bwd(residuals, dy, **options):
    """dwᵥ = Σ aₙₗ·dyₙ over the n and l with idsₙₗ = v, daₙₗ = ⟨dyₙ, w[idsₙₗ]⟩."""
    dy, *gradients = embedding_bag_bwd_input(residuals, dy, **options)
    return embedding_bag_bwd_params(residuals, dy, **options), *gradients


@embedding_bag.backward_input
def embedding_bag_bwd_input(residuals, dy, *, mode="sum", padding_idx=None):
    """daₙₗ = ⟨dyₙ, w[idsₙₗ]⟩; dw needs dy itself."""
    if residuals.weights is None:
        return dy, None, None, None

    of_bags = at_least_float32(dy)

    def inner(position):
        rows, _, seen = position
        picked = at_least_float32(_row_of_each(residuals.params["w"], rows))
        return _only(seen, jnp.sum(picked * of_bags, axis=-1))

    dweights = lax.map(inner, _positions(residuals, padding_idx))
    return dy, None, jnp.moveaxis(dweights, 0, -1), None


@embedding_bag.backward_params
@wide
def embedding_bag_bwd_params(residuals, dy, *, mode="sum", padding_idx=None):
    """dwᵥ = Σ aₙₗ·dyₙ over the n and l with idsₙₗ = v."""
    w, positions = residuals.w, _positions(residuals, padding_idx)
    dy = dy / _number(dy, residuals.ids, positions.seen) if mode == "mean" else dy

    def add(dw, position):
        rows, a, seen = position
        rows = rows if seen is None else jnp.where(seen, rows, w.sizes[0])
        d = dy if a is None else dy * a[..., None]
        return dw.at[rows].add(d, mode="drop", wrap_negative_indices=False), None

    empty = jnp.zeros_like(dy, shape=w.sizes)
    dw, _ = lax.scan(add, empty, positions, unroll=BAG_UNROLL.here)
    return {"w": dw}


@embedding_bag.backward_examples
@wide
def embedding_bag_bwd_examples(residuals, dy, *, examples_axis, mode="sum", padding_idx=None):
    """Row v of dwₙ is Σₗ aₙₗ·dyₙ over the l with idsₙₗ = v."""
    require_examples_axis(dy.ndim - 1, examples_axis)
    n_rows, positions = residuals.w.sizes[0], _positions(residuals, padding_idx)
    dy = dy / _number(dy, residuals.ids, positions.seen) if mode == "mean" else dy
    rows, a, seen = (None if p is None else jnp.moveaxis(p, 0, -1) for p in positions)
    rows = rows if seen is None else jnp.where(seen, rows, n_rows)
    deltas = jnp.broadcast_to(dy[..., None, :], (*rows.shape, dy.shape[-1]))
    deltas = deltas if a is None else deltas * a[..., None]
    return {"w": Rows(places(rows, examples_axis, 0), places(deltas, examples_axis), n_rows)}


def require_table(params) -> None:
    """Raise unless `params` are those of an embedding."""
    require_keys(params, ["w"])
    require_floating(**{"params['w']": params["w"]})
    shape = params["w"].shape
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"params['w'] must be (rows, components) with at least one row, got shape {shape}"
        )


def require_padding_idx(padding_idx, n_rows: int) -> None:
    """Raise unless the option is a row of the table, or `None`."""
    if padding_idx is None:
        return
    if type(padding_idx) is not int:
        raise TypeError(f"option padding_idx must be an integer, got {padding_idx!r}")
    if not -n_rows <= padding_idx < n_rows:
        raise ValueError(f"option padding_idx is {padding_idx} but there are {n_rows} rows")


def require_ids(ids, n_rows: int) -> None:
    """Raise unless ids are integers and, where they are known, rows of the table."""
    require_integers("ids", ids)
    if not is_readable(ids):
        return  # not known yet: at run time an id out of range gives NaN
    ids = np.asarray(ids)
    wrong = (ids < 0) | (ids >= n_rows)
    if wrong.any():
        raise ValueError(
            f"id {ids[wrong][0]} is out of range; params['w'] has {n_rows} rows, so "
            f"the ids are 0 … {n_rows - 1}"
        )


def _rows(ids: Ids) -> Ids:
    """Ids in a dtype that holds the number of rows."""
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids


def _without(padding_idx: int | None, rows: Ids, n_rows: int) -> Ids:
    """The rows, with that of `padding_idx` moved out of range."""
    if padding_idx is None:
        return rows
    return jnp.where(rows == padding_idx % n_rows, jnp.asarray(n_rows, rows.dtype), rows)


def _positions(residuals: EmbeddingBagResiduals, padding_idx: int | None) -> Positions:
    """The ids, weights and mask of each position of the bags, 0 where an id does not count."""
    _, ids, weights, where, w = residuals
    rows = _rows(ids)
    seen = None if where is None else jnp.broadcast_to(where, ids.shape)
    if padding_idx is not None:
        is_row = rows != padding_idx % w.sizes[0]
        seen = is_row if seen is None else seen & is_row
    if weights is not None:
        weights = at_least_float32(_only(seen, weights))
    found = Positions(_only(seen, rows), weights, seen)
    return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), found)


def _only(seen: Mask | None, array: Array) -> Array:
    """An array of one entry or row for each id, 0 for those that do not count."""
    if seen is None:
        return array
    return jnp.where(seen if seen.ndim == array.ndim else seen[..., None], array, 0)


def _row_of_each(w, rows):
    """The row of each id; NaN for an id out of range."""
    return w.at[rows].get(mode="fill", wrap_negative_indices=False)


def _number(y, ids: Bags, seen: Mask | None) -> Float[Array, "*N one"]:
    """The number of ids that count in each bag, at least 1."""
    ones = jnp.ones_like(y, shape=(ids.shape[-1], *ids.shape[:-1]))
    return jnp.maximum(jnp.sum(_only(seen, ones), axis=0), 1)[..., None]
