"""Gradients that a backward passes to an optimizer, which may keep or change them."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnn.gradcheck.numpy.held import objects_in

UPDATE = re.compile(r"(?:update|step|apply|optimi[sz]e)\w*", re.IGNORECASE)


class Handed(NamedTuple):
    """A parameter and its gradient, as passed to an optimizer.

    Attributes:
        parameter: the array itself.
        gradient: a copy of its gradient.
    """

    parameter: Any
    gradient: np.ndarray


def watch(owner) -> list[Handed]:
    """Record the gradients passed to the optimizers inside an object.

    Args:
        owner: the object, which is modified, so it must be a copy.

    Returns:
        A list to which each parameter and its gradient are appended as they are passed.
    """
    handed: list[Handed] = []
    for holder in objects_in(owner):
        if holder is owner or not hasattr(holder, "__dict__"):
            continue
        for name in _updates_of(holder):
            setattr(holder, name, _recorded(getattr(holder, name), handed))
    return handed


def _updates_of(holder) -> Iterator[str]:
    for name in dir(type(holder)):
        if UPDATE.fullmatch(name) and callable(getattr(holder, name, None)):
            yield name


def _recorded(update: Callable, handed: list[Handed]) -> Callable:
    def recorded(*args, **options):
        arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray | np.floating)]
        if len(arrays) > 1 and np.shape(arrays[0]) == np.shape(arrays[1]):
            handed.append(Handed(arrays[0], np.array(arrays[1])))
        return update(*args, **options)

    return recorded
