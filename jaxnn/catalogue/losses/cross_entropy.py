"""Losses of a prediction against a class, in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, labels, normal, probabilities

CONFIDENT = [[30.0, 0.0, 0.0], [0.0, 100.0, 0.0], [1e4, 1e4, 0.0], [5.0, 5.0, 5.0], [0, 1e30, 0]]
SHIFTED = [[1e4, 1e4 + 1, 1e4 - 2], [-1e4, -1e4, -1e4 + 4]]
ONE_HOT = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
CERTAIN = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
BINARY_LOGITS = [[-1e4, -20.0, 0.0, 20.0, 1e4], [-1e4, -20.0, 0.0, 20.0, 1e4]]
BINARY_TARGET = [[0.0] * 5, [1.0] * 5]


ENTRIES = (
    Entry(
        jaxnn.cross_entropy,
        cases=(
            case("labels", probabilities(7, 3), labels(7, 3)),
            case("distribution", probabilities(7, 3), probabilities(7, 3)),
        ),
        hard=(
            case("certain", constant(CERTAIN), constant([0, 0, 2])),
            case("certain, one-hot", constant(CERTAIN), constant(ONE_HOT[:3])),
            case("one class", probabilities(7, 1), labels(7, 1)),
            case("empty batch", probabilities(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", probabilities(4096, 1000), labels(4096, 1000)),
        saves=16_400_384,
    ),
    Entry(
        jaxnn.binary_cross_entropy,
        cases=(case("soft target", probabilities(7, 3), probabilities(7, 3)),),
        hard=(
            case("certain", constant(CERTAIN), constant(ONE_HOT[:3])),
            case("one output", constant([[0.25], [1.0]]), constant([[1.0], [1.0]])),
            case("empty batch", probabilities(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", probabilities(4096, 1000), probabilities(4096, 1000)),
        saves=32_768_000,
    ),
    Entry(
        jaxnn.sigmoid_cross_entropy,
        cases=(case("soft target", normal(7, 3), probabilities(7, 3)),),
        hard=(
            case("saturated", constant(BINARY_LOGITS), constant(BINARY_TARGET)),
            case("one output", normal(7, 1), constant([[1.0]] * 7)),
            case("empty batch", normal(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), probabilities(4096, 1000)),
        saves=32_768_000,
    ),
    Entry(
        jaxnn.softmax_cross_entropy,
        cases=(
            case("labels", normal(7, 3), labels(7, 3)),
            case("distribution", normal(7, 3), probabilities(7, 3)),
            case("smoothed labels", normal(7, 3), labels(7, 3), label_smoothing=0.1),
            case("smoothed distribution", normal(7, 3), probabilities(7, 3), label_smoothing=0.3),
            case("ignored label", normal(7, 3), constant([0, 1, -1, 2, -1, 0, 2]), ignore_label=-1),
            case("rows sum to 2", normal(7, 3), probabilities(7, 3, total=2.0)),
        ),
        hard=(
            case("confident", constant(CONFIDENT), constant([0, 1, 2, 0, 1])),
            case("confident, one-hot", constant(CONFIDENT), constant(ONE_HOT)),
            case("confidently wrong", constant(CONFIDENT), constant([1, 2, 0, 0, 0])),
            case("shifted by 1e4", constant(SHIFTED), constant([0, 2])),
            case("one class", normal(7, 1), labels(7, 1)),
            case("empty batch", normal(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000)),
        saves=16_449_536,
    ),
)
