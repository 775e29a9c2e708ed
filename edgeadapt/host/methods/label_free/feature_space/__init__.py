"""Label-free methods behind the encoder: they correct features or answers, and so work on any
encoder and on feature vectors. Nothing here reads an input.
"""
