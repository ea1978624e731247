"""Contrastive losses in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op
from jaxnn.ops.losses.contrastive import info_nce, nt_xent

VECTORS = [[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1e30, 1e30, 0.0], [1e-20, 0.0, 2e-20]]
OTHERS = [[1.0, 2.0, 0.0], [3.0, 4.0, 0.0], [-1e30, -1e30, 0.0], [0.0, 0.0, 0.0]]


def _of_pairs(op: Op, saves: int) -> Entry:
    return Entry(
        op,
        cases=(
            case("plain", normal(7, 5), normal(7, 5)),
            case("low temperature", normal(7, 5), normal(7, 5), temperature=0.07),
        ),
        hard=(
            case("zero, large, tiny, equal", constant(VECTORS), constant(OTHERS)),
            case("one example", normal(1, 3), normal(1, 3)),
            case("empty batch", normal(0, 3), normal(0, 3)),
        ),
        benchmark=case("(1024, 64)", normal(1024, 64), normal(1024, 64)),
        saves=saves,
    )


ENTRIES = (_of_pairs(info_nce, saves=552_960), _of_pairs(nt_xent, saves=565_248))
