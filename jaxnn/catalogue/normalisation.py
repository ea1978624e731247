"""The normalisations in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, drawn, normal, params
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.ops.normalisation import group_norm, layer_norm, rms_norm


def positive(*shape):
    """Numbers above 0, some of them tiny."""
    return drawn(lambda random: random.standard_normal(shape) ** 2)


def affine(n):
    """Scale and bias."""
    return params(scale=normal(n), bias=normal(n))


ENTRIES = (
    Entry(
        layer_norm,
        cases=(
            case("two batch axes", affine(5), normal(7, 3, 5), eps=0.1),
            case("no batch axis, no scale", params(bias=normal(6)), normal(6)),
        ),
        hard=(
            case("offset 1e4", affine(7), normal(5, 7, offset=1e4)),
            case("tiny variance", affine(5), normal(7, 5, scale=1e-4)),
            case("constant rows", affine(4), constant([[0.0] * 4, [3.0] * 4, [1e4, 0, 0, -1e4]])),
            case("one feature, empty batch", affine(1), normal(0, 1)),
        ),
        benchmark=case("(4096, 768)", affine(768), normal(4096, 768)),
        saves=12_621_824,
    ),
    Entry(
        rms_norm,
        cases=(
            case("two batch axes", params(scale=normal(5)), normal(7, 3, 5), eps=0.1),
            case("no batch axis, no scale", params(), normal(6)),
        ),
        hard=(
            case("tiny", params(scale=normal(5)), normal(7, 5, scale=1e-4)),
            case("zeros, large", params(scale=normal(3)), constant([[0.0] * 3, [1e4, 1.0, -1e4]])),
            case("one feature, empty batch", params(scale=normal(1)), normal(0, 1)),
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
        batch_norm,
        cases=(
            case("images", affine(6), normal(7, 4, 5, 6), eps=0.1),
            case("rows, no scale", params(bias=normal(5)), normal(7, 5)),
        ),
        hard=(
            case("offset 1e4", affine(5), normal(7, 5, offset=1e4)),
            case("constant channels", affine(3), constant([[0.0, 3, 1e4]] * 2 + [[0, 3, -1e4]])),
            case("a batch of one", affine(5), normal(1, 5)),
            case("empty batch", affine(5), normal(0, 5)),
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
)
