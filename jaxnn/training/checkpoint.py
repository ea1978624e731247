"""Parameters in a file, in the safetensors format."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from jaxnn.layer import Params


def save_params(path: str | os.PathLike, params: Params) -> None:
    """Write parameters to a safetensors file, whole or not at all.

    The file is written under another name beside `path` and then renamed, so that a crash leaves
    either the old file or the new one. A leaf is named by its path in the tree, such as `[0]['w']`.

    Args:
        path: the file.
        params: a pytree of arrays.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError: a leaf is not an array of numbers.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "params.safetensors"
        >>> jaxnn.save_params(path, {"w": jnp.ones((2, 3))})
        >>> print(jaxnn.load_params(path, like={"w": jnp.zeros((2, 3))})["w"])
        [[1. 1. 1.]
         [1. 1. 1.]]
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_params: there is no folder {path.parent}")
    tensors = {}
    for name, leaf in _named_leaves(params):
        if not isinstance(leaf, jax.Array | np.ndarray) or jnp.issubdtype(
            leaf.dtype, jax.dtypes.extended
        ):
            raise TypeError(f"save_params: params{name} is not an array of numbers: {leaf!r}")
        tensors[name] = np.ascontiguousarray(leaf)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(save(tensors))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_params(path: str | os.PathLike, like: Params) -> Params:
    """Read parameters that `save_params` wrote.

    Args:
        path: the file.
        like: parameters (or their shapes and dtypes, from `jax.eval_shape`) of the same tree.

    Returns:
        The parameters, in the tree of `like`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, lacks a leaf, has one too many, or holds a leaf of
            another shape or dtype; the message names the leaf.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_params: there is no file {path}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"load_params: {path} is truncated or not a safetensors file ({error})"
        ) from error
    wanted = _named_leaves(like)
    names = [name for name, _ in wanted]
    if extra := sorted(set(tensors) - set(names)):
        raise ValueError(f"load_params: {path} holds params{extra[0]}, which `like` does not have")
    for name, leaf in wanted:
        if name not in tensors:
            raise ValueError(f"load_params: {path} does not hold params{name}")
        found = tensors[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise ValueError(
                f"load_params: params{name} is {found.dtype}{list(found.shape)} in {path} but "
                f"{leaf.dtype}{list(leaf.shape)} was expected"
            )
    leaves = [jnp.asarray(tensors[name]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named_leaves(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
