"""The former place of ``edgeadapt.scenarios.corruptions``."""

import warnings

from edgeadapt.scenarios.corruptions import *  # noqa: F403
from edgeadapt.scenarios.corruptions import __all__ as __all__

warnings.warn("edgeadapt.bench.corruptions is edgeadapt.scenarios.corruptions now", DeprecationWarning, stacklevel=2)
