"""Bytes from outside become values: JSON, pictures with limits, and the child process that reads
the costly ones.
"""
