"""Identify the cause of a wrong gradient from its numbers alone."""

from jaxnn.gradcheck.explain.evidence import Evidence
from jaxnn.gradcheck.explain.explanations import SAME, explain, explain_all, explain_gradient

__all__ = ["SAME", "Evidence", "explain", "explain_all", "explain_gradient"]
