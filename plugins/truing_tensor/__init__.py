"""Shared arithmetic on flat, ragged batches. Not a plugin: every plugin may import it, and it imports only the kernel."""
