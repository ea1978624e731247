"""`diagnose`: which known mistake explains the gradients of a network."""
