"""`diagnose` and its catalogue of mistakes."""
