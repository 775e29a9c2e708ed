"""Time, heat, power and bytes, and the one worker thread."""
