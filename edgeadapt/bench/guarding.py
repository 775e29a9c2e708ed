"""Labels that tell the truth get in, and labels that lie stay out: both in one configuration, on one learner per seed.

Each learner first lives an honest life: batches of labels under the factory condition, under each condition of the demo, and of
new classes. In between, and at the end, poison is offered and taken back: what got through is judged, then rolled back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bench.corruptions import corrupt
from edgeadapt.bench.material import (
    BATCH,
    CONDITIONS,
    PREFIX,
    SEVERITY,
    Material,
    Say,
    accuracy,
    bar,
    load_material,
    names_of,
    open_quick,
    shares,
)  # fmt: skip
from edgeadapt.bench.measure import Row
from edgeadapt.bench.streams import batches
from edgeadapt.demo.sample import CLASSES, KNOWN, NEW
from edgeadapt.device.learner import Learner
from edgeadapt.host.datasets import ImageData

Poison = Literal["80_wrong", "40_wrong", "one_class_flipped", "80_wrong_under_shift"]
POISONS: tuple[Poison, ...] = ("80_wrong", "40_wrong", "one_class_flipped", "80_wrong_under_shift")
ACCEPTED = 0.95
_BURST = 64
_CLEAN = "clean"


@dataclass(frozen=True)
class Trial:
    """One offer of labels: what it was, what became of it, and how much accuracy it cost (clean, and where it was offered)."""

    kind: str
    outcome: str
    lost: float = 0.0
    lost_there: float = 0.0
    why: str = ""


@dataclass(eq=False)
class Life:
    """One learner, the labels it is offered, and what became of them."""

    material: Material
    learner: Learner
    seed: int
    say: Say
    trials: list[Trial] = field(default_factory=list)
    born: float = 0.0  # accuracy on clean images of all ten classes
    grown: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, 5])
        test = self.material.test
        judge, rest = shares(len(test), self.seed, 1000)
        self.judge = test.take(judge)
        pool = test.take(rest)
        self.known = pool.take(np.flatnonzero(pool.y < len(KNOWN)))
        self.new = pool.take(np.flatnonzero(pool.y >= len(KNOWN)))
        self.under = ""  # the condition of the stream

    # -- honest labels --------------------------------------------------------------------------------
    def honest(self, kind: str, before: int) -> None:
        """Note what became of the labels since a commit: one outcome for the batch, ``learned`` only if all of it was."""
        outcome, why = self._outcome(before)
        self.trials.append(Trial(kind, outcome, why=why))
        if outcome != "learned":
            self.say(f"seed {self.seed}: honest labels, {kind}: {outcome}: {why}")

    def _outcome(self, before: int) -> tuple[str, str]:
        commits = [c for c in self.learner.history(20) if c.number > before and c.kind == "learn"]
        refused = next((c for c in commits if c.outcome != "learned"), None)
        if refused is not None:
            return refused.outcome, str(refused.detail.get("why", ""))
        return ("learned", "") if commits else ("lost", "no commit")

    def _last(self) -> int:
        found = self.learner.history(1)
        return found[0].number if found else 0

    def at_the_factory(self, count: int) -> None:
        for number in range(count):
            rows = self.rng.choice(len(self.known), self._size(), replace=False)
            before = self._last()
            self.learner.learn(self.known.x[rows], names_of(self.known.y[rows]), source=f"line {number % 3}", stream="bench")
            self.learner.settle()
            self.honest(_CLEAN, before)

    def under_condition(self, condition: str, count: int) -> None:
        """Show the condition until it is in force, then label parts of what is shown; ends with a clean stretch."""
        self.show(condition, PREFIX)
        for _ in range(count):
            ids, y = self.show(condition, BATCH)
            picked = self.rng.permutation(len(ids))[: self._size()]
            before = self._last()
            self.learner.label([ids[i] for i in picked], names_of(y[picked]), source="operator")
            self.learner.settle()
            self.honest(condition, before)

    def of_new_classes(self, count: int) -> None:
        for name in NEW:
            self.learner.add_class(name)
        for _ in range(count):
            rows = self.rng.choice(len(self.new), self._size(), replace=False)
            before = self._last()
            self.learner.learn(self.new.x[rows], names_of(self.new.y[rows]), source="operator", stream="bench")
            self.learner.settle()
            self.honest("new classes", before)

    def _size(self) -> int:
        return int(self.rng.integers(8, 33))

    def show(self, condition: str, count: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Observe images of known classes under a condition; ids and labels of all of them."""
        ids: list[str] = []
        rows = self.rng.choice(len(self.known), count, replace=len(self.known) < count)
        x = corrupt(self.known.x[rows], condition, SEVERITY, int(self.rng.integers(2**31)))
        for part in batches(count, BATCH):
            ids += self.learner.observe(x[part]).ids
            self.learner.settle()
        self.under = condition
        return tuple(ids), self.known.y[rows]

    # -- poison ---------------------------------------------------------------------------------------
    def poison(self, kind: Poison, source: str) -> None:
        """64 labels of one source; what gets through is judged and rolled back."""
        before = self._last()
        if kind == "80_wrong_under_shift":
            ids, y = self.show(self.under or CONDITIONS[0], _BURST)
            there = self._there(self.under)
            marks = self._marks(there)
            before = self._last()
            self.learner.label(list(ids), self._lies(y, 0.8), source=source)
        else:
            there = None
            marks = self._marks(there)
            rows = self.rng.choice(len(self.known), _BURST, replace=False)
            y = self.known.y[rows]
            lies = self._flipped(y) if kind == "one_class_flipped" else self._lies(y, 0.8 if kind == "80_wrong" else 0.4)
            self.learner.learn(self.known.x[rows], lies, source=source, stream="bench")
        self.learner.settle()
        outcome, why = self._outcome(before)
        lost, lost_there = (a - b for a, b in zip(marks, self._marks(there), strict=True))
        self.trials.append(Trial(kind, outcome, lost, lost_there, why))
        if outcome == "learned":
            self.learner.rollback(to=before)

    def _lies(self, y: NDArray[np.int64], share: float) -> list[str]:
        """Exactly ``share`` of the labels wrong, each another class that the learner knows."""
        names = [name for name in CLASSES if name in self.learner.classes]
        wrong = self.rng.permutation(len(y)) < round(share * len(y))
        moved = (y + self.rng.integers(1, len(names), len(y))) % len(names)
        return [names[slot] for slot in np.where(wrong, moved, y)]

    def _flipped(self, y: NDArray[np.int64]) -> list[str]:
        """Every label of one class names another one."""
        victim, thief = self.rng.choice(len(KNOWN), 2, replace=False)
        return names_of(np.where(y == victim, thief, y))

    def _there(self, condition: str) -> ImageData:
        """The judging images of known classes under a condition."""
        known = self.judge.take(np.flatnonzero(self.judge.y < len(KNOWN)))
        return ImageData(corrupt(known.x, condition, SEVERITY, self.seed), known.y, known.classes)

    def _marks(self, there: ImageData | None) -> tuple[float, float]:
        """Accuracy on clean images of the classes that are known by now, and on images of the stream's condition."""
        rows = np.flatnonzero(np.isin(np.array(CLASSES)[self.judge.y], self.learner.classes))
        clean = accuracy(self.learner, self.judge.x[rows], self.judge.y[rows])
        return clean, clean if there is None else accuracy(self.learner, there.x, there.y, stream="default")


