"""Atomic replacement of a file: a reader finds the old content or the new, never a part."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends, or is deleted if the block raises.

    The new file has a random name in the folder of its target, is created exclusively, and is
    flushed to disk, with its folder, before the block ends. It takes the mode of the file that it
    replaces. A symbolic link at `path` is kept; the file that it points to is replaced.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: `path` is something other than a regular file, such as a folder or a device.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}")
    mode = _mode(target)
    partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(16)}.partial")
    try:
        with partial.open("xb") as file:
            if mode is not None:
                partial.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _mode(target: Path) -> int | None:
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise ValueError(f"{target} is not a regular file")
    return stat.S_IMODE(found)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # only there can a folder be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
