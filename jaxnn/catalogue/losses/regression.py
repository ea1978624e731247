"""Losses of a prediction against a target of its kind, in the catalogue."""

import jax.numpy as jnp

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.op import Op
from jaxnn.ops.losses.regression import log_cosh, quantile_loss, smooth_l1


def integers(low, high, *shape):
    """Integers in low … high − 1."""
    return lambda random, dtype: jnp.asarray(random.integers(low, high, shape))


def _regression_loss(op: Op, *option_sets: dict) -> Entry:
    sets = option_sets or ({},)
    near = [[0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 1e-30]]
    return Entry(
        op,
        cases=(
            *(
                case(str(options or "plain"), normal(7, 5), normal(7, 5), **options)
                for options in sets
            ),
            case("two batch axes", normal(7, 5, 3), normal(7, 5, 3)),
            case("integer target", normal(7, 5), integers(-3, 4, 7, 5), **sets[-1]),
        ),
        hard=tuple(
            hard_case
            for options in sets
            for hard_case in (
                case("kinks and extremes", constant(near), constant([[0.0] * 7]), **options),
                case("exactly right", constant([[1e4, 2.0]]), constant([[1e4, 2.0]]), **options),
                case("one component", normal(7, 1), normal(7, 1), **options),
                case("empty batch", normal(0, 5), normal(0, 5), **options),
            )
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
        saves=4096 * 1024 * 4,
    )


ENTRIES = (
    _regression_loss(jaxnn.squared_error),
    _regression_loss(jaxnn.half_squared_error),
    _regression_loss(jaxnn.absolute_error),
    _regression_loss(jaxnn.huber_loss, {}, {"delta": 0.25}),
    _regression_loss(smooth_l1, {}, {"beta": 0.25}, {"beta": 0.0}),
    _regression_loss(quantile_loss, {}, {"quantile": 0.9}),
    _regression_loss(log_cosh),
)
