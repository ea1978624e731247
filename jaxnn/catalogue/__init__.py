"""Every op with example arguments: what the tests, the benchmark and the tables iterate over.

A new op is one function triple and one entry here, in the file of its family.
"""

from jaxnn.catalogue import (
    attention,
    convolution,
    dropout,
    embedding,
    linear,
    normalisation,
    pooling,
    recurrent,
    shape,
)
from jaxnn.catalogue.activations import elementwise, gated, softmax
from jaxnn.catalogue.case import Case, Entry
from jaxnn.catalogue.losses import (
    classification,
    cross_entropy,
    ctc,
    linear_softmax_cross_entropy,
    regression,
)

__all__ = ["ENTRIES", "Case", "Entry"]

FAMILIES = (
    linear,
    convolution,
    embedding,
    recurrent,
    attention,
    elementwise,
    gated,
    normalisation,
    dropout,
    pooling,
    shape,
    softmax,
    regression,
    cross_entropy,
    classification,
    ctc,
    linear_softmax_cross_entropy,
)
ENTRIES = tuple(entry for family in FAMILIES for entry in family.ENTRIES)
