"""Other systems that can take the same learning step, each in an environment of its own.

Every file here but ``environments`` runs as a script inside such an environment, so it imports
nothing from edgeadapt.
"""
