"""After which commit did it get worse? The state is rebuilt as it was, and its accuracy taken on
labelled samples.

Binary search between a good and a bad commit finds one after which the accuracy had fallen, if it
fell once. It need not: a state can improve before it is harmed, and ``course`` looks at every
commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.inference.program import F32, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.recovery.walk import commits_in_pages, memory_at, walk
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.rows import CommitRow
from edgeadapt.errors import InputError


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples of one condition: features (N, D) and (N, T), the name of each, and among which
    classes they are judged; None for all.
    """

    z: F32
    taps: F32
    names: tuple[str, ...]
    domain: str = SOURCE
    among: frozenset[str] | None = None

    def right(self, program: Program, memory: LearnerState) -> int:
        """How many are answered right. A class that the state does not have is answered wrong."""
        logits = program.forward_head(self.z, self.taps, memory.judged_in(self.domain)).logits
        if self.among is not None:
            masked = np.full_like(logits, -np.inf)
            columns = [slot for name, slot in memory.slots.items() if name in self.among]
            masked[:, columns] = logits[:, columns]
            logits = masked
        truth = np.array([memory.slots.get(name, -1) for name in self.names], np.int64)
        return int((logits.argmax(axis=1) == truth).sum())


def accuracy(program: Program, memory: LearnerState, sets: Sequence[Labelled]) -> float:
    """Share answered right over all sets. Tensors that follow from the evidence are derived
    first.
    """
    derived = replace(memory, tensors=program.derive(memory.tensors, memory.head, memory.classes))
    return sum(labelled.right(program, derived) for labelled in sets) / sum(
        len(labelled.names) for labelled in sets
    )


def own_judges(
    journal: Journal, program: Program, good: LearnerState, bad: LearnerState
) -> list[Labelled]:
    """What a state can be judged by without further data: the bundle's factory samples, and
    held-out labels that were never learned.

    Of classes that both states know, and among the classes of the good one: a class that was
    learned since takes answers from the others, as it should.

    Raises:
        InputError: there are none.
    """
    known = frozenset(good.slots) & frozenset(bad.slots)
    found = _factory_samples(program, known) + _held_out(
        journal, program, known, frozenset(good.slots)
    )
    if not found:
        raise InputError(
            "the state has no held-out labels and the bundle no factory samples to judge by: give"
            " labelled data (--data F.npz)"
        )
    return found


def _factory_samples(program: Program, known: frozenset[str]) -> list[Labelled]:
    if GUARD not in program.manifest.members:
        return []
    values = program.bundle.weights(GUARD)
    names = [program.manifest.classes[slot] for slot in values["y"]]
    rows = [row for row, name in enumerate(names) if name in known]
    z = np.ascontiguousarray(values["z"][rows], np.float32)
    taps = (
        np.ascontiguousarray(values["taps"][rows], np.float32)
        if "taps" in values
        else np.zeros((len(rows), 0), np.float32)
    )
    return (
        [
            Labelled(
                z,
                taps,
                tuple(names[row] for row in rows),
                among=frozenset(program.manifest.classes),
            )
        ]
        if rows
        else []
    )


def _held_out(
    journal: Journal, program: Program, known: frozenset[str], among: frozenset[str]
) -> list[Labelled]:
    learned = {
        seq
        for commit in commits_in_pages(journal, 0, journal.last_number())
        for seq in commit.moves.added
    }
    rows = [
        r
        for r in journal.evidence(where="status = 'held_out'")
        if r.has_features and r.seq not in learned and r.label in known
    ]
    result = []
    for domain in dict.fromkeys(row.domain for row in rows):
        some = [row for row in rows if row.domain == domain]
        features: NDArray[np.float32] = np.stack([row.features for row in some]).astype(np.float32)
        z, taps = (
            np.ascontiguousarray(part)
            for part in np.split(features, [program.manifest.feature_dim], axis=1)
        )
        result.append(Labelled(z, taps, tuple(row.label for row in some), domain, among))
    return result


