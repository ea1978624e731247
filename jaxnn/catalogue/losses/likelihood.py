"""Negative log-likelihoods in the catalogue."""

from jaxnn.catalogue.case import Entry, case, constant, drawn, normal
from jaxnn.catalogue.losses.regression import integers
from jaxnn.ops.losses.likelihood import gaussian_nll, poisson_nll


def positive(*shape):
    """Positive numbers of different sizes."""
    return drawn(lambda random: random.gamma(2.0, size=shape))


def mean_and_variance(mean, variance):
    """A pair of predictions."""
    return lambda random, dtype: (mean(random, dtype), variance(random, dtype))


EXTREME_MEANS = [[1e30, -1e30, 1e-30, 0.0, 2.0, 1e4]]
EXTREME_VARIANCES = [[1e35, 1e30, 1e-30, 0.0, 1e-6, -1.0]]
LOG_RATES = [[-1e4, -100.0, 0.0, 20.0, 1e-30, 80.0, 1.0]]
COUNTS = [[0, 3, 1, 2, 0, 1000000, 1]]

ENTRIES = (
    Entry(
        gaussian_nll,
        cases=(
            case("plain", mean_and_variance(normal(7, 5), positive(7, 5)), normal(7, 5)),
            case(
                "a floor and the constant",
                mean_and_variance(normal(7, 5), positive(7, 5)),
                normal(7, 5),
                eps=0.5,
                full=True,
            ),
            case(
                "two batch axes",
                mean_and_variance(normal(7, 5, 3), positive(7, 5, 3)),
                normal(7, 5, 3),
            ),
            case(
                "integer target",
                mean_and_variance(normal(7, 5), positive(7, 5)),
                integers(-3, 4, 7, 5),
            ),
        ),
        hard=(
            case(
                "extremes",
                mean_and_variance(constant(EXTREME_MEANS), constant(EXTREME_VARIANCES)),
                constant([[0.0] * 6]),
            ),
            case("one component", mean_and_variance(normal(7, 1), positive(7, 1)), normal(7, 1)),
            case("empty batch", mean_and_variance(normal(0, 5), positive(0, 5)), normal(0, 5)),
        ),
        benchmark=case(
            "(4096, 1024)",
            mean_and_variance(normal(4096, 1024), positive(4096, 1024)),
            normal(4096, 1024),
        ),
        saves=2 * 4096 * 1024 * 4,
    ),
    Entry(
        poisson_nll,
        cases=(
            case("plain", normal(7, 5), positive(7, 5)),
            case("Stirling", normal(7, 5), positive(7, 5), full=True),
            case("rates", positive(7, 5), positive(7, 5), log_input=False, full=True, eps=0.01),
            case("two batch axes", normal(7, 5, 3), positive(7, 5, 3)),
            case("integer target", normal(7, 5), integers(0, 4, 7, 5), full=True),
        ),
        hard=(
            case("extremes", constant(LOG_RATES), constant(COUNTS), full=True),
            case(
                "rates",
                constant([[0.0, 1e-30, 1e30, 1.0]]),
                constant([[0.0, 1.0, 1e30, 1e4]]),
                log_input=False,
                full=True,
            ),
            case("one component", normal(7, 1), positive(7, 1)),
            case("empty batch", normal(0, 5), positive(0, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), positive(4096, 1024)),
        saves=2 * 4096 * 1024 * 4,
    ),
)
