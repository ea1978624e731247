"""Is this backward right, and if not, what is wrong with it?"""

from jaxnn.gradcheck.checker import check
from jaxnn.gradcheck.laws import LAWS
from jaxnn.gradcheck.report import Finding, GradientMismatch, Report, Row

__all__ = ["LAWS", "Finding", "GradientMismatch", "Report", "Row", "check"]
