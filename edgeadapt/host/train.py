"""Train a classifier on labelled images or signals. Under the name that programs use; it is
``edgeadapt.host.training.train``.
"""

from edgeadapt.host.training.train import *  # noqa: F403
from edgeadapt.host.training.train import __all__ as __all__
