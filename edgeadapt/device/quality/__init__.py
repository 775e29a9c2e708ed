"""How good the predictions are in the field, and what more labels would bring. Reads, and changes
nothing.
"""
