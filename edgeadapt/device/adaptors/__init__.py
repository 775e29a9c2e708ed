"""When a condition trains an adaptor of its own, which one, and how."""
