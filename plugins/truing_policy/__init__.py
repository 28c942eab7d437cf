"""Losses that train a policy on what it should say."""
