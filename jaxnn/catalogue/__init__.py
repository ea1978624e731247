"""Every op with example arguments: what the tests, the benchmark and the tables iterate over.

A new op is one function triple and one entry here, in the file of its family.
"""

from jaxnn.catalogue import (
    activations,
    classification_losses,
    linear,
    regression_losses,
    softmax,
)
from jaxnn.catalogue.case import Case, Entry

__all__ = ["ENTRIES", "Case", "Entry"]

ENTRIES = (
    *linear.ENTRIES,
    *activations.ENTRIES,
    *softmax.ENTRIES,
    *regression_losses.ENTRIES,
    *classification_losses.ENTRIES,
)
