"""A daemon is put together, looked at, changed while it runs, and ended."""
