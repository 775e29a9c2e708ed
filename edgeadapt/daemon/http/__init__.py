"""The control interface: who may speak, how much, and what can be asked."""
