"""What users see of edgeadapt, as lists of names: one file of this folder a list, one line a name.

``python tests/public`` writes them again. A name that goes breaks somebody's program: keep it, or
alias it with a deprecation note, and only then take its line away.
"""
