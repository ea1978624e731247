"""Changes of shape in the catalogue."""

from jaxnn.catalogue.case import Entry, case, normal
from jaxnn.ops.shape import flatten, reshape

ENTRIES = (
    Entry(
        flatten,
        cases=(case("images", normal(7, 3, 4, 5)),),
        hard=(case("one axis", normal(7)), case("empty batch", normal(0, 3, 5))),
        benchmark=case("(4096, 32, 32)", normal(4096, 32, 32)),
        saves=0,
    ),
    Entry(
        reshape,
        cases=(case("to images", normal(7, 60), shape=(-1, 3, 4, 5)),),
        hard=(
            case("to a number", normal(1), shape=()),
            case("empty batch", normal(0, 15), shape=(-1, 3, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), shape=(-1, 32, 32)),
        saves=0,
    ),
)
