"""One training step beside other systems."""
