"""Which samples a small budget is spent on. ``choose(DEFAULT, samples, budget, seed)``; one file
per idea.

>>> import numpy as np
>>> pool = Samples(np.random.default_rng(0).standard_normal((60, 4)), np.arange(60) % 3)
>>> np.bincount(pool.y[choose(DEFAULT, pool, 9)]).tolist()
[3, 3, 3]
"""

from __future__ import annotations

from edgeadapt.device.coreset.adaptive import Adaptive
from edgeadapt.device.coreset.balanced import Balanced
from edgeadapt.device.coreset.coverage import Coverage
from edgeadapt.device.coreset.herding import Herding
from edgeadapt.device.coreset.matched import CleanHerding, Matched
from edgeadapt.device.coreset.reservoir import Reservoir
from edgeadapt.device.coreset.samples import I64, Samples, Selector
from edgeadapt.device.coreset.stream import SelectedMemory
from edgeadapt.errors import InputError

SELECTORS: dict[str, Selector] = {
    s.name: s
    for s in (Reservoir(), Balanced(), Herding(), Coverage(), Adaptive(), CleanHerding(), Matched())
}
DEFAULT = Matched.name
"""For a selection that is trained on at once."""
DEFAULT_RETAINED = CleanHerding.name
"""For what is kept over a stream to whose classes more will be added."""


def choose(name: str, samples: Samples, budget: int, seed: int = 0) -> I64:
    """Distinct rows of ``samples``, ascending, min(budget, N) of them, by the selector of that
    name.

    Raises:
        InputError: no such selector, a budget below 1, or the selector needs what ``samples`` does
            not have.
    """
    if name not in SELECTORS:
        raise InputError(f"no selector called {name!r}; selectors: {', '.join(SELECTORS)}")
    return SELECTORS[name].select(samples, budget, seed)


__all__ = [
    "DEFAULT",
    "DEFAULT_RETAINED",
    "SELECTORS",
    "Samples",
    "SelectedMemory",
    "Selector",
    "choose",
]
