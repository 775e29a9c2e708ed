"""The strongest correction that may act: a card that finds harm is tried again with milder ones
before adaptation is given up.

A correction of strength s goes that share of the way from the factory's statistics to the
condition's: shrinkage towards none, as an empirical-Bayes estimate of a condition from few samples
would have it. Which s is the card's to say, and the device applies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeadapt.bundle.schema import AdaptMode
from edgeadapt.host.stress.verdict import StressCard, mean_gain

STRENGTHS = (1.0, 0.5, 0.25)


@dataclass(frozen=True, eq=False)
class Trial:
    """A card of one method at one strength."""

    method: str
    strength: float
    card: StressCard

    @property
    def mode(self) -> AdaptMode:
        return self.card.mode

    @property
    def gain(self) -> float:
        """Mean gain on shifted streams, shuffled and sorted."""
        return (mean_gain(self.card.rows, "shuffled") + mean_gain(self.card.rows, "sorted")) / 2

    def as_dict(self) -> dict[str, Any]:
        """As ``card.json`` holds it."""
        found = {"method": self.method, "strength": self.strength, "mode": self.mode}
        return found | {"reason": self.card.reason, "gain": self.gain}


def tried(
    method: str, card_of: Callable[[float], StressCard], strengths: Sequence[float] = STRENGTHS
) -> list[Trial]:
    """Cards from the strongest on, until one acts, or finds no harm that a milder correction could
    undo.
    """
    trials: list[Trial] = []
    for strength in strengths:
        trials.append(Trial(method, strength, card_of(strength)))
        if not trials[-1].card.is_harmful:
            break
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """Of those that may act the one that gains most; where none may, the first."""
    return max(
        (trial for trial in trials if trial.mode == "act"),
        key=lambda trial: trial.gain,
        default=trials[0],
    )


def card_of(trials: Sequence[Trial]) -> dict[str, Any]:
    """What ``card.json`` holds of them under ``stress``: the whole card of the best, and a line of
    each where there are several.
    """
    several = {"trials": [trial.as_dict() for trial in trials]} if len(trials) > 1 else {}
    return best(trials).card.as_dict() | several


def milder(home: float, strength: float) -> float:
    """``AdaptPolicy.home`` of a correction of this strength: it comes home by that share of the
    margin.
    """
    return home if strength == 1.0 else 1.0 - strength * (1.0 - home)


__all__ = ["STRENGTHS", "Trial", "best", "card_of", "milder", "tried"]
