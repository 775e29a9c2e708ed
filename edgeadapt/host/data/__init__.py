"""Labelled samples: read, checked, split and named."""
