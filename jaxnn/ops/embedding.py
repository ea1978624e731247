"""Embedding: the rows of a table."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxnn.op import op
from jaxnn.ops._common.numerics import wide
from jaxnn.ops._common.validation import require_floating, require_integers, require_keys
from jaxnn.ops.shape import Shape

Params = dict[str, Float[Array, "V D"]]


class EmbeddingResiduals(NamedTuple):
    """The ids, and the shape of the table."""

    ids: Integer[Array, "*N"]
    w: Shape


@op
def embedding(params: Params, ids: Integer[Array, "*N"]) -> Float[Array, "*N D"]:
    """Embedding, y = w[ids]: one row of a table for each id.

    Shapes:
        N ids, any number of axes or none; V rows; D components of each
        params: {"w": (V, D)}
        ids:    (N,) integers 0 … V − 1
        y, dy:  (N, D)

    Backward, from ⟨dy, ẏ⟩ with ẏₙ = ẇ[idsₙ]:
        ⟨dy, ẏ⟩ = Σₙ dyₙ·ẇ[idsₙ] = Σᵥ (Σ dyₙ over the n with idsₙ = v)·ẇᵥ, so
        dwᵥ = Σ dyₙ over the n with idsₙ = v

    That is dw = Eᵀ·dy of the linear map y = E·w, where Eₙᵥ = 1 if idsₙ = v and else 0. The matrix
    E is never built: each row of dy is added to its row of dw, which starts at zero. A row that no
    id asks for has gradient 0. Ids have no gradient.

    Saves the ids; of the table only the shape is needed. Sums of float16 and bfloat16 are in
    float32.

    Raises:
        TypeError: w is not floating point, or ids are not integers.
        ValueError: params has keys other than "w", or w is not a table with a row; an id is out of
            range (under `jit`, where ids are not known, such an id gives a row of NaN, and its dy
            goes nowhere).

    Reference: Y. Bengio et al., "A Neural Probabilistic Language Model", 2003, section 2: the
    matrix C.

    Example:
        >>> params = {"w": jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])}
        >>> print(jaxnn.embedding(params, jnp.array([2, 0])))
        [[4. 5.]
         [0. 1.]]
    """
    return params["w"].at[ids.astype(int)].get(mode="fill", wrap_negative_indices=False)


@embedding.validate
def _(params, ids):
    require_keys(params, ["w"])
    require_floating(**{"params['w']": params["w"]})
    shape = params["w"].shape
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            f"params['w'] must be (rows, components) with at least one row, got shape {shape}"
        )
    require_integers("ids", ids)
    if isinstance(ids, jax.core.Tracer):
        return  # not known yet: at run time an id out of range gives NaN
    ids = np.asarray(ids)
    wrong = (ids < 0) | (ids >= shape[0])
    if wrong.any():
        raise ValueError(
            f"id {ids[wrong][0]} is out of range; params['w'] has {shape[0]} rows, so "
            f"the ids are 0 … {shape[0] - 1}"
        )


@embedding.forward
def embedding_fwd(params, ids):
    """y = w[ids], and the ids."""
    w = params["w"]
    y = w.at[_rows(ids)].get(mode="fill", wrap_negative_indices=False)
    return y, EmbeddingResiduals(ids, Shape(w.shape))


@embedding.backward
def embedding_bwd(residuals, dy):
    """dwᵥ = Σ dyₙ over the n with idsₙ = v; none for the ids."""
    dy, dids = embedding_bwd_input(residuals, dy)
    return embedding_bwd_params(residuals, dy), dids


@embedding.backward_input
def embedding_bwd_input(residuals, dy):
    """No gradient for the ids; that of the table needs dy itself."""
    return dy, None


@embedding.backward_params
@wide
def embedding_bwd_params(residuals, dy):
    """dwᵥ = Σ dyₙ over the n with idsₙ = v."""
    ids, w = residuals
    dw = jnp.zeros(w.sizes, dy.dtype).at[_rows(ids)]
    return {"w": dw.add(dy, mode="drop", wrap_negative_indices=False)}


def _rows(ids: Integer[Array, "*N"]) -> Integer[Array, "*N"]:
    """Ids in a dtype that holds the number of rows, whatever it is."""
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids
