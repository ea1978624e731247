"""Every op with example arguments, for the tests, the benchmark and the tables to iterate over.

A new op is one function triple and one entry here, in the file of its family.
"""

from jaxnn.catalogue import (
    attention,
    convolution,
    dropout,
    embedding,
    gaussian,
    images,
    joining,
    linear,
    normalisation,
    pooling,
    recurrent,
    shape,
)
from jaxnn.catalogue.activations import elementwise, gated, parametric, softmax
from jaxnn.catalogue.case import Case, Entry
from jaxnn.catalogue.losses import (
    classification,
    contrastive,
    cross_entropy,
    ctc,
    likelihood,
    linear_softmax_cross_entropy,
    margin,
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
    parametric,
    normalisation,
    dropout,
    pooling,
    images,
    shape,
    joining,
    gaussian,
    softmax,
    regression,
    likelihood,
    margin,
    cross_entropy,
    classification,
    contrastive,
    ctc,
    linear_softmax_cross_entropy,
)
ENTRIES = tuple(entry for family in FAMILIES for entry in family.ENTRIES)
