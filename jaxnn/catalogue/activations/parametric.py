"""Activations with parameters, and maxout, in the catalogue."""

from jaxnn.catalogue.activations.elementwise import EXTREMES
from jaxnn.catalogue.case import Entry, case, constant, normal, params
from jaxnn.ops.activations.maxout import maxout
from jaxnn.ops.activations.parametric import dynamic_tanh, prelu

ROWS = [[x] * 3 for x in EXTREMES]
SLOPES = params(slope=constant([0.25, -0.5, 0.0]))
DYNAMIC = params(alpha=constant(0.05), scale=constant([1.0, -2.0, 0.0]), bias=constant([0.0] * 3))
TIES = [[0.0, 0.0, -0.0, 1.0, 2.0, 2.0], [-1e30, 1e30, 1e30, 1e4, -1e4, 1e-30]]


def benchmark(**makers):
    """A case of realistic size."""
    return case("(4096, 3072)", params(**makers), normal(4096, 3072))


ENTRIES = (
    Entry(
        prelu,
        cases=(
            case("one slope", params(slope=normal()), normal(7, 5)),
            case("a slope for each feature", params(slope=normal(5)), normal(7, 5)),
            case("two batch axes", params(slope=normal(5)), normal(7, 3, 5)),
        ),
        hard=(
            case("extremes", SLOPES, constant(ROWS)),
            case("one number", params(slope=normal(1)), normal(1)),
            case("empty batch", params(slope=normal(5)), normal(0, 5)),
        ),
        benchmark=benchmark(slope=normal(3072)),
        saves=(4096 + 1) * 3072 * 4,
    ),
    Entry(
        dynamic_tanh,
        cases=(
            case(
                "plain",
                params(alpha=normal(), scale=normal(5), bias=normal(5)),
                normal(7, 5),
            ),
            case("alpha alone", params(alpha=normal()), normal(7, 5)),
            case(
                "two batch axes",
                params(alpha=normal(), scale=normal(5), bias=normal(5)),
                normal(7, 3, 5),
            ),
        ),
        hard=(
            case("extremes", DYNAMIC, constant(ROWS)),
            case("one number", params(alpha=normal(), scale=normal(1)), normal(1)),
            case("empty batch", params(alpha=normal(), bias=normal(5)), normal(0, 5)),
        ),
        benchmark=benchmark(alpha=normal(), scale=normal(3072), bias=normal(3072)),
        saves=(4096 + 2) * 3072 * 4 + 4,
    ),
    Entry(
        maxout,
        cases=(
            case("plain", normal(7, 6), pieces=3),
            case("two batch axes", normal(7, 5, 6), pieces=2),
        ),
        hard=(
            case("ties and extremes", constant(TIES), pieces=3),
            case("one piece", normal(7, 3), pieces=1),
            case("empty batch", normal(0, 6), pieces=2),
        ),
        benchmark=case("(512, 3 × 1024)", normal(512, 3072), pieces=3),
        saves=512 * 1024,
    ),
)
