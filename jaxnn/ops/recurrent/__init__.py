"""Recurrent ops over whole sequences."""
