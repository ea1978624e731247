"""Gated linear units in the catalogue."""

from jaxnn.catalogue.activations.elementwise import EXTREMES
from jaxnn.catalogue.case import Entry, case, constant, normal, omitted
from jaxnn.op import Op
from jaxnn.ops.activations.gated import geglu, glu, reglu, swiglu


def _pairs(values):
    """Every value in one half beside every value in the other."""
    return [[a, b] for a in values for b in values]


def _gated(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    return Entry(
        op,
        cases=(
            *(
                case(str(options or "plain"), normal(7, 3, 10), omitted, **options)
                for options in sets
            ),
            case("a gate", normal(7, 3, 5), normal(7, 3, 5), **sets[-1]),
        ),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("extremes", constant(_pairs(EXTREMES)), omitted, **options),
                case("empty batch", normal(0, 10), omitted, **options),
            )
        ),
        benchmark=case("(4096, 2 × 3072)", normal(4096, 6144), omitted),
        saves=4096 * 6144 * 4,
    )


ENTRIES = (
    _gated(glu),
    _gated(swiglu),
    _gated(geglu, {"approximate": True}, {"approximate": False}),
    _gated(reglu),
)
