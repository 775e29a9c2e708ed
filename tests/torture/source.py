"""A deterministic source: event by event, what a seeded user shows, labels, corrects, forgets and
takes back.

Event ``i`` of a seed is always the same, and every label row that it leaves names it as its source,
so that the journal alone says where a killed run has to go on. Whatever may be done twice after a
kill leaves what it leaves when it is done once. Every event observes a stream of its own, exactly
one window: conditions and windows live in memory and are lost with the process by design. Sources
of odd seeds roll nothing back: see ``kills.py``.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from warm import NAMES, samples

from edgeadapt.device.learner import Learner
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.testing import inspect_state

WINDOW = 32
NEW = ("crack", "hole")


@dataclass(frozen=True)
class Event:
    """One thing the user does. ``count`` label rows; ``target`` is the earlier event that is
    forgotten, corrected or gone back to.
    """

    number: int
    kind: str
    count: int = 0
    target: int = -1


# by number modulo 20
_KINDS = {3: "correct", 7: "forget", 9: "roll back", 11: "checkpoint", 13: "lie", 15: "withdraw"}


def event(seed: int, number: int) -> Event:
    place, rng = number % 20, np.random.default_rng((seed, number))
    kind = _KINDS.get(place) or ("label" if rng.random() < 0.5 else "learn")
    if kind == "roll back" and seed % 2:
        kind = "learn"
    if kind in ("label", "learn"):
        return Event(number, kind, int(rng.integers(2, 13)))
    if kind == "lie":
        return Event(number, kind, 24)
    if kind in ("correct", "withdraw"):
        return Event(number, kind, 2 if kind == "correct" else 0, number - 1)
    return Event(
        number,
        kind,
        0,
        number - 4 if kind == "forget" else number - 3 if kind == "roll back" else -1,
    )


def name_of(number: int) -> str:
    return f"event {number}"


def act(learner: Learner, seed: int, number: int, durable: Callable[[], None]) -> None:
    """Do it, say ``durable()`` when the labels are acknowledged, and wait until they are
    learned.
    """
    found = event(seed, number)
    data = int(np.random.default_rng((seed, number, 1)).integers(1 << 30))
    classes = (
        [0, 1, 2, 3] if number < 20 else [0, 1, 2, 3, 4] if number < 40 else [0, 1, 2, 3, 4, 5]
    )
    if number in (20, 40):
        learner.add_class(NEW[number // 20 - 1])
    if found.kind in ("learn", "lie"):
        x, names = samples(found.count, classes, data)
        if found.kind == "lie":
            names = [NAMES[(NAMES.index(name) + 1) % 4] for name in names]
        learner.learn(x, names, source=name_of(number))
    elif found.kind == "label":
        x, names = samples(WINDOW, classes, data)
        ids = learner.observe(x, stream=name_of(number)).ids
        learner.label(ids[: found.count], names[: found.count], source=name_of(number))
    elif found.kind == "correct":
        ids = _ids_of(learner, found.target)[: found.count]
        learner.label(ids, [NAMES[data % 4]] * len(ids), source=name_of(number))
    elif found.kind == "withdraw":
        first = _ids_of(learner, found.target)[:1]
        if inspect_state(learner).journal.accepted_of(first):
            learner.withdraw(first)
    elif found.kind == "forget":
        learner.forget(source=name_of(found.target))
    elif found.kind == "roll back":
        accepted = [
            row.commit_number or 0
            for row in _rows_of(learner, found.target)
            if row.status in ("learned", "held_out")
        ]
        # the earliest: a row that changed sides since has a later commit, and has not after the
        # rollback
        if accepted:
            learner.rollback(min(accepted))
    elif found.kind == "checkpoint":
        learner.checkpoint()
    durable()
    learner.settle()


def _rows_of(learner: Learner, number: int) -> list[EvidenceRow]:
    return inspect_state(learner).journal.evidence(where="source = ?", values=(name_of(number),))


def _ids_of(learner: Learner, number: int) -> list[str]:
    return [row.id for row in _rows_of(learner, number)]


def rows_by_event(folder: Path) -> dict[int, Counter[str]]:
    """Event -> its label rows by status, as the journal says."""
    found: dict[int, Counter[str]] = {}
    with closing(sqlite3.connect(folder / "learner.db")) as db:
        for source, status, count in db.execute(
            "SELECT source, status, count(*) FROM evidence GROUP BY source, status"
        ):
            found.setdefault(int(source.removeprefix("event ")), Counter())[status] = count
    return found


def next_event(folder: Path) -> int:
    """Where the source goes on: after the last event that the journal has labels of."""
    return max(rows_by_event(folder), default=-1) + 1


def missing_or_mixed(folder: Path, seed: int, durable: int, settled: int) -> str:
    """What is wrong with the rows of a run of which so many events were acknowledged as durable,
    and as learned; empty if nothing.
    """
    found = rows_by_event(folder)
    if max(found, default=-1) > durable:
        return f"lost: event {max(found)} is there, and only {durable} events had been done"
    for number in range(durable + 1):
        rows, count = found.get(number, Counter()), event(seed, number).count
        gone_at = (
            number + 4
            if event(seed, number + 4).target == number and event(seed, number + 4).kind == "forget"
            else durable + 2
        )
        allowed = (
            {0} if gone_at < durable else {0, count} if durable in (gone_at, number) else {count}
        )
        if rows.total() not in allowed:
            return (
                f"{'lost' if rows.total() < count else 'mixed'}: event {number} has {rows.total()}"
                f" of {count} rows, {durable} events were durable"
            )
        if rows["received"] not in (0, rows.total()) or (rows["received"] and number < settled):
            return (
                f"mixed: {rows['received']} of {count} rows of event {number} wait, {settled}"
                " events were learned"
            )
    return ""
