"""Which samples to ask about, and which can still be answered."""
