"""A plugin that cannot be imported; truing goes on without it."""
