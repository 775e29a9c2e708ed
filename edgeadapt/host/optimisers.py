"""Optimisers as pure functions, for a learning step. Under the name that programs use; it is
``edgeadapt.host.steps.optimisers``.
"""

from edgeadapt.host.steps.optimisers import *  # noqa: F403
from edgeadapt.host.steps.optimisers import __all__ as __all__