def live(material: Material, seed: int, say: Say, *, per_kind: int, conditions: tuple[str, ...], poisons: int) -> Life:
    """One learner's life: honest labels of every kind, with poison offered young, in the middle and late."""
    with open_quick(material.bundle) as learner:
        life = Life(material, learner, seed, say)
        life.born = accuracy(learner, life.judge.x, life.judge.y)
        stages = max(1, poisons // 3)

        def offer(stage: int) -> None:
            for number in range(stages):
                for kind in POISONS:
                    if kind != "80_wrong_under_shift":
                        life.poison(kind, f"stranger {stage}.{number}")

        life.show("clean", PREFIX)
        offer(0)
        for condition in conditions:
            life.show(condition, PREFIX)
            life.poison("80_wrong_under_shift", f"first stranger under {condition}")
        life.show("clean", PREFIX)
        life.at_the_factory(3 * per_kind)
        for condition in conditions:
            life.under_condition(condition, per_kind)
            life.poison("80_wrong_under_shift", f"second stranger under {condition}")
        life.show("clean", PREFIX)
        offer(1)
        life.of_new_classes(2 * per_kind)
        offer(2)
        life.grown = accuracy(learner, life.judge.x, life.judge.y)
        return life


def run_guard(
    data: str | None = None, seeds: tuple[int, ...] = (0, 1, 2), say: Say = print, *, per_kind: int = 4,
    conditions: tuple[str, ...] = CONDITIONS, poisons: int = 3,
) -> list[Row]:  # fmt: skip
    """Honest batches accepted, and poison caught, pooled over seeds.

    Args:
        data: see ``load_material``. per_kind: honest batches under each condition; three times as many under the factory's, twice
            as many of new classes. poisons: trials of each kind per seed, a third of them young, in the middle and late; under each
            condition it is offered twice, before any honest label and after those of that condition.
    """
    material = load_material(data)
    lives = [live(material, seed, say, per_kind=per_kind, conditions=conditions, poisons=poisons) for seed in seeds]
    trials = [trial for life in lives for trial in life.trials]
    honest = [t for t in trials if t.kind not in POISONS]
    for kind, count in Counter(t.kind for t in honest).items():
        say(f"honest labels, {kind}: {sum(t.outcome == 'learned' for t in honest if t.kind == kind)} of {count} batches accepted")
    accepted = float(np.mean([t.outcome == "learned" for t in honest]))
    rows = [bar("honest_accepted", accepted, "share", 1.0, at_least=ACCEPTED), bar("honest_batches", float(len(honest)), "batches")]
    for poison in POISONS:
        offered = [t for t in trials if t.kind == poison]
        through = [t for t in offered if t.outcome == "learned"]
        caught = 1.0 - len(through) / max(1, len(offered))
        say(
            f"{poison}: {dict(Counter(t.outcome for t in offered))}; got through {len(through)} of {len(offered)}, losing on clean images "
            f"{[round(t.lost, 3) for t in through]}, where they were offered {[round(t.lost_there, 3) for t in through]}"
        )
        rows.append(bar(f"caught/{poison}", caught, "share", 0.0, at_least=1.0 if poison == "80_wrong" else None))
        rows.append(bar(f"lost/{poison}", float(np.mean([t.lost for t in offered])), "accuracy"))
        if poison == "80_wrong_under_shift":
            rows.append(bar(f"lost_there/{poison}", float(np.mean([t.lost_there for t in offered])), "accuracy"))
    grown, born = (float(np.mean([getattr(life, mark) for life in lives])) for mark in ("grown", "born"))
    rows.append(bar("gain/ten_classes", grown, "accuracy", born))
    return [*rows, bar("trials/80_wrong", float(sum(t.kind == "80_wrong" for t in trials)), "trials")]
