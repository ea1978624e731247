"""`check_numpy`: backward passes written with NumPy."""
