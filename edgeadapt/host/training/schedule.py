"""The learning rate of a step."""

from __future__ import annotations

import math

WARM_UP = 0.3  # share of the steps before the peak of the learning rate
START_DIVISOR, END_DIVISOR = 25.0, 25e4  # peak over first and over last learning rate


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate of a step: cosine from peak / 25 up to peak, then cosine down to peak /
    250,000.

    Source: Smith and Topin, arXiv 1708.07120; momentum is constant here.
    """
    top = WARM_UP * total
    if step < top:
        low, share = peak / START_DIVISOR, 1.0 - step / top
    else:
        low, share = peak / END_DIVISOR, (step - top) / max(total - 1 - top, 1.0)
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


__all__ = ["one_cycle"]
