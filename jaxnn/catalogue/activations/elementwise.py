"""Activations in the catalogue."""

from jaxnn.catalogue.case import Case, Entry, case, constant, normal
from jaxnn.op import Op
from jaxnn.ops.activations.piecewise import (
    celu,
    elu,
    hard_shrink,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    relu,
    relu6,
    relu_squared,
    selu,
    soft_shrink,
    threshold,
)
from jaxnn.ops.activations.smooth import (
    gelu,
    identity,
    log_sigmoid,
    mish,
    quick_gelu,
    sigmoid,
    silu,
    softplus,
    softsign,
    squareplus,
    tanh,
    tanh_shrink,
)

EXTREMES = [-1e30, -1e4, -100.0, -20.0, -1e-30, -0.0, 0.0, 1e-30, 20.0, 100.0, 1e4, 1e30]


def _activation(op: Op, *option_sets: dict, arrays: int = 1, hard: tuple[Case, ...] = ()) -> Entry:
    """An activation that saves this many arrays of the size of x."""
    sets = option_sets or ({},)
    return Entry(
        op,
        cases=tuple(case(str(options or "plain"), normal(7, 5), **options) for options in sets),
        hard=(
            *(
                hard_case
                for options in sets
                for hard_case in (
                    case("extremes", constant(EXTREMES), **options),
                    case("one number", constant(0.5), **options),
                    case("empty batch", normal(0, 5), **options),
                )
            ),
            *hard,
        ),
        benchmark=case("(4096, 3072)", normal(4096, 3072), **sets[0]),
        saves=arrays * 4096 * 3072 * 4,
    )


ENTRIES = (
    _activation(identity, arrays=0),
    _activation(sigmoid),
    _activation(tanh),
    _activation(softplus, {}, {"beta": 2.5}),
    _activation(log_sigmoid),
    _activation(squareplus, {}, {"b": 0.25}),
    _activation(softsign),
    _activation(tanh_shrink),
    _activation(silu),
    _activation(quick_gelu),
    _activation(mish),
    _activation(gelu, {"approximate": True}, {"approximate": False}, arrays=2),
    _activation(relu),
    _activation(leaky_relu, {}, {"slope": 0.2}, {"slope": 0.0}),
    _activation(elu, {}, {"alpha": 0.5}),
    _activation(selu),
    _activation(celu, {"alpha": 0.5}, hard=(case("a sharp bend", normal(7, 5), alpha=1e-4),)),
    _activation(relu6),
    _activation(hard_sigmoid),
    _activation(hard_swish),
    _activation(hard_tanh, {}, {"low": -0.5, "high": 2.0}),
    _activation(relu_squared),
    _activation(soft_shrink, {}, {"threshold": 0.25}, {"threshold": 0.0}),
    _activation(hard_shrink, {}, {"threshold": 0.25}, {"threshold": 0.0}),
    _activation(threshold, {"threshold": -0.25, "value": -1.0}, {"threshold": 0.25, "value": 2.0}),
)
