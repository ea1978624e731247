"""Softmax and its logarithm in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op


def _normaliser(op: Op, saves: int) -> Entry:
    saturated = [[1e4, 0.0, -1e4], [-1e30, 1e30, 0.0], [3.0, 3.0, 3.0], [20.0, 0.0, 0.0]]
    return Entry(
        op,
        cases=(
            case("last axis", normal(7, 5)),
            case("first axis", normal(7, 5), axis=0),
            case("middle axis", normal(7, 5, 3), axis=-2),
        ),
        hard=(
            case("saturated and tied", constant(saturated)),
            case("shifted by 1e4", constant([[1e4, 1e4 + 1, 1e4 - 2]])),
            case("one class", normal(7, 1)),
            case("empty batch", normal(0, 5)),
        ),
        benchmark=case("(2048, 1024)", normal(2048, 1024)),
        saves=saves,
    )


ENTRIES = (
    _normaliser(jaxnn.softmax, saves=8_388_608),
    _normaliser(jaxnn.log_softmax, saves=8_396_800),
)
