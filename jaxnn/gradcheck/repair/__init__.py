"""Find the wrong line of a backward, and the change of one step that corrects it."""

from jaxnn.gradcheck.repair.search import Repair, RepairSearch, Trial, find_repairs

__all__ = ["Repair", "RepairSearch", "Trial", "find_repairs"]
