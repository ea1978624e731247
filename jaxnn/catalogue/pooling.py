"""Pooling in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)

TIED = [[[[0.0], [0.0], [3.0]], [[0.0], [-0.0], [3.0]], [[1e30], [1e30], [-1e-30]]]]
IMAGES = normal(64, 56, 56, 32)


def _pool(op, saves, **options):
    """Windows side by side, overlapping, apart, over one axis; in padding."""
    uneven = {"window": (3, 4), "stride": (2, 3), "padding": (1, (2, 0)), "ceil_mode": True}
    return Entry(
        op,
        cases=(
            case("side by side", normal(3, 7, 6, 5), window=(2, 3)),
            case("uneven, padded", normal(3, 9, 8, 5), **uneven, **options),
            case("sequence, SAME", normal(3, 7, 5), window=3, stride=1, padding="SAME"),
            case("windows apart", normal(3, 7, 5), window=2, stride=3, padding=((1, 1),)),
        ),
        hard=(
            case("ties and extremes", constant(TIED), window=2, stride=1, padding="SAME"),
            case("offset 1e4", normal(3, 5, 4, offset=1e4), window=5),
            case("windows of one", normal(1, 1, 1, 1), window=1),
            case("empty batch", normal(0, 4, 4, 3), window=2),
        ),
        benchmark=case("2×2, (64, 56, 56, 32)", IMAGES, window=2),
        saves=saves,
    )


def _global(op, saves):
    return Entry(
        op,
        cases=(
            case("images", normal(3, 7, 6, 5)),
            case("sequences", normal(3, 7, 5)),
        ),
        hard=(
            case("ties and extremes", constant(TIED)),
            case("one of each", normal(1, 1, 1)),
            case("empty batch", normal(0, 4, 4, 3)),
        ),
        benchmark=case("(64, 56, 56, 32)", IMAGES),
        saves=saves,
    )


def _adaptive(op, saves):
    """Windows with entries in common, side by side, of one entry; an axis that keeps its size."""
    return Entry(
        op,
        cases=(
            case("uneven, side by side", normal(3, 5, 6, 4), size=(4, 3)),
            case("larger", normal(3, 4, 6), size=10),
        ),
        hard=(
            case("ties and extremes", constant(TIED), size=(1, 2)),
            case("one of each", normal(1, 1, 1), size=3),
            case("empty batch", normal(0, 5, 4, 3), size=3),
        ),
        benchmark=case("(64, 56, 56, 32) to 7×7", IMAGES, size=7),
        saves=saves,
    )


ENTRIES = (
    _pool(max_pool, saves=4_816_896),
    _pool(avg_pool, saves=0, count_padding=True),
    _global(global_max_pool, saves=8_192),
    _global(global_avg_pool, saves=0),
    _adaptive(adaptive_max_pool, saves=903_168),
    _adaptive(adaptive_avg_pool, saves=0),
)
