"""Parameters, or any other tree of arrays, in a safetensors file."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxnn.layer import Params
from jaxnn.training.checkpoint.atomic import replacing
from jaxnn.training.checkpoint.errors import errors_of
from jaxnn.training.checkpoint.like import (
    require_not_narrowed,
    require_same,
    require_same_names,
    sharding_of,
    wanted_leaves,
)
from jaxnn.training.checkpoint.names import described, dotted, named_leaves, nested, rebuilt
from jaxnn.training.checkpoint.safetensors_file import TensorReader, write_tensors
from jaxnn.training.checkpoint.stored import meaning, restored, stored

RESERVED = "jaxnn."
TREE, STANDS_FOR = "jaxnn.tree", "jaxnn.stands_for"

Rename = Mapping[str, str | None] | Callable[[str], str | None]


def save_params(
    path: str | os.PathLike, params: Params, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a tree of arrays to a safetensors file, whole or not at all.

    The name of a leaf is the path to it, joined by dots, such as `0.w`. Every dtype that JAX
    computes with is restored bit for bit, and so are typed PRNG keys and NumPy arrays of 64 bits.
    A dtype that safetensors lacks is stored as bytes. The file has a checksum, so `load_params`
    detects a single damaged bit.

    A crash leaves either the old file or the new one, and several programs may write the same file.
    With several processes, all may call this, and process 0 writes; `save_sharded` saves arrays
    that no process holds as a whole.

    Args:
        path: the file. If it is a symbolic link, the file that it points to is replaced. An
            existing file's mode is kept.
        params: a pytree of arrays.
        metadata: text to keep in the file, which `load_metadata` returns.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError: a leaf is not an array, or has a dtype that is not one of JAX's.
        ValueError: two leaves would have the same name, a key of the metadata begins with
            `jaxnn.`, or a leaf is sharded over several processes.

    Reference:
        The safetensors format, https://huggingface.co/docs/safetensors

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "params.safetensors"
        >>> jaxnn.save_params(path, {"w": jnp.ones((2, 3))}, metadata={"epoch": "7"})
        >>> print(jaxnn.load_params(path)["w"])
        [[1. 1. 1.]
         [1. 1. 1.]]
        >>> jaxnn.load_metadata(path)
        {'epoch': '7'}
    """
    with errors_of("save_params"):
        tensors, texts = _contents(params, dict(metadata or {}))
        if jax.process_index() == 0:
            with replacing(path) as file:
                write_tensors(file, tensors, texts)


def load_params(
    path: str | os.PathLike,
    like: Params = None,
    *,
    partial: bool = False,
    rename: Rename | None = None,
) -> Params:
    """Read a tree of arrays from a safetensors file of `save_params` or another program.

    Without `like`, dicts, tuples and lists are restored as such, and named tuples, dataclasses and
    other nodes as dicts of their fields. A file of another program is restored as nested dicts,
    split at the dots in its names.

    Args:
        path: the file.
        like: a tree of arrays, or of `jax.ShapeDtypeStruct` as from `jax.eval_shape`, that gives
            the tree, shapes and dtypes of the result. A leaf with a sharding (a committed array, or
            a `ShapeDtypeStruct` that has one) gives that too.
        partial: whether leaves that the file lacks keep their value in `like`, and tensors that
            `like` lacks are ignored.
        rename: names in `like` by name in the file, or a function from one to the other; `None`
            drops a tensor. A mapping does not change other names.

    Returns:
        The arrays, in the tree of `like`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: a leaf of `like` is not an array, or `partial` or `rename` is given without
            `like`.
        ValueError: the file is damaged; it lacks a leaf, has one too many, or holds a leaf of
            another shape or dtype; or it has numbers of 64 bits, which JAX would narrow unless
            `jax_enable_x64` is set.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "params.safetensors"
        >>> jaxnn.save_params(path, {"dense": {"kernel": jnp.ones(3)}})
        >>> like = {"w": jnp.zeros(3), "b": jnp.zeros(2)}
        >>> jaxnn.load_params(path, like, partial=True, rename={"dense.kernel": "w"})
        {'b': Array([0., 0.], dtype=float32), 'w': Array([1., 1., 1.], dtype=float32)}
    """
    with errors_of("load_params"):
        return _loaded(Path(path), like, partial, rename)


