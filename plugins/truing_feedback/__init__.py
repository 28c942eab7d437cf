"""Feedback from models: answers that are criticised and revised by principles."""
