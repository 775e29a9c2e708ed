"""Starts: first values of a delta, from statistics of what passes through the site.

A file here has one frozen dataclass of ``contracts.Start``. The network with a start computes what
the base computes; a delta's own start needs no file.
"""
