"""Connectionist temporal classification, in the catalogue."""

import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, normal, omitted
from jaxnn.ops.losses.ctc import ctc_loss

REPEATED = [[1, 1, 2], [3, 2, 3], [4, 4, 4], [1, 2, 3], [2, 1, 1], [3, 3, 1], [1, 4, 2]]
PADDED = [[1, 1, -1], [3, -1, -1], [2, 2, 2], [-1, -1, -1], [2, 0, 1], [0, 0, 1], [1, 0, 2]]
FRAMES = [6, 4, 5, 3, 6, 5, 4]
LABELS = [2, 1, 3, 0, 3, 3, 3]
NAN, INF = float("nan"), float("inf")
SEEN = [[0.5, -1.0, 0.25], [1.0, 0.0, -0.5], [0.0, 2.0, 1.0]]
PAST_THE_LENGTHS = [[*SEEN, [NAN] * 3, [INF, 0.0, 0.0]], SEEN[:1] + [[NAN, -INF, INF]] * 4]
LARGE = [[[0.0, 1e4, -1e4], [1e4, 0.0, 0.0], [-1e4, 0.0, 1e4], [50.0, 0.0, 50.0]]]
TOO_LONG = [[1, 1], [1, 2], [2, 1]]  # 1 1 needs three frames, the others two


def sequences(n, length, n_classes):
    """Sequences of labels other than the blank 0."""
    return lambda random, dtype: jnp.asarray(random.integers(1, n_classes, (n, length)))


ENTRIES = (
    Entry(
        ctc_loss,
        cases=(
            case("repeated labels", normal(7, 6, 5), constant(REPEATED), omitted, omitted),
            case(
                "lengths and another blank",
                normal(7, 6, 5, scale=3.0),
                constant(PADDED),
                constant(FRAMES),
                constant(LABELS),
                blank_id=4,
            ),
            case(
                "zero_infinity",
                normal(7, 6, 5),
                constant(REPEATED),
                constant([6, 2, 4, 3, 6, 3, 4]),
                omitted,
                zero_infinity=True,
            ),
            case(
                "log-probabilities",
                normal(7, 6, 5, offset=-2.0),
                constant(PADDED),
                constant(FRAMES),
                constant(LABELS),
                blank_id=4,
                log_probabilities=True,
            ),
        ),
        hard=(
            case("large", constant(LARGE), constant([[1, 2]]), omitted, omitted),
            case("no alignment", normal(3, 2, 3), constant(TOO_LONG), omitted, omitted),
            case(
                "NaN in the padding",
                constant(PAST_THE_LENGTHS),
                constant([[1, 2], [1, 77]]),
                constant([3, 1]),
                constant([2, 1]),
            ),
            case("one of each", normal(1, 1, 2), constant([[1]]), omitted, omitted),
            case(
                "empty batch", normal(0, 3, 3), constant(jnp.zeros((0, 2), int)), omitted, omitted
            ),
        ),
        benchmark=case(
            "(16, 200, 64), S 40", normal(16, 200, 64), sequences(16, 40, 64), omitted, omitted
        ),
        saves=1_914_944,
    ),
)
