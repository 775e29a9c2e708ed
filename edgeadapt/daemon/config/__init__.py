"""The settings of the daemon: what a file may say, and what is checked before anything starts."""
