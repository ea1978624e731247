"""Softmax, its logarithm and log-sum-exp in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal, omitted
from jaxnn.op import Op

MASK = [
    [True, False, True, True, False],
    [False] * 5,
    [True] * 5,
    *[[True, True, False] + [True] * 2] * 4,
]
SATURATED = [[1e4, 0.0, -1e4], [-1e30, 1e30, 0.0], [3.0, 3.0, 3.0], [20.0, 0.0, 0.0]]


def _normaliser(op: Op, saves: int) -> Entry:
    hidden = [[float("nan"), 1.0, 2.0], [float("inf"), -1e30, 1e30], [0.0, 0.0, 0.0]]
    return Entry(
        op,
        cases=(
            case("last axis", normal(7, 5), omitted),
            case("first axis", normal(7, 5), omitted, axis=0),
            case(
                "two axes, masked",
                normal(7, 5, 3),
                constant([[[True], [False]] + [[True]] * 3]),
                axis=(0, -2),
            ),
            case("masked", normal(7, 5), constant(MASK)),
        ),
        hard=(
            case("saturated and tied", constant(SATURATED), omitted),
            case("shifted by 1e4", constant([[1e4, 1e4 + 1, 1e4 - 2]]), omitted),
            case(
                "masked numbers of any kind", constant(hidden), constant([[False, True, True]] * 3)
            ),
            case("one class", normal(7, 1), omitted),
            case("empty batch", normal(0, 5), omitted),
        ),
        benchmark=case("(2048, 1024)", normal(2048, 1024), omitted),
        saves=saves,
    )


ENTRIES = (
    _normaliser(jaxnn.softmax, saves=8_388_608),
    _normaliser(jaxnn.log_softmax, saves=8_396_800),
    _normaliser(jaxnn.logsumexp, saves=8_404_992),
    Entry(
        jaxnn.sparsemax,
        cases=(
            case("last axis", normal(7, 5)),
            case("first axis", normal(7, 5, scale=0.3), axis=0),
            case("middle axis", normal(7, 5, 3), axis=-2),
        ),
        hard=(
            case("saturated and tied", constant(SATURATED)),
            case("shifted by 1e4", constant([[1e4, 1e4 + 1, 1e4 - 2]])),
            case("one class", normal(7, 1)),
            case("empty batch", normal(0, 5)),
        ),
        benchmark=case("(2048, 1024)", normal(2048, 1024)),
        saves=8_388_608,
    ),
)
