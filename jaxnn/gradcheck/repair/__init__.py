"""The line of a wrong backward, and the change of one step that makes it right."""

from jaxnn.gradcheck.repair.search import Repair, RepairSearch, Trial, find_repairs

__all__ = ["Repair", "RepairSearch", "Trial", "find_repairs"]
