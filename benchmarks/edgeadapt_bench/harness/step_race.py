"""Processes that take turns, so that a slower minute of the machine slows all of them; and the race
of systems that take the same learning step.

Before a system is timed it follows the reference: the same steps from the same start on the same
inputs must end at the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.harness.measure import Say
from edgeadapt_bench.harness.process import SHORTEST_S, TIME_IS_UP, Clock, MeasuringProcess
from edgeadapt_bench.harness.step_reference import Arrays, Reference, check

Said = TypeVar("Said")


def interleaved(
    players: Iterable[str],
    rounds: int,
    take_turn: Callable[[str], Said],
    *,
    drop: Callable[[str, RuntimeUnavailable], None] | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> dict[str, list[Said]]:
    """What each player said in its turns, one per round; those that failed are left out.

    Each round gives every player a turn, in an order that rotates. A first round warms up and is
    not counted.

    Args:
        drop: called with a player whose turn failed; without it the error is raised.
        is_over: asked before each round; what was measured until then counts.
    """
    said: dict[str, list[Said]] = {name: [] for name in players}
    for number in range(rounds + 1):
        if number > 1 and is_over():
            break
        names = list(said)
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            try:
                heard = take_turn(name)
            except RuntimeUnavailable as error:
                if drop is None:
                    raise
                del said[name]
                drop(name, error)
                continue
            if number:
                said[name].append(heard)
    return said


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds, and steps per turn."""

    rounds: int
    block: int


@dataclass(frozen=True)
class Entrant:
    """A system and the command that starts its process.

    Attributes:
        named: from the tensors it holds to those of the reference.
        reference: its own, if it cannot take the same step; the name says so.
        is_checked: False only for what learns nothing.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    named: Callable[[Arrays], Arrays] = dict
    reference: Reference | None = None
    is_checked: bool = True


@dataclass(frozen=True)
class Timing:
    """What one system showed.

    Attributes:
        seconds: (rounds, steps).
        distance: from the reference.
        cold_s: process start to the end of the first step.
        peak_mib: most resident at once.
        facts: what the process says about itself.
    """

    seconds: NDArray[np.float64]
    distance: float
    cold_s: float
    peak_mib: float
    facts: Mapping[str, Any]

    @property
    def medians(self) -> NDArray[np.float64]:
        """Seconds per step, one per round."""
        return np.median(self.seconds, axis=1)

    @property
    def median_us(self) -> float:
        return 1e6 * float(np.median(self.medians))

    def spread_us(self) -> tuple[float, float]:
        """The tenth and ninetieth percentile of single steps."""
        low, high = 1e6 * np.quantile(self.seconds, (0.1, 0.9))
        return float(low), float(high)

    def times(self, other: Timing) -> tuple[float, tuple[float, float]]:
        """How many of this one's steps the other's takes: the median over rounds of the ratio, and
        its tenth and ninetieth percentile.
        """
        ratios = other.medians / self.medians
        low, high = np.quantile(ratios, (0.1, 0.9))
        return float(np.median(ratios)), (float(low), float(high))


class Race:
    """Systems in processes of their own; a context manager that ends them.

    Args:
        clock: of the whole suite.
        load_s, turn_s: how long an answer may take.
        needed: systems without which there is nothing to report: what they fail with is raised.

    Attributes:
        absent: for each system that was left out the reason.
    """

    def __init__(
        self,
        say: Say,
        clock: Clock | None = None,
        *,
        load_s: float = 600.0,
        turn_s: float = 600.0,
        needed: Collection[str] = (),
    ) -> None:
        self.absent: dict[str, str] = {}
        self._say, self._clock, self._needed = say, clock or Clock(), needed
        self._load_s, self._turn_s = load_s, turn_s
        self._running: dict[str, tuple[Entrant, MeasuringProcess]] = {}
        self._loaded: dict[str, dict[str, Any]] = {}

    def load(self, entrants: Sequence[Entrant], folder: Path) -> list[str]:
        """Start the systems that do not run yet, and give all of them this folder; those that are
        absent are not tried again, and those that are not named are ended.

        Returns:
            Who runs.
        """
        self.close({entrant.name for entrant in entrants})
        for entrant in entrants:
            if entrant.name in self.absent:
                continue
            try:
                if self._clock.is_up(self._load_s):
                    raise RuntimeUnavailable(f"{entrant.name}: {TIME_IS_UP}")
                if entrant.name not in self._running:
                    process = MeasuringProcess(entrant.name, entrant.command, entrant.environment)
                    self._running[entrant.name] = entrant, process
                process = self._running[entrant.name][1]
                answer = process.ask("load", self._limit(self._load_s), folder=str(folder))
                self._loaded[entrant.name] = answer
            except RuntimeUnavailable as error:
                self._drop(entrant.name, error)
        return list(self._running)

    def run(
        self, reference: Reference, rounds: int, blocks: Mapping[str, int]
    ) -> dict[str, Timing]:
        """Hold every system against the reference, then time them in turns.

        The first eighth of a turn finds the caches as the others left them and is not counted.

        Args:
            blocks: steps of a turn, by name.

        Returns:
            What each system showed; those that took another step or failed are absent.
        """
        distances: dict[str, float] = {}
        for name, (entrant, process) in list(self._running.items()):
            own = entrant.reference or reference
            try:
                distances[name] = (
                    check(process, own, entrant.named, lambda: self._limit(self._turn_s))
                    if entrant.is_checked
                    else 0.0
                )
            except (InputError, RuntimeUnavailable) as error:
                self._drop(name, error)

        def take_turn(name: str) -> dict[str, Any]:
            process = self._running[name][1]
            return process.ask("time", self._limit(self._turn_s), steps=blocks[name])

        turns = interleaved(
            distances,
            rounds,
            take_turn,
            drop=self._drop,
            is_over=lambda: self._clock.is_up(self._turn_s),
        )
        return {
            name: Timing(
                np.array([turn["seconds"][max(1, blocks[name] // 8) :] for turn in said]),
                distances[name],
                self._loaded[name]["done_at"] - self._running[name][1].started,
                said[-1]["peak_mib"],
                self._loaded[name]["facts"],
            )
            for name, said in turns.items()
        }

    def close(self, but: Collection[str] = ()) -> None:
        """End all processes except those of these names."""
        for name in [name for name in self._running if name not in but]:
            self._running.pop(name)[1].close()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _limit(self, usual_s: float) -> float:
        return max(SHORTEST_S, self._clock.left(usual_s))

    def _drop(self, name: str, error: Exception) -> None:
        if name in self._running:
            self._running.pop(name)[1].close()
        if name in self._needed:
            raise error
        self.absent[name] = str(error)
        self._say(f"absent: {error}")


def race(
    entrants: Sequence[Entrant],
    folder: Path,
    reference: Reference,
    effort: Effort,
    say: Say,
    needed: Collection[str] = (),
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Start, check and time systems.

    Returns:
        What each system showed, and for each that was left out the reason.

    Raises:
        InputError, RuntimeUnavailable: a needed system takes another step, or failed.
    """
    with Race(say, needed=needed) as running:
        running.load(entrants, folder)
        blocks = {entrant.name: effort.block for entrant in entrants}
        return running.run(reference, effort.rounds, blocks), running.absent
