"""How inputs are spoilt: one kind of structure per file. Every edit draws from the ``Random`` it is
given and nothing else.
"""
