"""The discrete key-value bottleneck: the head, where its keys lie, and how a feature becomes one
query per book. Nothing here serves another head.
"""
