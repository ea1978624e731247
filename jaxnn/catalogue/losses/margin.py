"""Losses with a margin, and those of the cosine, in the catalogue."""

import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, normal
from jaxnn.ops.losses.cosine import cosine_embedding, cosine_similarity
from jaxnn.ops.losses.margin import hinge, hinge_embedding, margin_ranking, triplet_margin


def signs(*shape):
    """Integers −1 and 1."""
    return lambda random, dtype: jnp.asarray(2 * random.integers(0, 2, shape) - 1)


def pair(*makers):
    """A pair of predictions."""
    return lambda random, dtype: tuple(make(random, dtype) for make in makers)


SCORES = [[0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 1e-30]]
TARGETS = [[1, 1, -1, -1, -1, 1, 1]]
ROWS = [[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1e30, -1e30, 0.0], [1e-30, 0.0, 1e-30], [1.0, 0.0, 0.0]]
OTHERS = [[3.0, 4.0, 0.0], [1.0, 2.0, 3.0], [1.0, 1e30, 0.0], [-1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]
MORE = [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1e30, 1.0, 0.0], [1e-30, 1e-30, 0.0], [-1.0, 0.0, 0.0]]
SIZE = 4096 * 1024 * 4

ENTRIES = (
    Entry(
        hinge,
        cases=(
            case("plain", normal(7, 5), signs(7, 5)),
            case("floating target", normal(7, 5), normal(7, 5), margin=0.5),
            case("squared", normal(7, 5), normal(7, 5), squared=True),
            case("two batch axes", normal(7, 5, 3), signs(7, 5, 3)),
        ),
        hard=(
            case("edges and extremes", constant(SCORES), constant(TARGETS)),
            case("one decision", normal(7, 1), signs(7, 1), squared=True),
            case("empty batch", normal(0, 5), signs(0, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
        saves=2 * SIZE,
    ),
    Entry(
        hinge_embedding,
        cases=(
            case("plain", normal(7, 5), signs(7, 5)),
            case("floating target", normal(7, 5), normal(7, 5), margin=0.5),
            case("two batch axes", normal(7, 5, 3), signs(7, 5, 3)),
        ),
        hard=(
            case("edges and extremes", constant(SCORES), constant(TARGETS)),
            case("one distance", normal(7, 1), signs(7, 1)),
            case("empty batch", normal(0, 5), signs(0, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
        saves=2 * SIZE,
    ),
    Entry(
        margin_ranking,
        cases=(
            case("plain", pair(normal(7, 5), normal(7, 5)), signs(7, 5)),
            case("floating target", pair(normal(7, 5), normal(7, 5)), normal(7, 5), margin=0.5),
            case("two batch axes", pair(normal(7, 5, 3), normal(7, 5, 3)), signs(7, 5, 3)),
        ),
        hard=(
            case(
                "edges and extremes",
                pair(constant(SCORES), constant([[0.0] * 7])),
                constant(TARGETS),
            ),
            case("one comparison", pair(normal(7, 1), normal(7, 1)), signs(7, 1), margin=0.5),
            case("empty batch", pair(normal(0, 5), normal(0, 5)), signs(0, 5)),
        ),
        benchmark=case(
            "(4096, 1024)",
            pair(normal(4096, 1024), normal(4096, 1024)),
            normal(4096, 1024),
        ),
        saves=3 * SIZE,
    ),
    Entry(
        triplet_margin,
        cases=(
            case("plain", normal(7, 5), normal(7, 5), normal(7, 5)),
            case("swap", normal(7, 5), normal(7, 5), normal(7, 5), swap=True, margin=3.0),
            case("p = 1", normal(7, 5), normal(7, 5), normal(7, 5), p=1.0, eps=0.0, swap=True),
            case("p = 3", normal(7, 5), normal(7, 5), normal(7, 5), p=3.0, eps=0.01),
            case("two batch axes", normal(7, 5, 3), normal(7, 5, 3), normal(7, 5, 3)),
        ),
        hard=(
            case("extremes", constant(ROWS), constant(OTHERS), constant(MORE), eps=0.0),
            case("swap", constant(ROWS), constant(MORE), constant(OTHERS), eps=0.0, swap=True),
            case("all alike", constant(ROWS), constant(ROWS), constant(ROWS), eps=0.0, p=3.0),
            case("one component", normal(7, 1), normal(7, 1), normal(7, 1)),
            case("empty batch", normal(0, 5), normal(0, 5), normal(0, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024), normal(4096, 1024)),
        saves=3 * SIZE + 2 * 4096 * 4,
    ),
    Entry(
        cosine_similarity,
        cases=(
            case("plain", normal(7, 5), normal(7, 5)),
            case("short vectors", normal(7, 5), normal(7, 5), eps=2.0),
            case("no floor", normal(7, 5), normal(7, 5), eps=0.0),
            case("two batch axes", normal(7, 5, 3), normal(7, 5, 3)),
        ),
        hard=(
            case("extremes", constant(ROWS), constant(OTHERS)),
            case("no floor", constant(OTHERS), constant(ROWS), eps=0.0),
            case("parallel", constant(ROWS), constant(ROWS), eps=0.0),
            case("one component", normal(7, 1), normal(7, 1)),
            case("empty batch", normal(0, 5), normal(0, 5)),
        ),
        benchmark=case("(4096, 1024)", normal(4096, 1024), normal(4096, 1024)),
        saves=2 * SIZE + 6 * 4096 * 4,
    ),
    Entry(
        cosine_embedding,
        cases=(
            case("plain", pair(normal(7, 5), normal(7, 5)), signs(7)),
            case("floating target", pair(normal(7, 5), normal(7, 5)), normal(7), margin=0.1),
            case("two batch axes", pair(normal(7, 5, 3), normal(7, 5, 3)), signs(7, 5)),
        ),
        hard=(
            case("extremes", pair(constant(ROWS), constant(OTHERS)), constant([1, -1, -1, 1, -1])),
            case("parallel", pair(constant(ROWS), constant(ROWS)), constant([1, -1, 1, -1, 1])),
            case("one component", pair(normal(7, 1), normal(7, 1)), signs(7)),
            case("empty batch", pair(normal(0, 5), normal(0, 5)), signs(0)),
        ),
        benchmark=case("(4096, 1024)", pair(normal(4096, 1024), normal(4096, 1024)), signs(4096)),
        saves=2 * SIZE + 8 * 4096 * 4,
    ),
)
