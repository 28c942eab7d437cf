"""Faults that are asked for: what a pipeline does when its parts fail, tried before a long run finds out."""
