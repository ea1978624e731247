"""Large and sharded trees of arrays in a folder, through Orbax."""

import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Sharding

from jaxnn.layer import Params
from jaxnn.training.checkpoint.errors import errors_of
from jaxnn.training.checkpoint.like import (
    require_not_narrowed,
    require_same,
    require_same_names,
    sharding_of,
    wanted_leaves,
)
from jaxnn.training.checkpoint.names import named_leaves
from jaxnn.training.checkpoint.stored import is_key, key_data, meaning, restored

STANDS_FOR = "jaxnn.stands_for"


def save_sharded(folder: str | os.PathLike, params: Params) -> None:
    """Write a tree of arrays to a new folder; each process writes the shards of its devices.

    The folder appears once everything is written. With several processes, all must call this, and
    `folder` must be one that all of them see.

    Args:
        folder: a folder that does not exist yet.
        params: a pytree of `jax.Array`, of any sharding.

    Raises:
        ImportError: Orbax is not installed.
        FileExistsError: the folder exists.
        TypeError: a leaf is not a `jax.Array`.
        ValueError: there is no leaf, a leaf is empty, which Orbax cannot hold, or two leaves would
            have the same name.

    Reference:
        Orbax, https://orbax.readthedocs.io

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "params"
        >>> params = {"w": jnp.ones((2, 3))}
        >>> jaxnn.save_sharded(folder, params)
        >>> print(jaxnn.load_sharded(folder, like=params)["w"])
        [[1. 1. 1.]
         [1. 1. 1.]]
    """
    with errors_of("save_sharded"):
        data, stands_for = _contents(params)
        folder = Path(os.path.abspath(folder))
        with _checkpointer() as checkpointer:
            if os.path.lexists(folder):
                raise FileExistsError(f"{folder} exists: choose a new folder")
            checkpointer.save(folder, data, custom_metadata={STANDS_FOR: stands_for})


def load_sharded(folder: str | os.PathLike, like: Params) -> Params:
    """Read a tree of arrays that `save_sharded` wrote, on any number of devices.

    Args:
        folder: the folder.
        like: a tree of arrays, or of `jax.ShapeDtypeStruct`, that gives the tree, shapes, dtypes
            and shardings of the result. A leaf without a sharding goes to the default device.

    Raises:
        ImportError: Orbax is not installed.
        FileNotFoundError: there is no such folder.
        ValueError: the folder lacks a leaf, has one too many, or holds a leaf of another shape or
            dtype.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "params"
        >>> jaxnn.save_sharded(folder, {"w": jnp.ones(3)})
        >>> jaxnn.load_sharded(folder, like={"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
        {'w': Array([1., 1., 1.], dtype=float32)}
    """
    with errors_of("load_sharded"):
        wanted = wanted_leaves(like)
        folder = Path(os.path.abspath(folder))
        with _checkpointer() as checkpointer:
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}")
            metadata = checkpointer.metadata(folder)
            if STANDS_FOR not in metadata.custom_metadata:
                raise ValueError(f"save_sharded did not write {folder}, or did not finish it")
            stands_for = metadata.custom_metadata[STANDS_FOR]
            places = {_unescaped(key): place for key, place in metadata.item_metadata.items()}
            require_same_names(folder, places, wanted)
            target = {}
            for name, leaf in wanted.items():
                place = places[name]
                found = meaning(place.dtype, place.shape, stands_for.get(name))
                require_same(folder, name, found, leaf)
                require_not_narrowed(folder, name, found[0])
                target[_escaped(name)] = _target(place.shape, place.dtype, sharding_of(leaf))
            data = checkpointer.restore(folder, target)
    leaves = [
        restored(data[_escaped(name)], stands_for.get(name), sharding_of(leaf))
        for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _contents(params) -> tuple[dict[str, jax.Array], dict[str, str]]:
    """The arrays by name, and which of them are the data of PRNG keys."""
    leaves = named_leaves(params)
    if not leaves:
        raise ValueError("params has no leaves")
    data, stands_for = {}, {}
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
            raise TypeError(f"leaf {name!r} must be a jax.Array, got {type(leaf).__name__}")
        if leaf.size == 0:
            raise ValueError(f"leaf {name!r} is empty, which Orbax cannot hold")
        if is_key(leaf):
            leaf, stands_for[name] = key_data(name, leaf)
        data[_escaped(name)] = leaf
    return data, stands_for


def _checkpointer():
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("sharded checkpoints need Orbax: pip install 'jaxnn[orbax]'") from error
    return orbax.checkpoint.StandardCheckpointer()


def _target(shape, dtype, sharding: Sharding | None) -> jax.ShapeDtypeStruct | np.ndarray:
    """The target that makes Orbax restore a sharded array, or a NumPy array without a sharding."""
    if sharding is not None:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _escaped(name: str) -> str:
    """A name without slashes, which Orbax would take for folders."""
    return name.replace("%", "%25").replace("/", "%2F")


def _unescaped(key: str) -> str:
    return key.replace("%2F", "/").replace("%25", "%")
