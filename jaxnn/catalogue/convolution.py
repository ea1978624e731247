"""Convolution and its transpose in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal, params
from jaxnn.ops.convolution import conv, conv_transpose

ENTRIES = (
    Entry(
        conv,
        cases=(
            case("image", params(w=normal(3, 4, 5, 6), b=normal(6)), normal(3, 8, 7, 5)),
            case(
                "image, stride, dilation and groups",
                params(w=normal(4, 3, 5, 9), b=normal(9)),
                normal(4, 10, 9, 15),
                stride=(2, 3),
                padding=((1, 3), "SAME_LOWER"),
                dilation=(3, 2),
                groups=3,
            ),
            case(
                "sequence, stride, causal, no bias",
                params(w=normal(4, 5, 6)),
                normal(7, 11, 5),
                stride=3,
                padding="CAUSAL",
                dilation=2,
            ),
            case(
                "volume",
                params(w=normal(3, 5, 4, 6, 7), b=normal(7)),
                normal(3, 4, 9, 5, 6),
                stride=(1, 3, 1),
                padding=(0, 4, 2),
            ),
        ),
        hard=(
            case("offset 1e4", params(w=normal(3, 5, 6), b=normal(6)), normal(7, 9, 5, scale=1e4)),
            case("zeros", params(w=constant([[[0.0] * 6] * 5] * 3)), constant([[[0.0] * 5] * 4])),
            case("one of each", params(w=normal(1, 1, 1, 1), b=normal(1)), normal(1, 1, 1, 1)),
            case("empty batch", params(w=normal(3, 4, 5, 6), b=normal(6)), normal(0, 8, 7, 5)),
        ),
        benchmark=case(
            "3×3, 16 to 32 channels, (32, 28, 28)",
            params(w=normal(3, 3, 16, 32), b=normal(32)),
            normal(32, 28, 28, 16),
        ),
        saves=1_624_192,
    ),
    Entry(
        conv_transpose,
        cases=(
            case(
                "image, stride and dilation",
                params(w=normal(3, 4, 5, 6), b=normal(6)),
                normal(3, 7, 4, 5),
                stride=(3, 2),
                dilation=(1, 3),
            ),
            case(
                "image, groups and output_padding",
                params(w=normal(3, 4, 5, 9), b=normal(9)),
                normal(3, 7, 4, 15),
                stride=(3, 2),
                padding=1,
                groups=3,
                output_padding=(2, 1),
            ),
            case(
                "sequence, pairs, no bias",
                params(w=normal(4, 5, 6)),
                normal(7, 9, 5),
                stride=3,
                padding=((2, 5),),
                dilation=2,
            ),
            case(
                "volume",
                params(w=normal(3, 5, 4, 6, 7), b=normal(7)),
                normal(3, 4, 9, 5, 6),
                stride=(2, 1, 3),
                padding=("CAUSAL", "SAME_LOWER", "VALID"),
            ),
        ),
        hard=(
            case("offset 1e4", params(w=normal(3, 5, 6), b=normal(6)), normal(7, 9, 5, scale=1e4)),
            case("zeros", params(w=constant([[[0.0] * 6] * 5] * 3)), constant([[[0.0] * 5] * 4])),
            case("one of each", params(w=normal(1, 1, 1, 1), b=normal(1)), normal(1, 1, 1, 1)),
            case("empty batch", params(w=normal(3, 4, 5, 6), b=normal(6)), normal(0, 8, 7, 5)),
        ),
        benchmark=case(
            "4×4, stride 2, 32 to 16 channels, (32, 14, 14)",
            params(w=normal(4, 4, 32, 16), b=normal(16)),
            normal(32, 14, 14, 32),
            stride=2,
        ),
        saves=835_648,
    ),
)
