"""Raises on import, as a plugin does whose own dependency is too old."""

raise RuntimeError("truing-broken needs a moon phase it did not find")
