"""Activations in the catalogue."""
