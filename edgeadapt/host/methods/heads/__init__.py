"""Classifiers that learn from labels by sums, and what they are made of: projections, packed Gram
matrices, the class means that they keep. Nothing here learns without a label.
"""
