"""Scores: what each size of a delta costs a site, for the allocator.

A file here has one frozen dataclass of ``contracts.Score``.
"""
