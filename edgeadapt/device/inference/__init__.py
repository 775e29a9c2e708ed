"""Graphs bound to a runtime, the immutable state, and a prediction."""
