"""The normalisations in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, drawn, mask, normal, omitted, params
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.ops.normalisation import group_norm, instance_norm, layer_norm, rms_norm
from jaxnn.ops.weight_norm import l2_normalize, weight_norm


def positive(*shape):
    """Numbers above 0, some of them tiny."""
    return drawn(lambda random: random.standard_normal(shape) ** 2)


def affine(n):
    """Scale and bias."""
    return params(scale=normal(n), bias=normal(n))


NAN, INFINITY = float("nan"), float("inf")
ROWS = constant(
    [
        [1.0, 4.0, NAN, -2.0, 3.0, INFINITY],
        [2.0, -1.0, 5.0, 0.0, NAN, 4.0],
        [3.0, 7.0, -4.0, 1.0, 2.0, NAN],
        [0.0, 2.0, 1.0, 6.0, -3.0, 5.0],
        [3.0, 1.0, NAN, 3.0, 3.0, 3.0],
    ]
)
SEEN = constant(
    [
        [True, True, False, True, True, False],
        [True, True, True, True, False, True],
        [True, True, True, True, True, False],
        [True, True, True, True, True, False],
        [False] * 6,
    ]
)  # it drops NaN, infinity and the whole of the last row; one number remains in the last column


ENTRIES = (
    Entry(
        layer_norm,
        cases=(
            case("two batch axes", affine(5), normal(7, 3, 5), omitted, eps=0.1),
            case("no batch axis, no scale", params(bias=normal(6)), normal(6), omitted),
            case(
                "first axes, mask, offset on the scale",
                params(scale=normal(7, 4), bias=normal(7, 4)),
                normal(7, 4, 5),
                mask(7, 4, 5),
                axis=(1, 0),
                scale_offset=1.0,
            ),
        ),
        hard=(
            case("masked rows", affine(6), ROWS, SEEN),
            case("offset 1e4 and a mask", affine(7), normal(5, 7, offset=1e4), mask(5, 7)),
            case("offset 1e4", affine(7), normal(5, 7, offset=1e4), omitted),
            case("tiny variance", affine(5), normal(7, 5, scale=1e-4), omitted),
            case(
                "constant rows",
                affine(4),
                constant([[0.0] * 4, [3.0] * 4, [1e4, 0, 0, -1e4]]),
                omitted,
            ),
            case("one feature, empty batch", affine(1), normal(0, 1), omitted),
        ),
        benchmark=case("(4096, 768)", affine(768), normal(4096, 768)),
        saves=12_621_824,
    ),
    Entry(
        rms_norm,
        cases=(
            case("two batch axes", params(scale=normal(5)), normal(7, 3, 5), omitted, eps=0.1),
            case("no batch axis, no scale", params(), normal(6), omitted),
            case(
                "first axes, mask, offset on the scale",
                params(scale=normal(7, 4)),
                normal(7, 4, 5),
                mask(7, 4, 5),
                axis=(1, 0),
                scale_offset=1.0,
            ),
        ),
        hard=(
            case("masked rows", params(scale=normal(6)), ROWS, SEEN),
            case("tiny", params(scale=normal(5)), normal(7, 5, scale=1e-4), omitted),
            case(
                "zeros, large",
                params(scale=normal(3)),
                constant([[0.0] * 3, [1e4, 1.0, -1e4]]),
                omitted,
            ),
            case("one feature, empty batch", params(scale=normal(1)), normal(0, 1), omitted),
        ),
        benchmark=case("(4096, 768)", params(scale=normal(768)), normal(4096, 768)),
        saves=12_602_368,
    ),
    Entry(
        group_norm,
        cases=(
            case("images", affine(6), normal(7, 4, 5, 6), groups=3, eps=0.1),
            case("no places, no bias", params(scale=normal(8)), normal(5, 8), groups=2),
        ),
        hard=(
            case("offset 1e4", affine(6), normal(3, 5, 6, offset=1e4), groups=2),
            case("one group, tiny", affine(6), normal(3, 5, 6, scale=1e-4), groups=1),
            case(
                "constant groups",
                affine(4),
                constant([[0.0, 0, 3, 3], [1e4, -1e4, 0, 1]]),
                groups=2,
            ),
            case("a group a channel, no batch", params(), normal(0, 3, 4), groups=4),
        ),
        benchmark=case("(32, 28, 28, 64)", affine(64), normal(32, 28, 28, 64), groups=8),
        saves=6_425_088,
    ),
    Entry(
        instance_norm,
        cases=(
            case("images", affine(6), normal(7, 4, 5, 6), eps=0.1),
            case("one axis of places, no scale", params(bias=normal(8)), normal(7, 5, 8)),
        ),
        hard=(
            case("offset 1e4", affine(6), normal(3, 5, 6, offset=1e4)),
            case(
                "constant channels",
                affine(2),
                constant([[[1e4, 0.0]] * 3, [[0, 3], [1, 3], [2, 3]]]),
            ),
            case("one place", affine(6), normal(3, 1, 6)),
            case("no batch", params(), normal(0, 3, 4)),
        ),
        benchmark=case("(32, 28, 28, 64)", affine(64), normal(32, 28, 28, 64)),
        saves=6_439_424,
    ),
    Entry(
        batch_norm,
        cases=(
            case("images", affine(6), normal(7, 4, 5, 6), omitted, eps=0.1),
            case("rows, no scale", params(bias=normal(5)), normal(7, 5), omitted),
            case("mask", affine(5), normal(7, 4, 5), mask(7, 4, 5)),
        ),
        hard=(
            case("masked entries", affine(6), ROWS, SEEN),
            case("no row counts", affine(6), ROWS, constant([[False]] * 5)),
            case("offset 1e4", affine(5), normal(7, 5, offset=1e4), omitted),
            case(
                "constant channels",
                affine(3),
                constant([[0.0, 3, 1e4]] * 2 + [[0, 3, -1e4]]),
                omitted,
            ),
            case("a batch of one", affine(5), normal(1, 5), omitted),
            case("empty batch", affine(5), normal(0, 5), omitted),
        ),
        benchmark=case("(32, 28, 28, 64)", affine(64), normal(32, 28, 28, 64)),
        saves=6_423_552,
    ),
    Entry(
        batch_norm_inference,
        cases=(
            case(
                "images",
                affine(6),
                params(mean=normal(6), var=positive(6)),
                normal(7, 4, 5, 6),
                eps=0.1,
            ),
            case(
                "no batch axis, no scale, no bias",
                params(),
                params(mean=normal(5), var=positive(5)),
                normal(5),
            ),
        ),
        hard=(
            case(
                "offset 1e4, no variance",
                affine(5),
                params(mean=normal(5, offset=1e4), var=constant([0.0, 1e-4, 1.0, 3.0, 1e4])),
                normal(7, 5, offset=1e4),
            ),
            case("empty batch", affine(5), params(mean=normal(5), var=positive(5)), normal(0, 5)),
        ),
        benchmark=case(
            "(32, 28, 28, 64)",
            affine(64),
            params(mean=normal(64), var=positive(64)),
            normal(32, 28, 28, 64),
        ),
        saves=6_423_552,
    ),
    Entry(
        weight_norm,
        cases=(
            case("kernel", params(v=normal(5, 3, 7), g=normal(7))),
            case("two axes of outputs", params(v=normal(5, 3, 7), g=normal(5, 7)), axis=(-1, 0)),
            case("one norm", params(v=normal(5, 3), g=normal()), axis=None),
        ),
        hard=(
            case("zeros, large", params(v=constant([[0.0, 1e30], [0, 3e4], [0, 0]]), g=normal(2))),
            case("tiny", params(v=normal(5, 3, scale=1e-30), g=normal(3))),
            case("one of each", params(v=normal(1, 1), g=normal(1))),
            case("no outputs", params(v=normal(3, 0), g=normal(0))),
        ),
        benchmark=case("(1024, 4096)", params(v=normal(1024, 4096), g=normal(4096))),
        saves=16_826_368,
    ),
    Entry(
        l2_normalize,
        cases=(
            case("rows", normal(7, 3, 5)),
            case("two axes, some short", normal(7, 3, 5), axis=(0, -1), eps=4.0),
        ),
        hard=(
            case(
                "zeros, large", constant([[0.0] * 3, [1e30, 1.0, -1e30], [1e4, 0, -1e4]]), eps=0.1
            ),
            case("tiny", normal(7, 5, scale=1e-3), eps=1e-6),
            case("one component", normal(5, 1)),
            case("empty batch", normal(0, 5)),
        ),
        benchmark=case("(4096, 768)", normal(4096, 768)),
        saves=12_619_776,
    ),
)
