"""Dropout in the catalogue."""

import jax

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.dropout import alpha_dropout, dropout


def _key(random, dtype):
    return jax.random.key(random.integers(2**32))


ENTRIES = (
    Entry(
        dropout,
        cases=(
            case("three axes", normal(7, 3, 5), _key, rate=0.3),
            case("rate 0", normal(7, 5), _key, rate=0.0),
            case("whole channels", normal(7, 3, 5), _key, rate=0.4, broadcast_axes=(-2,)),
        ),
        hard=(
            case("extremes", constant([[1e30, -1e30, 1e-30, 0.0, 1e4]]), _key, rate=0.5),
            case("nearly all dropped", normal(7, 5), _key, rate=0.9),
            case("all but nothing dropped", normal(7, 5), _key, rate=1 - 1e-12),
            case("one number", constant(0.5), _key, rate=0.5),
            case("empty batch", normal(0, 5), _key, rate=0.5),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), _key, rate=0.1),
        saves=8,
    ),
    Entry(
        alpha_dropout,
        cases=(
            case("three axes", normal(7, 3, 5), _key, rate=0.3),
            case("whole channels", normal(7, 3, 5), _key, rate=0.4, broadcast_axes=(1, 0)),
        ),
        hard=(
            case("extremes", constant([[1e30, -1e30, 1e-30, 0.0, 1e4]]), _key, rate=0.5),
            case("rate 0", normal(7, 5), _key, rate=0.0),
            case("all but nothing dropped", normal(7, 5), _key, rate=1 - 1e-12),
            case("empty batch", normal(0, 5), _key, rate=0.5),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), _key, rate=0.1),
        saves=8,
    ),
)
