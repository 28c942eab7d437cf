"""The loss newcomer for truing."""
