"""Time, temperature, power and bytes, and the one worker thread."""
