"""Labels that tell the truth get in, and labels that lie stay out: both in one configuration, on
one learner per seed.

Each learner first lives an honest life: batches of labels under the factory condition, under each
condition of the demo, and of new classes. In between, and at the end, label noise is offered and
taken back: what got through is judged, then rolled back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import CLASSES, KNOWN, NEW
from edgeadapt.device.learner import Learner
from edgeadapt.host.data.images import ImageData
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import batches
from edgeadapt_bench.datasets.image_dataset import (
    BATCH,
    CONDITIONS,
    PREFIX,
    SAMPLE,
    SEVERITY,
    ImageDataset,
    Say,
    accuracy,
    bar,
    load_dataset,
    names_of,
    open_quick,
    shares,
)
from edgeadapt_bench.datasets.label_noise import (
    AT_THE_FACTORY,
    NOISE_KINDS,
    SHIFTED,
    UNDER_SHIFT,
    Burst,
    burst,
)
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.labels.guard_power import held_rows, paired_rows
from edgeadapt_bench.labels.poor_heads import poor_head_rows

ACCEPTED = 0.95
_BURST = 64
_POWER_DRAWS = 20  # for every entry of the power tables
_CLEAN = "clean"


@dataclass(frozen=True)
class Trial:
    """One offer of labels: what it was, what became of it, and how much accuracy it cost (clean,
    and where it was offered).
    """

    kind: str
    outcome: str
    lost: float = 0.0
    lost_there: float = 0.0
    why: str = ""
    stage: str = ""  # of poison: young, first, later, grown


@dataclass(eq=False)
class Life:
    """One learner, the labels it is offered, and what became of them."""

    dataset: ImageDataset
    learner: Learner
    seed: int
    say: Say
    trials: list[Trial] = field(default_factory=list)
    born: float = 0.0  # accuracy on clean images of all ten classes
    grown: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, 5])
        test = self.dataset.test
        judge, rest = shares(len(test), self.seed, 1000)
        self.judge = test.take(judge)
        pool = test.take(rest)
        self.known = pool.take(np.flatnonzero(pool.y < len(KNOWN)))
        self.new = pool.take(np.flatnonzero(pool.y >= len(KNOWN)))
        self.under = ""  # the condition of the stream

    # -- honest labels -----------------------------------------------------------------------------
    def honest(self, kind: str, before: int) -> None:
        """Note what became of the labels since a commit: one outcome for the batch, ``learned``
        only if all of it was.
        """
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
            rows, shape = self._draw(self.known.y, number)
            before = self._last()
            self.learner.learn(
                self.known.x[rows],
                names_of(self.known.y[rows]),
                source=f"line {number % 3}",
                stream="bench",
            )
            self.learner.settle()
            self.honest(_CLEAN + shape, before)

    def under_condition(self, condition: str, count: int) -> None:
        """Show the condition until it is in force, then label parts of what is shown; ends with a
        clean stretch.
        """
        self.show(condition, PREFIX)
        for number in range(count):
            ids, y = self.show(condition, BATCH)
            picked, shape = self._draw(y, number)
            before = self._last()
            self.learner.label([ids[i] for i in picked], names_of(y[picked]), source="operator")
            self.learner.settle()
            self.honest(condition + shape, before)

    def of_new_classes(self, count: int) -> None:
        for name in NEW:
            self.learner.add_class(name)
        for number in range(count):
            rows, shape = self._draw(self.new.y, number)
            before = self._last()
            self.learner.learn(
                self.new.x[rows], names_of(self.new.y[rows]), source="operator", stream="bench"
            )
            self.learner.settle()
            self.honest("new classes" + shape, before)

    def _draw(self, y: NDArray[np.int64], number: int) -> tuple[NDArray[np.int64], str]:
        """Rows of one honest batch: 8 to 32 labels; every fourth has 1 to 8, and every fourth
        mostly one class.
        """
        shape = ("", "", ", small", ", imbalanced")[number % 4]
        size = int(self.rng.integers(1, 9) if shape == ", small" else self.rng.integers(8, 33))
        chance = (
            np.where(y == self.rng.choice(y), 20.0, 1.0)
            if shape == ", imbalanced"
            else np.ones(len(y))
        )
        return (
            self.rng.choice(len(y), min(size, len(y)), replace=False, p=chance / chance.sum()),
            shape,
        )

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

    # -- label noise ---------------------------------------------------------------------------
    def noise(self, kind: str, source: str, stage: str) -> None:
        """64 labels of one source; what gets through is judged and rolled back."""
        is_shifted = kind.endswith(UNDER_SHIFT)
        offered = burst(
            kind.removesuffix(UNDER_SHIFT), self.known, _BURST, self.learner.classes, self.rng
        )
        is_constant = kind.startswith("constant")
        ids: list[str] = []
        if is_shifted:
            distinct = corrupt(
                offered.x[:1] if is_constant else offered.x,
                self.under,
                SEVERITY,
                int(self.rng.integers(2**31)),
            )
            offered = Burst(np.repeat(distinct, _BURST // len(distinct), axis=0), offered.names)
        if is_shifted and not is_constant:
            for part in batches(_BURST, BATCH):
                ids += self.learner.observe(offered.x[part]).ids
                self.learner.settle()
        there = self._there(self.under) if is_shifted else None
        marks, before = self._marks(there), self._last()
        if ids:
            self.learner.label(ids, offered.names, source=source)
        else:
            self.learner.learn(
                offered.x, offered.names, source=source, stream="default" if is_shifted else "bench"
            )
        self.learner.settle()
        outcome, why = self._outcome(before)
        lost, lost_there = (
            (a - b for a, b in zip(marks, self._marks(there), strict=True))
            if outcome == "learned"
            else (0.0, 0.0)
        )
        self.trials.append(Trial(kind, outcome, lost, lost_there, why, stage))
        if outcome == "learned":
            self.say(
                f"seed {self.seed}, {kind} {self.under if is_shifted else ''} {stage}: got through,"
                f" losing {lost:.3f}, {lost_there:.3f} there"
            )
            self.learner.rollback(to=before)

    def _there(self, condition: str) -> ImageData:
        """The judging images of known classes under a condition."""
        known = self.judge.take(np.flatnonzero(self.judge.y < len(KNOWN)))
        return ImageData(corrupt(known.x, condition, SEVERITY, self.seed), known.y, known.classes)

    def _marks(self, there: ImageData | None) -> tuple[float, float]:
        """Accuracy on clean images of the classes that are known by now, and on images of the
        stream's condition.
        """
        rows = np.flatnonzero(np.isin(np.array(CLASSES)[self.judge.y], self.learner.classes))
        clean = accuracy(self.learner, self.judge.x[rows], self.judge.y[rows])
        return clean, (
            clean if there is None else accuracy(self.learner, there.x, there.y, stream="default")
        )


def live(
    dataset: ImageDataset,
    seed: int,
    say: Say,
    *,
    per_kind: int,
    conditions: tuple[str, ...],
    noises: int,
) -> Life:
    """One learner's life: honest labels of every kind, with poison offered young, in the middle and
    late.
    """
    with open_quick(dataset.bundle) as learner:
        life = Life(dataset, learner, seed, say)
        life.born = accuracy(learner, life.judge.x, life.judge.y)
        stages = max(1, noises // 3)

        def offer(stage: str) -> None:
            for number in range(stages):
                for kind in AT_THE_FACTORY:
                    life.noise(kind, f"{stage} stranger {number}", stage)

        def offer_under(condition: str, stage: str) -> None:
            for kind in SHIFTED:
                life.noise(kind, f"{stage} stranger under {condition}", stage)

        life.show("clean", PREFIX)
        offer("young")
        for condition in conditions:
            life.show(condition, PREFIX)
            offer_under(condition, "first")
        life.show("clean", PREFIX)
        life.at_the_factory(3 * per_kind)
        for condition in conditions:
            life.under_condition(condition, per_kind)
            offer_under(condition, "later")
        life.show("clean", PREFIX)
        offer("taught")
        life.of_new_classes(2 * per_kind)
        offer("grown")
        life.grown = accuracy(learner, life.judge.x, life.judge.y)
        return life


def run_guard(
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    say: Say = print,
    *,
    per_kind: int = 6,
    conditions: tuple[str, ...] = CONDITIONS,
    noises: int = 3,
) -> list[Row]:
    """Honest batches accepted, and poison caught, pooled over seeds.

    Args:
        data: see ``load_dataset``.
        per_kind: honest batches under each condition; three times as many under the factory's,
            twice as many of new classes.
        noises: trials of each kind of wrong labels per seed, a third of them young, in
            the middle and late; under each condition it is offered twice, before any honest label
            and after those of that condition.

    The shipped sample is too small for the power tables, and for streams of pretrained features on
    which the factory's head is poor.
    """
    dataset = load_dataset(data)
    lives = [
        live(dataset, seed, say, per_kind=per_kind, conditions=conditions, noises=noises)
        for seed in seeds
    ]
    trials = [trial for life in lives for trial in life.trials]
    honest = [t for t in trials if t.kind not in NOISE_KINDS]
    for kind, count in Counter(t.kind for t in honest).items():
        say(
            f"honest labels, {kind}:"
            f" {sum(t.outcome == 'learned' for t in honest if t.kind == kind)} of {count} batches"
            " accepted"
        )
    accepted = float(np.mean([t.outcome == "learned" for t in honest]))
    rows = [
        bar("honest_accepted", accepted, "share", 1.0, at_least=ACCEPTED),
        bar("honest_batches", float(len(honest)), "batches"),
    ]
    for noise in NOISE_KINDS:
        offered = [t for t in trials if t.kind == noise]
        rows += _caught(noise, offered, say)
        if noise in SHIFTED:
            rows += [
                r
                for stage in ("first", "later")
                for r in _caught(f"{noise}/{stage}", [t for t in offered if t.stage == stage])
            ]
    grown, born = (
        float(np.mean([getattr(life, mark) for life in lives])) for mark in ("grown", "born")
    )
    rows.append(bar("gain/ten_classes", grown, "accuracy", born))
    rows.append(bar("trials/80_wrong", float(sum(t.kind == "80_wrong" for t in trials)), "trials"))
    if data == SAMPLE:
        return rows
    rows += poor_head_rows(say, seeds)
    return [*rows, *paired_rows(say), *held_rows(dataset, say, _POWER_DRAWS, conditions)]


def _caught(name: str, offered: list[Trial], say: Say | None = None) -> list[Row]:
    """Share of trials that was not learned, and what the others cost on average over all."""
    through = [t for t in offered if t.outcome == "learned"]
    if say is not None:
        say(
            f"{name}: {dict(Counter(t.outcome for t in offered))}; got through {len(through)} of"
            f" {len(offered)}, losing on clean images {[round(t.lost, 3) for t in through]}, where"
            f" they were offered {[round(t.lost_there, 3) for t in through]}"
        )
    rows = [
        bar(f"caught/{name}", 1.0 - len(through) / max(1, len(offered)), "share", 0.0, at_least=1.0)
    ]
    rows.append(bar(f"lost/{name}", float(np.mean([t.lost for t in offered])), "accuracy"))
    if UNDER_SHIFT in name:
        rows.append(
            bar(f"lost_there/{name}", float(np.mean([t.lost_there for t in offered])), "accuracy")
        )
    return rows
