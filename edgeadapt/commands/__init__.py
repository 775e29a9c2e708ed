"""What ``edgeadapt COMMAND`` takes and does, one file per group: ``NAME(args)``, and beside it
``NAME_arguments(parser)``. ``edgeadapt.cli`` imports a file only when its command is called.
"""
