"""Losses that teach a model to score."""
