"""A module, a loss and an optimiser become a learning step as a graph."""
