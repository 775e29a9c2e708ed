"""Heads on streams of classes and domains."""
