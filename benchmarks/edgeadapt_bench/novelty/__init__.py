"""Scores for what is not known, and which condition a window belongs to."""
