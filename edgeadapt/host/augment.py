"""Augmentation of training inputs. Under the name that programs use; it is
``edgeadapt.host.training.augmentation``.
"""

from edgeadapt.host.training.augmentation import *  # noqa: F403
from edgeadapt.host.training.augmentation import __all__ as __all__
