"""A run told to the person in front of it: the observer `console`."""
