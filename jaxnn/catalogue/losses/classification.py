"""Margins, divergences and the focal loss, in the catalogue."""

import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, labels, normal, omitted, probabilities
from jaxnn.ops.losses.classification import multiclass_hinge, negative_log_likelihood
from jaxnn.ops.losses.divergences import cosine_distance, jensen_shannon, kl_divergence
from jaxnn.ops.losses.focal import focal_loss
from jaxnn.ops.losses.poly import poly_loss
from jaxnn.ops.losses.sparsemax import sparsemax_loss

SCORES = [
    [4.0, 3.0, 3.0, -1.0],  # the margin is met exactly
    [2.0, 2.0, 2.0, 2.0],  # the rivals tie
    [1e4, 1e4 + 0.5, 0.0, 0.0],
    [-1e30, 1e30, 1e30, 0.0],
    [0.0, -1e30, 0.5, -1e30],
]
CERTAIN = [[0.0, -1e30, -1e30], [-1e4, 0.0, -1e4], [-0.7, -0.7, -1e30]]
SHARES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.75, 0.0]]
CONFIDENT = [[30.0, 0.0, 0.0], [0.0, 0.99, 0.0], [1e4, 1e4, 0.0], [5.0, 5.0, 5.0]]
ONE_HOT = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
SATURATED = [[-1e30, -1e4, -20.0, 0.0, 20.0, 1e4, 1e30]] * 2
YES_AND_NO = [[0.0] * 7, [1.0] * 7]
VECTORS = [
    [0.0, 0.0, 0.0],
    [3.0, 4.0, 0.0],
    [1e30, 1e30, 0.0],
    [1e-20, 0.0, 2e-20],
    [1.0, 1e4, 1e4],
]
DIRECTIONS = [
    [1.0, 0.0, 2.0],
    [0.0, 0.0, 0.0],
    [-1e30, 2.0, 1e30],
    [1e4, 1.0, 1.0],
    [1.0, 1e4, 1e4],
]


def log_probabilities(*shape):
    """Logarithms of rows that sum to 1."""
    return lambda random, dtype: jnp.log(probabilities(*shape)(random, dtype))


ENTRIES = (
    Entry(
        multiclass_hinge,
        cases=(
            case("plain", normal(7, 5), labels(7, 5)),
            case("wide margin, squared", normal(7, 5), labels(7, 5), margin=2.5, power=2),
            case("all rivals", normal(7, 5), labels(7, 5), rivals="all"),
            case("all rivals, squared", normal(7, 5), labels(7, 5), rivals="all", power=2),
        ),
        hard=(
            case("ties and extremes", constant(SCORES), constant([0, 2, 1, 0, 0])),
            case("one class", normal(7, 1), labels(7, 1)),
            case("empty batch", normal(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000)),
        saves=49_152,
    ),
    Entry(
        negative_log_likelihood,
        cases=(
            case("distribution", log_probabilities(7, 3), probabilities(7, 3), omitted),
            case(
                "ignored label, class weights",
                log_probabilities(7, 3),
                constant([0, 1, 2, 2, 1, 0, 2]),
                normal(3),
                ignore_label=2,
            ),
            case("weighted distribution", log_probabilities(7, 3), probabilities(7, 3), normal(3)),
        ),
        hard=(
            case("certain", constant(CERTAIN), constant([0, -1, 1]), omitted, ignore_label=-1),
            case("certain, shares", constant(CERTAIN), constant(SHARES), omitted),
            case("one class", log_probabilities(7, 1), labels(7, 1), omitted),
            case("empty batch", normal(0, 3), labels(0, 3), omitted),
        ),
        benchmark=case("(4096, 1000)", log_probabilities(4096, 1000), labels(4096, 1000), omitted),
        saves=16_384,
    ),
    Entry(
        kl_divergence,
        cases=(
            case("plain", log_probabilities(7, 3), probabilities(7, 3)),
            case("log target", log_probabilities(7, 3), log_probabilities(7, 3), log_target=True),
        ),
        hard=(
            case("certain", constant(CERTAIN), constant(SHARES)),
            case("certain, log target", constant(CERTAIN), constant(CERTAIN), log_target=True),
            case("one class", log_probabilities(7, 1), probabilities(7, 1)),
            case("empty batch", normal(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", log_probabilities(4096, 1000), probabilities(4096, 1000)),
        saves=32_768_000,
    ),
    Entry(
        jensen_shannon,
        cases=(case("plain", log_probabilities(7, 3), log_probabilities(7, 3)),),
        hard=(
            case("certain", constant(CERTAIN), constant(CERTAIN[::-1])),
            case("equal", constant(CERTAIN), constant(CERTAIN)),
            case("one class", log_probabilities(7, 1), log_probabilities(7, 1)),
            case("empty batch", normal(0, 3), normal(0, 3)),
        ),
        benchmark=case(
            "(4096, 1000)", log_probabilities(4096, 1000), log_probabilities(4096, 1000)
        ),
        saves=32_768_000,
    ),
    Entry(
        sparsemax_loss,
        cases=(
            case("labels", normal(7, 3), labels(7, 3)),
            case("distribution", normal(7, 3), probabilities(7, 3)),
            case("rows sum to 2", normal(7, 3), probabilities(7, 3, total=2.0)),
        ),
        hard=(
            case("confident", constant(CONFIDENT), constant([0, 1, 2, 0])),
            case("confident, one-hot", constant(CONFIDENT), constant(ONE_HOT)),
            case("one class", normal(7, 1), labels(7, 1)),
            case("empty batch", normal(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000)),
        saves=16_433_152,
    ),
    Entry(
        poly_loss,
        cases=(
            case("labels", normal(7, 3), labels(7, 3)),
            case("distribution", normal(7, 3), probabilities(7, 3, total=2.0), epsilon=-0.5),
        ),
        hard=(
            case("confident", constant(CONFIDENT), constant([0, 1, 2, 0])),
            case("confident, one-hot", constant(CONFIDENT), constant(ONE_HOT)),
            case("one class", normal(7, 1), labels(7, 1)),
            case("empty batch", normal(0, 3), labels(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), labels(4096, 1000)),
        saves=16_449_536,
    ),
    Entry(
        cosine_distance,
        cases=(case("plain", normal(7, 5), normal(7, 5)),),
        hard=(
            case("zero, large, tiny, equal", constant(VECTORS), constant(DIRECTIONS)),
            case("one component", normal(7, 1), normal(7, 1)),
            case("empty batch", normal(0, 3), normal(0, 3)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
        saves=33_636_352,
    ),
    Entry(
        focal_loss,
        cases=(
            case("soft target", normal(7, 3), probabilities(7, 3)),
            case("alpha", normal(7, 3), probabilities(7, 3), alpha=0.25, gamma=0.5),
        ),
        hard=(
            case("saturated", constant(SATURATED), constant(YES_AND_NO)),
            case("saturated, low gamma", constant(SATURATED), constant(YES_AND_NO), gamma=0.1),
            case("one output", normal(7, 1), constant([[1.0]] * 7), gamma=0.0),
            case("empty batch", normal(0, 3), probabilities(0, 3)),
        ),
        benchmark=case("(4096, 1000)", normal(4096, 1000), probabilities(4096, 1000)),
        saves=32_768_000,
    ),
)
