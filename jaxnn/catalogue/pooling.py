"""Pooling in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.pooling import avg_pool, global_avg_pool, max_pool

TIED = [[[[0.0], [0.0], [3.0]], [[0.0], [-0.0], [3.0]], [[1e30], [-1e30], [1e30]]]]
IMAGES = normal(64, 56, 56, 32)


def _pool(op, saves, **options):
    """Windows side by side, overlapping, apart, over one axis; in padding."""
    uneven = {"window": (3, 4), "stride": (2, 3), "padding": ((1, 0), (2, 1))}
    return Entry(
        op,
        cases=(
            case("side by side", normal(3, 7, 6, 5), window=(2, 3)),
            case("uneven, padded", normal(3, 8, 7, 5), **uneven, **options),
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


ENTRIES = (
    _pool(max_pool, saves=4_816_896),
    _pool(avg_pool, saves=0, count_padding=True),
    Entry(
        global_avg_pool,
        cases=(
            case("images", normal(3, 7, 6, 5)),
            case("sequences", normal(3, 7, 5)),
        ),
        hard=(
            case("extremes", constant(TIED)),
            case("one of each", normal(1, 1, 1)),
            case("empty batch", normal(0, 4, 4, 3)),
        ),
        benchmark=case("(64, 56, 56, 32)", IMAGES),
        saves=0,
    ),
)
