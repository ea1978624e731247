"""Activations in the catalogue."""

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op

EXTREMES = [-1e30, -1e4, -100.0, -20.0, -1e-30, -0.0, 0.0, 1e-30, 20.0, 100.0, 1e4, 1e30]


def _activation(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    return Entry(
        op,
        cases=tuple(case(str(options or "plain"), normal(7, 5), **options) for options in sets),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("extremes", constant(EXTREMES), **options),
                case("one number", constant(0.5), **options),
                case("empty batch", normal(0, 5), **options),
            )
        ),
        benchmark=case("(4096, 3072)", normal(4096, 3072)),
    )


ENTRIES = (
    _activation(jaxnn.identity),
    _activation(jaxnn.sigmoid),
    _activation(jaxnn.tanh),
    _activation(jaxnn.relu),
    _activation(jaxnn.leaky_relu, {}, {"slope": 0.2}, {"slope": 0.0}),
    _activation(jaxnn.elu, {}, {"alpha": 0.5}),
    _activation(jaxnn.softplus),
    _activation(jaxnn.silu),
    _activation(jaxnn.gelu, {"approximate": True}, {"approximate": False}),
)
