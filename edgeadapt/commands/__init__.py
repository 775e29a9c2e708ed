"""What ``edgeadapt COMMAND`` does, one file per group; ``edgeadapt.cli`` imports a file only when
its command is called.
"""
