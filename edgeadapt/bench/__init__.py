"""The benches are a distribution of their own, ``edgeadapt-bench``; this is what programs imported
from here.
"""
