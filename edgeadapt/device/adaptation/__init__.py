"""Which condition a stream is in, and its label-free correction. Knows windows and commits; no
label comes in here.
"""
