"""Scores of how unlike a sample is to every class, larger is more novel; one file per score. All
read class means or logits, so that a class that was learned stops being novel. Thresholds, and
which score a bundle takes, are the exporter's.
"""
