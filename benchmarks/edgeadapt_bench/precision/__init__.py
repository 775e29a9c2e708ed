"""The encoder in other precisions and places, and networks by name compared with the originals."""
