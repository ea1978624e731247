"""`check`, and the laws by which it judges a backward."""
