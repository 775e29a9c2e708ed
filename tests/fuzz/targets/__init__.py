"""One door per file."""
