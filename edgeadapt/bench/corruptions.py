"""The former place of ``edgeadapt.scenarios.corruptions``."""

import warnings

from edgeadapt.scenarios.corruptions import *  # noqa: F403

warnings.warn(
    "edgeadapt.bench.corruptions is edgeadapt.scenarios.corruptions now",
    DeprecationWarning,
    stacklevel=2,
)
