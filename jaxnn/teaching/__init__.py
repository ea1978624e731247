"""The mathematics of the course notes as explicit arrays."""
