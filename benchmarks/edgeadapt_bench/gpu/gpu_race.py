"""Systems that take turns at one step, each in a process of its own with a time limit: one that
crashes or hangs costs its own rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.gpu.gpu_child import Clock, end
from edgeadapt_bench.harness._step_race import Arrays, Entrant, Process, Reference, check
from edgeadapt_bench.harness.measure import Say

_LOAD_S, _TURN_S, _SHORTEST_S = 180.0, 60.0, 3.0


class Runner(Process):
    """A system's process that is killed when an answer takes too long.

    Args:
        clock: of the whole suite.
    """

    def __init__(self, entrant: Entrant, folder: Path, log: Path, clock: Clock) -> None:
        self._clock = clock
        self._was_late = 0.0
        super().__init__(entrant, folder, log)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command, one answer.

        Raises:
            RuntimeUnavailable: the process has ended, was too slow, or answers with an error.
        """
        seconds = max(_SHORTEST_S, self._clock.left(_LOAD_S if do == "load" else _TURN_S))
        watch = threading.Timer(seconds, self._stop, (seconds,))
        watch.start()
        try:
            return super().ask(do, **arguments)
        except RuntimeUnavailable as error:
            if self._was_late:
                raise RuntimeUnavailable(
                    f"{self.name}: no answer within {self._was_late:.0f} s"
                ) from error
            raise
        finally:
            watch.cancel()

    def _stop(self, seconds: float) -> None:
        self._was_late = seconds
        end(self._process)


@dataclass
class Lap:
    """What one system showed at one batch size: its distance from the reference, and ``seconds`` of
    each counted step, by rounds.

    Attributes:
        beside: what the system showed that this one is compared with, in the same rounds.
    """

    distance: float
    facts: Mapping[str, Any]
    seconds: list[list[float]] = field(default_factory=list)
    beside: Lap | None = None

    @property
    def median_us(self) -> float:
        return 1e6 * float(np.median(self.rounds()))

    def spread_us(self) -> tuple[float, float]:
        """The tenth and ninetieth percentile of single steps."""
        every = np.concatenate([np.array(turn) for turn in self.seconds])
        return 1e6 * float(np.quantile(every, 0.1)), 1e6 * float(np.quantile(every, 0.9))

    def rounds(self) -> NDArray[np.float64]:
        return np.array([float(np.median(turn)) for turn in self.seconds])

    def times(self, other: Lap) -> tuple[float, tuple[float, float]]:
        """How many of this one's steps the other's takes: the median over rounds of the ratio, and
        its spread.
        """
        ratios = other.rounds() / self.rounds()
        return float(np.median(ratios)), (
            float(np.quantile(ratios, 0.1)),
            float(np.quantile(ratios, 0.9)),
        )


Field = dict[str, Runner]
Absent = dict[str, str]


def load(
    entrants: Sequence[Entrant],
    folder: Path,
    logs: Path,
    field_: Field,
    gone: Absent,
    clock: Clock,
    say: Say,
) -> None:
    """Start the systems that do not run yet, and give all of them this folder; what fails is in
    ``gone`` with its reason.
    """
    for number, entrant in enumerate(entrants):
        if entrant.name in gone:
            continue
        try:
            if clock.left(_LOAD_S) < _SHORTEST_S:
                raise RuntimeUnavailable(
                    "the suite's time was up before this began; give it more with --limit"
                )
            if (running := field_.get(entrant.name)) is not None:
                running.facts = running.ask("load", folder=str(folder))["facts"]
            else:
                field_[entrant.name] = Runner(
                    entrant, folder, logs / f"{number}-{folder.name}", clock
                )
        except RuntimeUnavailable as error:
            _drop(entrant.name, error, field_, gone, say)


def race(
    entrants: Sequence[Entrant],
    field_: Field,
    gone: Absent,
    reference: Reference,
    rounds: int,
    blocks: Mapping[str, int],
    clock: Clock,
    say: Say,
) -> dict[str, Lap]:
    """Hold every system against the reference, then time them in turns.

    ``blocks`` are the steps of a turn, by name. The first eighth of a block finds the caches as the
    others left them and is not counted, nor is the first round.

    Returns:
        What each system showed. One that is not there, took another step, or failed on the way is
        in ``gone``.
    """
    named: dict[str, Callable[[Arrays], Arrays]] = {
        entrant.name: entrant.named for entrant in entrants
    }
    laps: dict[str, Lap] = {}
    for name, runner in list(field_.items()):
        try:
            laps[name] = Lap(check(runner, reference, named[name]), runner.facts)
        except (InputError, RuntimeUnavailable) as error:
            _drop(name, error, field_, gone, say)
    for turn in range(rounds + 1):
        names = list(field_)
        if turn > 1 and clock.left(_TURN_S) < _SHORTEST_S:
            break  # what was measured until now counts
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else ():
            try:
                seconds = field_[name].ask("time", steps=blocks[name])["seconds"][
                    max(1, blocks[name] // 8) :
                ]
            except RuntimeUnavailable as error:
                _drop(name, error, field_, gone, say)
                laps.pop(name, None)
                continue
            if turn:
                laps[name].seconds.append(seconds)
    fewest = min((len(lap.seconds) for lap in laps.values()), default=0)
    for lap in laps.values():
        del lap.seconds[fewest:]  # ratios are of the same rounds
    return laps


def close(field_: Field, but: Collection[str] = ()) -> None:
    """End all processes except those of these names."""
    for name in [name for name in field_ if name not in but]:
        field_.pop(name).close()


def _drop(name: str, error: Exception, field_: Field, gone: Absent, say: Say) -> None:
    if (runner := field_.pop(name, None)) is not None:
        runner.close()
    gone[name] = str(error).removeprefix(f"{name}: ")
    say(f"{name}: {gone[name]}")


__all__ = ["Absent", "Field", "Lap", "Runner", "close", "load", "race"]
