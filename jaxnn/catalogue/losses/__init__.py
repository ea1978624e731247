"""Losses in the catalogue."""
