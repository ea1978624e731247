"""`diagnose`, and the mistakes that it knows."""
