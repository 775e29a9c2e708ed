"""What runs in a measuring process: the standard library and numpy alone, so that it also runs
where edgeadapt is not installed.
"""
