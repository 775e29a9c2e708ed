"""Labelled images for training and calibration. Under the name that programs use; it is
``edgeadapt.host.data.images``.
"""

from edgeadapt.host.data.images import *  # noqa: F403
from edgeadapt.host.data.images import __all__ as __all__
