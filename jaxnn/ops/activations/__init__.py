"""Activations: smooth, piecewise, gated, and the softmax."""
