"""Verifiers: what says, of a completion, whether it is right.

A **judge** is a function of a text and of what is known to be right; it gives a Verdict. Judges import nothing heavy.
Two kinds of them run outside of this process: those that libraries make of what a model wrote, in `workers` that are
asked again and again, and those that run what a model wrote, in a `sandbox` that is made anew for every completion.
Inside of either, `inside` is what runs first.
"""
