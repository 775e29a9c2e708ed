"""Measures edgeadapt beside what one could pick instead: ``edgeadapt bench`` and ``edgeadapt
data``. No device needs it.
"""
