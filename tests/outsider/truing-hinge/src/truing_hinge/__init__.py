"""A stranger's plugin for truing: built, installed and removed by tests/cli/test_outsider.py."""
