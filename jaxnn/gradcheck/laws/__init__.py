"""`check`, and the laws that it tries on a backward."""
