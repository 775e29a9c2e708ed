"""Where each graph runs: on the CPU from the first moment, elsewhere once it has shown there that it is right and faster.

``open_auto`` is what ``open_runtime("auto")`` returns; ``Placing`` is the runtime that it makes of others.
"""

from edgeadapt.placement.candidates import open_auto
from edgeadapt.placement.placing import Placing
from edgeadapt.placement.rules import Rules

__all__ = ["Placing", "Rules", "open_auto"]
