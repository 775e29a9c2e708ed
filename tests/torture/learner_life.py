"""A whole learner through what its user can do. It is frozen between the steps, so that nothing
runs ahead of what was asked for.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journal_life import forget_pages
from stored import Stored
from warm import learner, samples, warm_up

from edgeadapt.device.learner import Learner
from edgeadapt.testing import inspect_state

PROBE = samples(24, [0, 1, 2, 3, 4], 99)[0]


def _name_ids(place: int) -> None:
    """Sample ids are random; here they follow from the step, so that a life can be lived twice."""
    serial = itertools.count(place)
    secrets.token_hex = lambda nbytes=None: "".join(
        f"{next(serial):016x}" for _ in range((nbytes or 8) // 8)
    )


def _learn(count: int, classes: list[int], seed: int, source: str) -> Callable[[Learner], object]:
    return lambda subject: subject.learn(*samples(count, classes, seed), source=source)


def _label(subject: Learner) -> None:
    """Three answers about observed samples."""
    x, names = samples(16, [0, 1, 2, 3], 5)
    ids = subject.observe(x, stream="cam").ids
    subject.label(ids[:3], names[:3], source="operator")


def _labelled(which: int) -> str:
    """The id of one of these samples, in any later step."""
    return f"{1000 * [name for name, _ in STEPS].index('label') + which:016x}"


def _settle(subject: Learner) -> None:
    subject.freeze(False)
    try:
        subject.settle()
        waiting = subject.counters()["evidence"].get("received", 0)
        assert not waiting, f"{waiting} labels wait although nothing stands in their way"
    finally:
        subject.freeze(True)


def _watch(subject: Learner) -> None:
    """A stream that has moved: windows, decisions, a provisional condition."""
    for seed in range(4):
        subject.observe(samples(32, [0, 1, 2, 3], 20 + seed, moved=1.5)[0], stream="moved")
        subject.settle()


def _checkpoint(subject: Learner) -> None:
    subject.freeze(False)
    try:
        subject.checkpoint()
    finally:
        subject.freeze(True)


STEPS: tuple[tuple[str, Callable[[Learner], object]], ...] = (
    ("learn", _learn(20, [0, 1, 2, 3], 2, "line 1")),
    ("settle", _settle),
    ("add a class", lambda subject: subject.add_class("crack")),
    ("label", _label),
    ("learn a class", _learn(8, [4], 4, "line 2")),
    ("settle", _settle),
    ("correct", lambda subject: subject.label(_labelled(1), "crack", source="operator")),
    ("settle", _settle),
    ("withdraw", lambda subject: subject.withdraw(_labelled(2))),
    ("learn what will go", _learn(8, [2, 3], 6, "gone")),
    ("settle", _settle),
    ("forget", lambda subject: subject.forget(source="gone")),
    ("watch", _watch),
    ("checkpoint", _checkpoint),
    ("learn once more", _learn(8, [0, 4], 9, "line 2")),
    ("settle", _settle),
    ("roll back", lambda subject: subject.rollback()),
)


class LearnerLife:
    """Opened, lived step by step, closed."""

    name = "learner"

    def __init__(self) -> None:
        self.steps = tuple(
            (name, self._named(place, step)) for place, (name, step) in enumerate(STEPS)
        )
        warm_up()

    @staticmethod
    def _named(place: int, step: Callable[[Learner], object]) -> Callable[[Learner], object]:
        def run(subject: Learner) -> object:
            _name_ids(1000 * place)
            return step(subject)

        return run

    def open(self, folder: Path) -> Learner:
        subject = learner(folder, freeze=True)
        forget_pages(inspect_state(subject).journal)
        return subject

    def journal_of(self, subject: Learner) -> Any:
        return inspect_state(subject).journal

    def close(self, subject: Learner) -> None:
        subject.close()

    def look(self, subject: Learner) -> bytes:
        """What it predicts; nothing of the folder is needed for that."""
        return bytes(subject.predict(PROBE, stream="new").probs.tobytes())

    def recall(self, folder: Path) -> tuple[bytes, str]:
        """What a reopened one predicts, and its digest."""
        with learner(folder, freeze=True) as subject:
            return self.look(subject), subject.digest()

    def go_on(self, folder: Path, done: int, final: Stored) -> str:
        """Reopen and teach; returns what is wrong with it, empty if nothing."""
        with learner(folder) as subject:
            subject.settle()
            before = Counter(subject.counters()["evidence"])
            if before["received"]:
                return f"{before['received']} labels wait"
            _name_ids(100_000)
            subject.learn(*samples(6, [0, 1], 77), source="afterwards")
            subject.settle()
            after = Counter(subject.counters()["evidence"])
            if (
                after.total() != before.total() + 6
                or after["learned"] + after["held_out"]
                != before["learned"] + before["held_out"] + 6
            ):
                return f"six good labels made {dict(after)} of {dict(before)}"
            digest, seen = subject.digest(), self.look(subject)
        with learner(folder, freeze=True) as subject:
            return (
                ""
                if (subject.digest(), self.look(subject)) == (digest, seen)
                else "what it learned then is not what it reopens with"
            )
