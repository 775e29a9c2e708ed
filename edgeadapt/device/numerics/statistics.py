"""Tails of the binomial distribution."""

from __future__ import annotations

from math import comb


def sign_test(wins: int, losses: int) -> float:
    """P(at most ``wins`` of wins + losses by fair coin): small if the candidate lost more samples
    than it won.
    """
    total = wins + losses
    return sum(comb(total, k) for k in range(wins + 1)) / 2**total if total else 1.0


def upper_tail(count: int, total: int, chance: float) -> float:
    """P(Binomial(total, chance) >= count)."""
    return sum(
        comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(count, total + 1)
    )
