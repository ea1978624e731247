"""The Gaussian of a variational autoencoder, in the catalogue."""

import jax

import jaxnn
from jaxnn.catalogue.case import Entry, case, constant, normal

EDGES = [[0.0, 1e-6, -1e-3, 0.5, -0.5], [1.0, -30.0, -80.0, 20.0, 2.0]]


def a_key(random, dtype):
    """A key of random numbers."""
    return jax.random.key(random.integers(1000))


ENTRIES = (
    Entry(
        jaxnn.gaussian_sample,
        cases=(case("plain", normal(7, 5), normal(7, 5), a_key),),
        hard=(
            case("certain and broad", normal(2, 5), constant(EDGES), a_key),
            case("empty batch", normal(0, 5), normal(0, 5), a_key),
        ),
        benchmark=case("(4096, 256)", normal(4096, 256), normal(4096, 256), a_key),
        saves=4096 * 256 * 4,
    ),
    Entry(
        jaxnn.gaussian_kl,
        cases=(case("plain", normal(7, 5), normal(7, 5)),),
        hard=(
            case("near the prior", normal(2, 5, scale=1e-3), constant(EDGES)),
            case("empty batch", normal(0, 5), normal(0, 5)),
        ),
        benchmark=case("(4096, 256)", normal(4096, 256), normal(4096, 256)),
        saves=2 * 4096 * 256 * 4,
    ),
)
