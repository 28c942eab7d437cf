"""Preferences of people who do not agree: who they are, what each group wants, and what is just to all of them."""
