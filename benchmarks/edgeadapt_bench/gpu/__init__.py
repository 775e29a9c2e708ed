"""The GPU of this machine beside its CPU: ``gpu``; every part runs in a process of its own."""