@dataclass(frozen=True)
class Fall:
    """What a search found.

    Attributes:
        good, bad: where it began.
        margin: how far the accuracy must have fallen.
        samples: it was taken on.
        probes: (commit, accuracy) in the order they were taken.
        culprit: the commit after which it had fallen; None if it did not.
        before, after: the accuracy before and after it.
        kind, outcome, source, labels: of the culprit.
        advice: what can be done.
    """

    good: int
    bad: int
    margin: float
    samples: int
    probes: tuple[tuple[int, float], ...]
    culprit: int | None = None
    before: float | None = None
    after: float | None = None
    kind: str = ""
    outcome: str = ""
    source: str = ""
    labels: int = 0
    advice: tuple[str, ...] = ()

    def as_dict(self) -> Mapping[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "probes": [{"commit": number, "accuracy": value} for number, value in self.probes]
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"  commit {number}: {value:.2%}" for number, value in self.probes]
        if self.culprit is None:
            return [
                *lines,
                (
                    f"  no fall by more than {self.margin:.2%} on {self.samples} samples between"
                    f" commits {self.good} and {self.bad}"
                ),
            ]
        said = f", source {self.source!r}" if self.source else ""
        counted = f", {self.labels} labels" if self.labels else ""
        lines.append(
            f"  commit {self.culprit} ({self.kind}: {self.outcome}{said}{counted}):"
            f" {self.before:.2%} -> {self.after:.2%} on {self.samples} samples"
        )
        return [*lines, *(f"    {line}" for line in self.advice)]


def search(
    journal: Journal, program: Program, sets: Sequence[Labelled], good: int, bad: int, margin: float
) -> Fall:
    """Binary search: log2(bad - good) states are rebuilt."""
    probes: dict[int, float] = {}

    def at(number: int) -> float:
        if number not in probes:
            probes[number] = accuracy(program, rebuild(journal, program, number), sets)
        return probes[number]

    first, last = good, bad
    floor = at(good) - margin
    if at(bad) < floor:
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if at(middle) < floor else (middle, last)
        return _fall(journal, (good, bad, margin), sets, probes, last)
    return _fall(journal, (good, bad, margin), sets, probes, None)


def course(
    journal: Journal,
    program: Program,
    sets: Sequence[Labelled],
    good: int,
    bad: int,
    margin: float,
    start: int,
) -> Fall:
    """Every commit in turn, from a reachable ``start``: the first that leaves the accuracy more
    than the margin below the best before it.
    """
    probes: dict[int, float] = {}
    best, culprit = -1.0, None
    states = [(start, memory_at(journal, program, start))] if start == good else []
    for number, memory in (
        *states,
        *((commit.number, memory) for commit, memory in walk(journal, program, start, bad)),
    ):
        if number < good:
            continue
        probes[number] = accuracy(program, memory, sets)
        culprit = number if culprit is None and probes[number] < best - margin else culprit
        best = max(best, probes[number])
    return _fall(journal, (good, bad, margin), sets, probes, culprit)


def _fall(
    journal: Journal,
    asked: tuple[int, int, float],
    sets: Sequence[Labelled],
    probes: dict[int, float],
    culprit: int | None,
) -> Fall:
    count = sum(len(labelled.names) for labelled in sets)
    if culprit is None:
        return Fall(*asked, count, tuple(probes.items()))
    commit = journal.commits(culprit - 1, culprit)[0]
    source = str(commit.detail.get("source", ""))
    labels = int(commit.detail.get("labels", len(commit.moves.added)))
    return Fall(
        *asked,
        count,
        tuple(probes.items()),
        culprit,
        probes[culprit - 1],
        probes[culprit],
        commit.kind,
        commit.outcome,
        source,
        labels,
        _advice(commit, source, journal.horizon()),
    )


def _advice(commit: CommitRow, source: str, horizon: int) -> tuple[str, ...]:
    forget = (
        [
            f"learner.forget(source={source!r}) takes back what this source taught, here and"
            " elsewhere"
        ]
        if source and commit.moves.added
        else []
    )
    back = (
        [
            f"learner.rollback(to={commit.number - 1}) goes back to before it; later labels are"
            " withdrawn"
        ]
        if commit.number - 1 >= horizon
        else []
    )
    return (*forget, *back)


__all__ = ["Fall", "Labelled", "accuracy", "course", "own_judges", "search"]