def load_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text that was passed to `save_params` as `metadata`.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's header is damaged. Its tensors are not read.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "params.safetensors"
        >>> jaxnn.save_params(path, {"w": jnp.ones(3)}, metadata={"epoch": "7"})
        >>> jaxnn.load_metadata(path)
        {'epoch': '7'}
    """
    with errors_of("load_metadata"), _opened(Path(path)) as file:
        metadata = TensorReader(file, path).metadata
    return {key: text for key, text in metadata.items() if not key.startswith(RESERVED)}


def _contents(params, metadata: dict) -> tuple[dict, dict[str, str]]:
    """The tensors, and all the text of a file."""
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata must map text to text, got {key!r}: {text!r}")
        if key.startswith(RESERVED):
            raise ValueError(f"the key {key!r} of the metadata begins with {RESERVED!r}")
    tensors, stands_for = {}, {}
    for name, leaf in named_leaves(params).items():
        tensors[name], meant = stored(name, leaf)
        if meant is not None:
            stands_for[name] = meant
    if "__metadata__" in tensors:
        raise ValueError("no leaf can have the name '__metadata__' in a safetensors file")
    for text in (*tensors, *metadata, *metadata.values()):
        if not _is_unicode(text):
            raise ValueError(f"{text!r} is not valid Unicode")
    texts = {STANDS_FOR: json.dumps(stands_for)}
    if (tree := described(params)) is not None:
        texts[TREE] = tree
    return tensors, texts | metadata


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _opened(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path.open("rb")


def _loaded(path: Path, like, partial: bool, rename):
    if like is None and (partial or rename is not None):
        raise TypeError("partial and rename need `like`")
    with _opened(path) as file:
        reader = TensorReader(file, path)
        is_ours = STANDS_FOR in reader.metadata
        in_file = {name: name for name in reader.places} if is_ours else dotted(reader.places)
        if like is None:
            tree = reader.metadata.get(TREE)
            if is_ours and tree is None:
                raise ValueError(
                    f"{path} has a dict with keys that are neither strings nor integers: "
                    "pass `like`"
                )
            leaves = _read(path, reader, in_file, {})
            return nested(leaves) if tree is None else rebuilt(tree, leaves)
        wanted = wanted_leaves(like)
        in_file = _matched(path, _renamed(in_file, rename), wanted, partial)
        leaves = wanted | _read(path, reader, in_file, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), leaves.values())


def _read(path, reader: TensorReader, in_file: dict[str, str], wanted: dict[str, Any]):
    """The arrays by name, each checked against the leaf of that name in `wanted`, if any."""
    stands_for = json.loads(reader.metadata.get(STANDS_FOR, "{}"))
    for name, old in in_file.items():
        place = reader.places[old]
        found = meaning(place.dtype, place.shape, stands_for.get(old))
        if name in wanted:
            require_same(path, name, found, wanted[name])
        require_not_narrowed(path, name, found[0])
    names = {old: name for name, old in in_file.items()}
    arrays = {}
    for old, tensor in reader.read(names):
        name = names[old]
        arrays[name] = restored(tensor, stands_for.get(old), sharding_of(wanted.get(name)))
    return arrays


def _renamed(in_file: dict[str, str], rename) -> dict[str, str]:
    """The names in the file, by the names that `rename` gives them."""
    if rename is None:
        return in_file
    if isinstance(rename, Mapping):
        if missing := [name for name in rename if name not in in_file]:
            raise ValueError(f"rename has {missing[0]!r}, which the file does not hold")
        mapping = rename

        def rename(name):
            return mapping.get(name, name)

    found: dict[str, str] = {}
    for name, old in in_file.items():
        new = rename(name)
        if new is None:
            continue
        if not isinstance(new, str):
            raise TypeError(f"rename must give a string or None, got {new!r} for {name!r}")
        if new in found:
            raise ValueError(f"rename gives two tensors the name {new!r}")
        found[new] = old
    return found


def _matched(path, in_file: dict[str, str], wanted: dict[str, Any], partial: bool):
    """The names in the file of the leaves in `wanted`."""
    if not partial:
        require_same_names(path, in_file, wanted)
        return in_file
    matching = {name: in_file[name] for name in wanted if name in in_file}
    if not matching:
        raise ValueError(f"{path} holds no leaf of `like`")
    for name, leaf in wanted.items():
        if name not in matching and isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"{path} does not hold {name!r}, and `like` has a jax.ShapeDtypeStruct there, "
                "whose value cannot be kept"
            )
    return matching
