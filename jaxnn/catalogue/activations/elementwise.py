"""Activations in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op
from jaxnn.ops.activations.piecewise import (
    celu,
    elu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    relu,
    relu6,
    selu,
)
from jaxnn.ops.activations.smooth import gelu, identity, mish, sigmoid, silu, softplus, tanh

EXTREMES = [-1e30, -1e4, -100.0, -20.0, -1e-30, -0.0, 0.0, 1e-30, 20.0, 100.0, 1e4, 1e30]


def _activation(op: Op, *option_sets: dict, arrays: int = 1) -> Entry:
    """An activation that saves this many arrays of the size of x."""
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
        saves=arrays * 4096 * 3072 * 4,
    )


ENTRIES = (
    _activation(identity, arrays=0),
    _activation(sigmoid),
    _activation(tanh),
    _activation(softplus),
    _activation(silu),
    _activation(mish),
    _activation(gelu, {"approximate": True}, {"approximate": False}, arrays=2),
    _activation(relu),
    _activation(leaky_relu, {}, {"slope": 0.2}, {"slope": 0.0}),
    _activation(elu, {}, {"alpha": 0.5}),
    _activation(selu),
    _activation(celu, {"alpha": 0.5}),
    _activation(relu6),
    _activation(hard_sigmoid),
    _activation(hard_swish),
)
