"""User files: their definitions, the targets to check in them, and arguments for these."""
