"""Is this backward right, and if not, what is wrong with it?"""

from jaxnn.gradcheck.checker import check
from jaxnn.gradcheck.diagnose import diagnose
from jaxnn.gradcheck.diagnosis import Diagnosis
from jaxnn.gradcheck.homework import check_numpy
from jaxnn.gradcheck.laws import LAWS
from jaxnn.gradcheck.mistakes import MISTAKES, Mistake
from jaxnn.gradcheck.nonfinite import NonFinite, locate_nonfinite
from jaxnn.gradcheck.report import Finding, GradientMismatch, Report, Row

__all__ = [
    "LAWS",
    "MISTAKES",
    "Diagnosis",
    "Finding",
    "GradientMismatch",
    "Mistake",
    "NonFinite",
    "Report",
    "Row",
    "check",
    "check_numpy",
    "diagnose",
    "locate_nonfinite",
]
