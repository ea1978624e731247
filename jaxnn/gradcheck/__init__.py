"""Gradient checks for hand-written backward passes, which also name each mistake."""

from jaxnn.gradcheck.assertion import assert_gradient
from jaxnn.gradcheck.diagnosis.diagnose import diagnose
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES, Mistake
from jaxnn.gradcheck.diagnosis.result import Diagnosis
from jaxnn.gradcheck.laws.check import check
from jaxnn.gradcheck.laws.laws import LAWS
from jaxnn.gradcheck.nonfinite import NonFinite, locate_nonfinite
from jaxnn.gradcheck.numpy.check_numpy import check_numpy
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
    "assert_gradient",
    "check",
    "check_numpy",
    "diagnose",
    "locate_nonfinite",
]
