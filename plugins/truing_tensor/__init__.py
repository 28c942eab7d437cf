"""Shared arithmetic on flat, ragged batches. No plugin: every plugin may import it, and it imports only the kernel."""
