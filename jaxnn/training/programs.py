"""Compiled programs that a later call with the same network reuses."""

from collections.abc import Callable
from functools import lru_cache, wraps

REMEMBERED = 8


def remembered(build: Callable) -> Callable:
    """A function that makes compiled programs, with its last few results kept.

    So a run that resumes in the same process, or a second call of `evaluate`, compiles nothing.
    Programs for arguments that cannot be hashed, such as a layer that holds an array, are built
    each time.
    """
    kept = lru_cache(maxsize=REMEMBERED)(build)

    @wraps(build)
    def find_or_build(*args):
        try:
            hash(args)
        except TypeError:
            return build(*args)
        return kept(*args)

    return find_or_build
