"""Upsampling and padding in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.images import pad, upsample

EXTREMES = [[[[0.0], [1e30], [-1e30]], [[1e-30], [-0.0], [3.0]]]]

ENTRIES = (
    Entry(
        upsample,
        cases=(
            case("images, linear", normal(3, 5, 4, 7), factor=(2, 3), method="bilinear"),
            case("images, nearest", normal(3, 5, 4, 7), factor=(3, 1)),
        ),
        hard=(
            case("extremes", constant(EXTREMES), factor=3, method="linear"),
            case("one of each", normal(1, 1, 1), factor=2, method="linear"),
            case("empty batch", normal(0, 4, 5, 3), factor=2),
        ),
        benchmark=case(
            "(64, 28, 28, 32), linear", normal(64, 28, 28, 32), factor=2, method="linear"
        ),
        saves=0,
    ),
    Entry(
        pad,
        cases=(
            case("reflect", normal(3, 5, 4, 7), widths=((4, 3), 2), mode="reflect"),
            case("edge", normal(3, 5, 4), widths=((3, 6),), mode="edge"),
            case("wrap", normal(3, 5, 4), widths=((5, 3),), mode="wrap"),
            case("constant", normal(3, 5, 4, 7), widths=((4, -2), (0, 1)), value=0.5),
        ),
        hard=(
            case("extremes", constant(EXTREMES), widths=1, mode="edge"),
            case("one of each", normal(1, 1, 1), widths=2, mode="replicate"),
            case("a constant of NaN", normal(3, 4, 5), widths=2, value=float("nan")),
            case("empty batch", normal(0, 4, 5, 3), widths=2, mode="circular"),
            case("no width", normal(3, 4, 5), widths=0, mode="reflect"),
        ),
        benchmark=case(
            "(64, 56, 56, 32), reflect", normal(64, 56, 56, 32), widths=1, mode="reflect"
        ),
        saves=0,
    ),
)
