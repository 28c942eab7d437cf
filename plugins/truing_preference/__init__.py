"""Losses on comparisons: DPO and its family."""
