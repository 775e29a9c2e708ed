"""The stress card: whether adaptation may act, by streams that nothing was tuned on.

``stress_card`` and ``stress_again`` are for programs; an export makes the card by itself.
"""

from edgeadapt.host.stress.again import stress_again
from edgeadapt.host.stress.card import stress_card

__all__ = ["stress_again", "stress_card"]
