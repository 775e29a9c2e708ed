"""Deltas: each a way to change the weights of a site by a few numbers, and nothing else.

A file here has one frozen dataclass with the four functions of ``contracts.Delta``. Where its
numbers start from other than its own first values is in ``starts``; how many each site gets, in
``scores``.
"""
