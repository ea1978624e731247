"""Errors that name the public function that raised them."""

from collections.abc import Iterator
from contextlib import contextmanager

WORDED = (FileExistsError, FileNotFoundError, ImportError, TypeError, ValueError)


@contextmanager
def errors_of(function: str) -> Iterator[None]:
    """Put the name of a public function before the message of an error."""
    try:
        yield
    except WORDED as error:
        if type(error) not in WORDED:
            raise
        raise type(error)(f"{function}: {error}") from error
