"""Environments: what a model speaks to in completions of several turns."""
