"""Ops that join the arrays of a tuple, in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal


def several(*makers):
    """A tuple of arrays, one from each maker."""
    return lambda random, dtype: tuple(make(random, dtype) for make in makers)


THREE = several(normal(7, 5), normal(7, 5), normal(7, 5))
HUGE = several(constant([[0.0, 1e30]]), constant([[0.0, -1e30]]), constant([[0.0, 1e-30]]))

ENTRIES = (
    Entry(
        jaxnn.add,
        cases=(case("three", THREE),),
        hard=(
            case("one", several(normal(7, 5))),
            case("huge", HUGE),
            case("empty batch", several(normal(0, 5), normal(0, 5))),
        ),
        benchmark=case("three of (4096, 1024)", several(*[normal(4096, 1024)] * 3)),
        saves=0,
    ),
    Entry(
        jaxnn.multiply,
        cases=(case("three", THREE), case("two", several(normal(7, 5), normal(7, 5)))),
        hard=(
            case("one", several(normal(7, 5))),
            case("zeros", several(constant([[0.0, 0.0]]), constant([[0.0, 2.0]]), normal(1, 2))),
            case("empty batch", several(normal(0, 5), normal(0, 5))),
        ),
        benchmark=case("three of (4096, 1024)", several(*[normal(4096, 1024)] * 3)),
        saves=3 * 4096 * 1024 * 4,
    ),
    Entry(
        jaxnn.concatenate,
        cases=(
            case("last axis", several(normal(7, 5), normal(7, 3), normal(7, 6))),
            case("first axis", several(normal(7, 5), normal(3, 5)), axis=0),
        ),
        hard=(
            case("one", several(normal(7, 5))),
            case("an empty one", several(normal(7, 5), normal(7, 0))),
            case("empty batch", several(normal(0, 5), normal(0, 3))),
        ),
        benchmark=case("(4096, 1024 + 512)", several(normal(4096, 1024), normal(4096, 512))),
        saves=0,
    ),
)
