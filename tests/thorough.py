"""What the suite tries with every op and what only the thorough suite does, `-m thorough`.

Some properties cost seconds for each op and hang on what ops share: the export to JAX's
transformations, meshes, half precision. The suite tries them with ops of every kind, the thorough
suite, which runs before every change lands, with all.
"""

import pytest

from jaxnn.catalogue import ENTRIES

OF_EVERY_KIND = {
    "attention",  # its own tangent, optional arguments
    "conv",  # two halves, padding
    "dropout",  # a key
    "embedding",  # integers
    "layer_norm",  # parameters, a mask
    "linear",
    "lstm",  # a scan, a tuple of states
    "max_pool",  # ties
    "gelu",
    "softmax_cross_entropy",  # labels
}


def every_op():
    """All entries of the catalogue, most of them for the thorough suite only."""
    return [
        pytest.param(entry, id=name, marks=() if name in OF_EVERY_KIND else pytest.mark.thorough)
        for entry in ENTRIES
        for name in [entry.op.__name__]
    ]
