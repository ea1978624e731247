"""`check_numpy`, and the laws that it tries on a backward written with NumPy."""
