"""Losses that teach a model to score, and scorers that know the answer."""
