"""The embedding in the catalogue."""

import jax.numpy as jnp

from jaxnn.catalogue.case import Entry, case, constant, labels, normal, params
from jaxnn.ops.embedding import embedding


def _ids(*shape, n):
    return lambda random, dtype: jnp.asarray(random.integers(0, n, shape))


ENTRIES = (
    Entry(
        embedding,
        cases=(
            case("repeated ids", params(w=normal(6, 5)), labels(13, 6)),
            case("two axes of ids", params(w=normal(11, 5)), _ids(3, 7, n=11)),
        ),
        hard=(
            case("one id alone, offset 1e4", params(w=normal(3, 5, scale=1e4)), constant([1] * 40)),
            case("one row, one number", params(w=normal(1, 1)), constant([0, 0, 0])),
            case("a single id", params(w=normal(6, 5)), constant(4)),
            case("no id", params(w=normal(6, 5)), _ids(0, n=6)),
        ),
        benchmark=case("(32000, 256)", params(w=normal(32000, 256)), _ids(16, 512, n=32000)),
        saves=32_768,
    ),
)
