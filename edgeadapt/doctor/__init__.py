"""What a machine has, what it lacks, and how to get it: ``edgeadapt doctor``.

Everything is read, nothing is changed, and root is never needed. What may crash or hang (a driver,
an engine) is loaded in a child process. This package itself needs nothing but Python, so that it
can say what is missing.
"""
