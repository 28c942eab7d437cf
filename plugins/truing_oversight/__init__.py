"""Oversight of models that are stronger than who oversees them."""
