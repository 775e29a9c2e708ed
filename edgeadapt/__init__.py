"""edgeadapt: models that keep learning after they ship."""
__version__ = "0.1.0"
