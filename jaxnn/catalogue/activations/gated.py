"""Gated linear units in the catalogue."""

from jaxnn.catalogue.activations.elementwise import EXTREMES
from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op
from jaxnn.ops.activations.gated import geglu, glu, swiglu


def _pairs(values):
    """Every value in one half beside every value in the other."""
    return [[a, b] for a in values for b in values]


def _gated(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    return Entry(
        op,
        cases=tuple(case(str(options or "plain"), normal(7, 3, 10), **options) for options in sets),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("extremes", constant(_pairs(EXTREMES)), **options),
                case("empty batch", normal(0, 10), **options),
            )
        ),
        benchmark=case("(4096, 2 × 3072)", normal(4096, 6144)),
        saves=4096 * 6144 * 4,
    )


ENTRIES = (
    _gated(glu),
    _gated(swiglu),
    _gated(geglu, {"approximate": True}, {"approximate": False}),
)
