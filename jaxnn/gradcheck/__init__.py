"""Is this backward right? The laws that a hand-written backward must obey."""

from jaxnn.gradcheck.laws import LAWS, Finding

__all__ = ["LAWS", "Finding"]
