"""The settings of a daemon as Python objects, for programs that bring their own sources and
sinks.
"""

from edgeadapt.daemon.config.schema import *  # noqa: F403
from edgeadapt.daemon.config.schema import __all__ as __all__
