"""The linear layer with the loss of a classifier, in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, labels, normal, omitted, params
from jaxnn.ops.losses.linear_softmax_cross_entropy import linear_softmax_cross_entropy

MASKED = [0.0, 0.0, 0.0, -float("inf"), 0.0, 0.0]


ENTRIES = (
    Entry(
        linear_softmax_cross_entropy,
        cases=(
            case("bias", params(w=normal(5, 6), b=normal(6)), normal(7, 5), labels(7, 6), omitted),
            case(
                "chunks of 4, one of 3, smoothing, z-loss",
                params(w=normal(5, 11)),
                normal(7, 5),
                labels(7, 11),
                omitted,
                label_smoothing=0.1,
                z_loss=0.3,
                chunk=4,
            ),
            case(
                "every option",
                params(w=normal(5, 6), b=normal(6)),
                normal(7, 5),
                constant([0, 5, -1, 3, -1, 2, 5]),
                normal(6),
                label_smoothing=0.2,
                ignore_label=-1,
                z_loss=0.1,
                softcap=3.0,
                chunk=3,
            ),
        ),
        hard=(
            case(
                "confident",
                params(w=normal(5, 6), b=constant([0.0, 40.0, 0.0, 0.0, 1e4, 0.0])),
                normal(7, 5),
                constant([4, 4, 1, 0, 4, 2, 4]),
                omitted,
                chunk=4,
            ),
            case(
                "far from 0",
                params(w=normal(5, 6), b=constant([1e4] * 6)),
                normal(7, 5),
                labels(7, 6),
                omitted,
                label_smoothing=0.1,
                chunk=4,
            ),
            case(
                "an excluded class, ties",
                params(w=constant([[0.0] * 6] * 5), b=constant(MASKED)),
                normal(7, 5),
                constant([0, 1, 2, 4, 5, 0, 1]),
                omitted,
                chunk=3,
            ),
            case(
                "an excluded class without weight, smoothing",
                params(w=normal(5, 6), b=constant(MASKED)),
                normal(7, 5),
                constant([0, 1, 2, 4, 5, 0, 1]),
                constant([1.0, 0.5, 3.0, 0.0, 2.0, 1.0]),
                label_smoothing=0.1,
                chunk=4,
            ),
            case(
                "huge logits, smoothing",
                params(w=constant([[1e32, 0.0, -1e32]] * 3)),
                constant([[1.0, 0.0, 0.0]] * 4),
                constant([0, 0, 1, 2]),
                omitted,
                label_smoothing=0.1,
                chunk=2,
            ),
            case(
                "empty batch",
                params(w=normal(5, 6), b=normal(6)),
                normal(0, 5),
                labels(0, 6),
                normal(6),
            ),
        ),
        benchmark=case(
            "(2048, 256), 32000 classes",
            params(w=normal(256, 32000, scale=1 / 16), b=normal(32000)),
            normal(2048, 256),
            labels(2048, 32000),
            omitted,
        ),
        saves=35_025_920,
    ),
)
