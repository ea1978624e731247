"""Every op with example arguments: what the tests, the benchmark and the tables iterate over.

A new op is one function triple and one entry here, in the file of its family.
"""

from jaxnn.catalogue import (
    activations,
    attention,
    classification_losses,
    convolution,
    ctc,
    dropout,
    embedding,
    gated,
    linear,
    linear_softmax_cross_entropy,
    losses,
    normalisation,
    pooling,
    recurrence,
    regression_losses,
    shape,
    softmax,
)
from jaxnn.catalogue.case import Case, Entry

__all__ = ["ENTRIES", "Case", "Entry"]

ENTRIES = (
    *linear.ENTRIES,
    *convolution.ENTRIES,
    *embedding.ENTRIES,
    *recurrence.ENTRIES,
    *attention.ENTRIES,
    *activations.ENTRIES,
    *gated.ENTRIES,
    *normalisation.ENTRIES,
    *dropout.ENTRIES,
    *pooling.ENTRIES,
    *shape.ENTRIES,
    *softmax.ENTRIES,
    *regression_losses.ENTRIES,
    *classification_losses.ENTRIES,
    *losses.ENTRIES,
    *ctc.ENTRIES,
    *linear_softmax_cross_entropy.ENTRIES,
)
