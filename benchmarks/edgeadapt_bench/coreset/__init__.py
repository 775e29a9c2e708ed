"""What is worth keeping for replay and training: ``selection``."""
