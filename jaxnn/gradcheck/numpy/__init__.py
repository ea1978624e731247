"""`check_numpy`, and the laws by which it judges a backward written with NumPy."""
