"""Losses of a prediction against a class, in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import (
    Entry,
    case,
    constant,
    drawn,
    labels,
    normal,
    omitted,
    probabilities,
)

CONFIDENT = [[30.0, 0.0, 0.0], [0.0, 100.0, 0.0], [1e4, 1e4, 0.0], [5.0, 5.0, 5.0], [0, 1e30, 0]]
SHIFTED = [[1e4, 1e4 + 1, 1e4 - 2], [-1e4, -1e4, -1e4 + 4]]
ONE_HOT = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
CERTAIN = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
HIDDEN = [
    [float("nan"), 1.0, 2.0],
    [0.0, float("inf"), 20.0],
    [3.0, 1.0, 1e4],
    [float("nan"), 0.0, 0.0],
]
CHANNELS = [[[True], [True], [False], [True], [True], [True]]] * 3 + [[[True]] * 6, [[False]] * 6]
PLANES = [[[True, k % 2 == 0, j != 3] for j in range(6)] for k in range(5)]
BINARY_LOGITS = [[-1e4, -20.0, 0.0, 20.0, 1e4], [-1e4, -20.0, 0.0, 20.0, 1e4]]
BINARY_TARGET = [[0.0] * 5, [1.0] * 5]


ENTRIES = (
    Entry(
        jaxnn.cross_entropy,
        cases=(
            case("labels", probabilities(7, 3), labels(7, 3)),
            case("distribution", probabilities(7, 3), probabilities(7, 3)),
            case(
                "ignored label",
                probabilities(7, 3),
                constant([0, 1, -1, 2, -1, 0, 2]),
                ignore_label=-1,
            ),
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
        cases=(
            case("soft target", normal(7, 3), probabilities(7, 3), omitted),
            case("weight of positives", normal(7, 3), probabilities(7, 3), normal(3)),
            case(
                "weight along one axis",
                normal(7, 5, 3),
                constant([[[True, False, True]] * 5] * 7),
                drawn(lambda random: random.random((5, 1))),
            ),
        ),
        hard=(
            case("saturated", constant(BINARY_LOGITS), constant(BINARY_TARGET), omitted),
            case("saturated, weighted", constant(BINARY_LOGITS), constant(BINARY_TARGET), normal()),
            case("one output", normal(7, 1), constant([[1.0]] * 7), omitted),
            case("empty batch", normal(0, 3), probabilities(0, 3), omitted),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), probabilities(4096, 1000), omitted),
        saves=32_768_000,
    ),
    Entry(
        jaxnn.softmax_cross_entropy,
        cases=(
            case("labels", normal(7, 3), labels(7, 3), omitted, omitted),
            case("distribution", normal(7, 3), probabilities(7, 3), omitted, omitted),
            case(
                "smoothed labels", normal(7, 3), labels(7, 3), omitted, omitted, label_smoothing=0.1
            ),
            case(
                "smoothed distribution of total 2",
                normal(7, 3),
                probabilities(7, 3, total=2.0),
                omitted,
                omitted,
                label_smoothing=0.3,
            ),
            case(
                "ignored label",
                normal(7, 3),
                constant([0, 1, -1, 2, -1, 0, 2]),
                omitted,
                omitted,
                ignore_label=-1,
            ),
            case("class weights", normal(7, 3), labels(7, 3), normal(3), omitted),
            case("weighted distribution", normal(7, 3), probabilities(7, 3), normal(3), omitted),
            case(
                "labels, every option",
                normal(5, 6, 3, scale=3.0),
                constant([[0, 5, -1], [3, 1, 4], [5, 2, 0], [3, -1, 1], [0, 1, 2]]),
                normal(6),
                constant(CHANNELS),
                axis=1,
                label_smoothing=0.2,
                ignore_label=-1,
                z_loss=0.3,
                softcap=2.0,
            ),
            case(
                "flat labels of two axes, every option",
                normal(5, 6, 3, scale=3.0),
                constant([0, 14, -1, 7, 8, 11]),
                normal(3, 5),
                constant(PLANES),
                axis=(2, 0),
                label_smoothing=0.2,
                ignore_label=-1,
                z_loss=0.3,
                softcap=2.0,
            ),
            case(
                "distribution, every option",
                normal(5, 6, 3, scale=3.0),
                probabilities(5, 6, 3),
                normal(3, 5),
                constant(PLANES),
                axis=(2, 0),
                label_smoothing=0.2,
                z_loss=0.3,
                softcap=2.0,
            ),
        ),
        hard=(
            case("confident", constant(CONFIDENT), constant([0, 1, 2, 0, 1]), omitted, omitted),
            case("confident, one-hot", constant(CONFIDENT), constant(ONE_HOT), omitted, omitted),
            case(
                "confidently wrong",
                constant(CONFIDENT),
                constant([1, 2, 0, 0, 0]),
                omitted,
                omitted,
            ),
            case(
                "confident, weighted and smoothed",
                constant(CONFIDENT),
                constant([0, 1, 2, 0, 1]),
                constant([1.0, 0.0, 3.0]),
                omitted,
                label_smoothing=0.1,
                softcap=20.0,
            ),
            case(
                "masked numbers of any kind",
                constant(HIDDEN),
                constant([1, 2, 0, -1]),
                constant([0.5, 1.0, 3.0]),
                constant([[False, True, True], [True, False, True], [True] * 3, [True] * 3]),
                ignore_label=-1,
                label_smoothing=0.1,
                z_loss=0.5,
            ),
            case("shifted by 1e4", constant(SHIFTED), constant([0, 2]), omitted, omitted),
            case("one class", normal(7, 1), labels(7, 1), omitted, omitted),
            case("empty batch", normal(0, 3), labels(0, 3), omitted, omitted),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000), omitted, omitted),
        saves=16_449_536,
    ),
)
