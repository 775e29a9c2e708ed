"""Candidates of an adaptor, ranked and trained: ``search`` and ``growth``."""
