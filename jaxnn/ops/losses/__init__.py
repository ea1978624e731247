"""Losses: ops `(prediction, target) -> one value per example`."""
