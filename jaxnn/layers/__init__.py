"""Constructors of layers, one file for each family."""
