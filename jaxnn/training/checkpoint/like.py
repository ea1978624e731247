"""The requirements of the tree `like` on a file: its leaves, shapes, dtypes and shardings."""

import os
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, Sharding

from jaxnn.training.checkpoint.names import named_leaves


def wanted_leaves(like: Any) -> dict[str, Any]:
    """The leaves of `like` by name.

    Raises:
        TypeError: one is neither an array nor a `jax.ShapeDtypeStruct`.
    """
    leaves = named_leaves(like)
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise TypeError(
                f"leaf {name!r} of `like` must be an array or a jax.ShapeDtypeStruct, "
                f"got {type(leaf).__name__}"
            )
    return leaves


def require_same_names(
    path: str | os.PathLike, found: Collection[str], wanted: Collection[str]
) -> None:
    """Raise unless the file holds exactly the leaves of `like`."""
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{path} does not hold {missing[0]!r}")
    if extra := sorted(set(found) - set(wanted)):
        raise ValueError(f"{path} holds {extra[0]!r}, which `like` does not have")


def require_same(path: str | os.PathLike, name: str, found: tuple[Any, tuple], leaf: Any) -> None:
    """Raise unless the dtype and shape in the file are those of a leaf of `like`."""
    dtype = leaf.dtype if getattr(leaf.dtype, "isnative", True) else leaf.dtype.newbyteorder("=")
    if (str(found[0]), found[1]) != (str(dtype), leaf.shape):
        raise ValueError(
            f"{name!r} is {found[0]}{list(found[1])} in {path} but "
            f"{dtype}{list(leaf.shape)} was expected"
        )


def require_not_narrowed(path: str | os.PathLike, name: str, dtype: Any) -> None:
    """Raise if JAX would narrow a dtype of 64 bits to 32."""
    if not isinstance(dtype, np.dtype):  # that of a PRNG key
        return
    if (narrow := jax.dtypes.canonicalize_dtype(dtype)) != dtype:
        raise ValueError(
            f"{name!r} is {dtype} in {path}, which JAX would narrow to {narrow}: "
            'call jax.config.update("jax_enable_x64", True) first'
        )


def sharding_of(leaf: Any) -> Sharding | None:
    """The sharding that a leaf of `like` requests, if any."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        sharding = leaf.sharding
        abstract = isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh)
        return None if abstract else sharding
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.committed:
        return leaf.sharding
    return None
