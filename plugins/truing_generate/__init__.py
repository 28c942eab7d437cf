"""Generators: what turns prompts into completions."""
