"""The embedding in the catalogue."""

import jax.numpy as jnp
import numpy as np

from jaxnn.catalogue.case import Entry, case, constant, labels, mask, normal, omitted, params
from jaxnn.ops.embedding import embedding, embedding_bag
from jaxnn.ops.segment import segment_max, segment_mean, segment_sum


def _ids(*shape, n):
    return lambda random, dtype: jnp.asarray(random.integers(0, n, shape))


NAN, INFINITY = float("nan"), float("inf")
ENTRIES = (
    Entry(
        embedding,
        cases=(
            case("repeated ids", params(w=normal(6, 5)), labels(13, 6)),
            case("two axes of ids", params(w=normal(11, 5)), _ids(3, 7, n=11)),
            case("padding", params(w=normal(6, 5)), labels(13, 6), padding_idx=-2),
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
    Entry(
        embedding_bag,
        cases=(
            case("sums", params(w=normal(6, 5)), _ids(7, 4, n=6), omitted, omitted),
            case(
                "weights, mask, padding",
                params(w=normal(6, 5)),
                _ids(7, 4, n=6),
                normal(7, 4),
                mask(7, 4),
                padding_idx=3,
            ),
            case(
                "means", params(w=normal(6, 5)), _ids(3, 7, 4, n=6), omitted, omitted, mode="mean"
            ),
            case(
                "means, mask, padding",
                params(w=normal(6, 5)),
                _ids(7, 4, n=6),
                omitted,
                mask(7, 4),
                mode="mean",
                padding_idx=-1,
            ),
        ),
        hard=(
            case(
                "anything in dropped ids",
                params(w=normal(3, 5, scale=1e4)),
                constant(np.array([[0, -7, 2], [99, 1, 1], [-1, -1, 3]], np.int8)),
                constant([[1.0, NAN, 2.0], [INFINITY, 0.0, 1.0], [NAN] * 3]),
                constant([[True, False, True], [False, True, True], [False] * 3]),
            ),
            case(
                "empty bags", params(w=normal(3, 5)), _ids(4, 0, n=3), omitted, omitted, mode="mean"
            ),
            case("no bag", params(w=normal(3, 5)), _ids(0, 4, n=3), omitted, omitted),
        ),
        benchmark=case(
            "(32000, 256), 512 bags of 32",
            params(w=normal(32000, 256)),
            _ids(512, 32, n=32000),
            omitted,
            mask(512, 32),
            mode="mean",
        ),
        saves=81_920,
    ),
    *(
        Entry(
            op,
            cases=(
                case("rows", normal(13, 5), labels(13, 6), num_segments=7),
                case(
                    "two axes, some out of range", normal(13, 3, 5), labels(13, 9), num_segments=6
                ),
            ),
            hard=(
                case(
                    "anything out of range, ties",
                    constant([[NAN, 1.0], [3, 3], [1e4, -1e4], [3, 3], [INFINITY, 0], [-1, 3]]),
                    constant(np.array([-1, 0, 2, 0, 100, 0], np.int8)),
                    num_segments=4,
                ),
                case("numbers", normal(6), constant([1, 1, 0, 1, 0, 1]), num_segments=2),
                case("no row", normal(0, 5), constant(np.zeros(0, np.int32)), num_segments=3),
            ),
            benchmark=case(
                "(16384, 256), 512 segments",
                normal(16384, 256),
                labels(16384, 512),
                num_segments=512,
            ),
            saves=saves,
        )
        for op, saves in (
            (segment_sum, 65_536),
            (segment_mean, 65_536 + 2_048),
            (segment_max, 65_536 + 524_288),
        )
    ),
)
