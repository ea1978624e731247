"""The linear map in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal, params

ENTRIES = (
    Entry(
        jaxnn.linear,
        cases=(
            case("with bias", params(w=normal(5, 6), b=normal(6)), normal(7, 5)),
            case("no bias", params(w=normal(5, 6)), normal(7, 5)),
            case("two batch axes", params(w=normal(5, 6), b=normal(6)), normal(7, 3, 5)),
            case("no batch axis", params(w=normal(5, 6), b=normal(6)), normal(5)),
        ),
        hard=(
            case("offset 1e4", params(w=normal(5, 6), b=normal(6)), normal(7, 5, scale=1e4)),
            case("zeros", params(w=constant([[0.0] * 6] * 5)), constant([[0.0] * 5])),
            case("one of each", params(w=normal(1, 1), b=normal(1)), normal(1, 1)),
            case("empty batch", params(w=normal(5, 6), b=normal(6)), normal(0, 5)),
        ),
        benchmark=case(
            "(1024, 768) to 3072", params(w=normal(768, 3072), b=normal(3072)), normal(1024, 768)
        ),
        saves=12_595_200,
    ),
)
