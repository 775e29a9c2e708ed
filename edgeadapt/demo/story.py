"""The demo: six acts on real images, each a schedule that the seed reshuffles."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.demo import picture, report
from edgeadapt.demo.recorder import Recorder, now, rss_mib
from edgeadapt.demo.sample import CLASSES, KNOWN, NEW, Sample, bundle_path, load_sample
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import StateError
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import Order, arrange, batches
from edgeadapt.scenarios.refitted_head import RefittedHead

CONDITIONS = ("gaussian_noise", "brightness", "fog", "contrast")
SHOWN = {
    "gaussian_noise": "noise",
    "brightness": "brightness",
    "fog": "fog",
    "contrast": "contrast",
    "clean": "clean",
}
BATCH = 32
SEVERITY = 3
PER_NEW_CLASS = 10
_ORACLE_LABELS = 500


class Story:
    """One run of the demo. ``tell()`` plays the acts in order and returns the report."""

    def __init__(self, out: Path, seed: int = 0, say: Callable[[str], None] = print) -> None:
        self.out, self.seed, self.say = out, seed, say
        self.rng = np.random.default_rng(seed)
        self.sample: Sample = load_sample()
        known = self.sample.rows(KNOWN, self.rng)
        third = len(known) // 3
        self.stream_rows = known[: 2 * third - 200]
        self.oracle_rows = known[2 * third - 200 : -400]
        self.judge_rows = known[-400:]
        new = self.sample.rows(NEW, self.rng)
        self.new_stream, self.new_judge = new[: len(new) // 2], new[len(new) // 2 :]
        self.started = time.perf_counter()
        self.acts: list[report.Act] = []
        self.conditions: list[report.Condition] = []
        self.safety: list[report.Safety] = []
        self._work = Path(tempfile.mkdtemp(prefix="edgeadapt-demo-"))
        self.state = self._work / "state"
        self.say(f"opening {bundle_path().name} and its frozen twin")
        self.learner = self._open()
        self.twin = open_learner(bundle_path(), policy=Policy(adapt="off"))
        self.recorder = Recorder(self.learner, self.twin, self.say)

    def _open(self) -> Learner:
        # minutes, not days
        return open_learner(
            bundle_path(),
            state=self.state,
            budget=Budget(busy_fraction=1.0),
            policy=Policy(quiet_questions_per_day=0),
        )

    def tell(self) -> report.Report:
        """Play the acts, write ``report.json`` and ``report.html``."""
        try:
            for act in (
                self.clean,
                self.degraded,
                self.returning,
                self.new_classes,
                self.attacked,
                self.killed,
            ):
                first = len(self.recorder.batches)
                title, sentence, facts = act()
                last = max(first, len(self.recorder.batches) - 1)
                self.acts.append(
                    {
                        "id": act.__name__,
                        "title": title,
                        "sentence": sentence,
                        "first_batch": min(first, last),
                        "last_batch": last,
                        "facts": facts,
                    }
                )
                held = sum(f["holds"] is not False for f in facts)
                self.say(
                    f"act {len(self.acts)} of 6, {title}: {held} of {len(facts)} facts hold,"
                    f" {time.perf_counter() - self.started:.0f} s"
                )
            report = self.report()
            path = picture.write_report(report, self.out)
            self.say(f"report: {path}")
            return report
        finally:
            self.learner.close()
            self.twin.close()
            shutil.rmtree(self._work, ignore_errors=True)

    # -- pieces ------------------------------------------------------------------------------------
    def _stream(
        self, rows: NDArray[np.int64], count: int, order: Order, condition: str, salt: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        y = self.sample.y[rows]
        picked = rows[arrange(y, order, count, self.seed * 1000 + salt)]
        return (
            corrupt(self.sample.x[picked], condition, SEVERITY, self.seed * 1000 + salt),
            self.sample.y[picked],
        )

    def _play(
        self,
        act: str,
        condition: str,
        order: Order,
        count: int,
        salt: int,
        oracle: RefittedHead | None = None,
    ) -> tuple[float, float, float]:
        """A stream of one condition; mean accuracy of learner, frozen twin and oracle."""
        x, y = self._stream(self.stream_rows, count, order, condition, salt)
        first = len(self.recorder.batches)
        for rows in batches(count, BATCH):
            self.recorder.batch(
                x[rows], y[rows], act=act, condition=SHOWN[condition], order=order, oracle=oracle
            )
        played = self.recorder.batches[first:]
        oracle_mean = (
            float(np.mean([b["oracle"] for b in played if b["oracle"] is not None]))
            if oracle
            else float("nan")
        )
        return (
            float(np.mean([b["accuracy"] for b in played])),
            float(np.mean([b["frozen"] for b in played])),
            oracle_mean,
        )

    def _oracle(self, condition: str) -> RefittedHead:
        rows = self.oracle_rows[:_ORACLE_LABELS]
        z = self.twin.predict(
            corrupt(self.sample.x[rows], condition, SEVERITY, self.seed + 77)
        ).embedding
        return RefittedHead(z, self.sample.y[rows], len(CLASSES))

    def _accuracy(
        self, learner: Learner, rows: NDArray[np.int64], among: tuple[str, ...] | None = None
    ) -> float:
        """Accuracy on clean images; ``among`` restricts the answer set."""
        p = learner.predict(self.sample.x[rows], stream="judge")
        columns = [i for i, name in enumerate(p.classes) if among is None or name in among]
        names = np.array(p.classes)[columns]
        return float(
            (
                names[p.probs[:, columns].argmax(axis=1)] == np.array(CLASSES)[self.sample.y[rows]]
            ).mean()
        )

    # -- acts --------------------------------------------------------------------------------------
    def clean(self) -> tuple[str, str, list[report.Fact]]:
        mine, frozen, _ = self._play("clean", "clean", "shuffled", 20 * BATCH, 1)
        played = self.recorder.batches
        shifts = sum(b["is_shifted"] for b in played)
        return (
            "Clean",
            "Six kinds of clothes, as at the factory. It only predicts.",
            [
                _fact("accuracy", f"{mine:.1%}", None),
                _fact("false shift alarms", f"{shifts} of {len(played)} batches", shifts == 0),
                _fact("same as frozen", f"{abs(mine - frozen):.1%} apart", mine == frozen),
                _fact(
                    "questions asked",
                    "none" if not self.recorder.answers else str(self.recorder.answers),
                    self.recorder.answers == 0,
                ),
            ],
        )

    def degraded(self) -> tuple[str, str, list[report.Fact]]:
        order = [CONDITIONS[i] for i in self.rng.permutation(len(CONDITIONS))]
        asked = self.recorder.answers
        most_asked = 0
        for number, condition in enumerate(order):
            oracle = self._oracle(condition)
            before = self.recorder.answers
            for kind in ("shuffled", "sorted"):
                mine, frozen, best = self._play(
                    "degraded",
                    condition,
                    kind,
                    20 * BATCH,
                    10 + 2 * number + (kind == "sorted"),
                    oracle,
                )  # type: ignore[arg-type]
                self.conditions.append(
                    {
                        "name": SHOWN[condition],
                        "order": kind,
                        "frozen": frozen,
                        "learner": mine,
                        "oracle": best,
                        "clean": self.recorder_clean(),
                    }
                )  # type: ignore[typeddict-item]
                self.say(
                    f"  {SHOWN[condition]}, {kind}: {mine:.1%}, frozen {frozen:.1%}, labelled"
                    f" oracle {best:.1%}"
                )
            most_asked = max(most_asked, self.recorder.answers - before)
        self.order = order
        mine, frozen, best = (
            float(np.mean([c[key] for c in self.conditions]))
            for key in ("learner", "frozen", "oracle")
        )  # type: ignore[literal-required]
        opened = sum(kind == "condition" for kind in self.learner.domains().values())
        share = (mine - frozen) / max(best - frozen, 1e-9)
        return (
            "Conditions degrade",
            (
                "Noise, brightness, fog and contrast in turn, once shuffled and once sorted by"
                " class. It notices, corrects itself and asks a few questions."
            ),
            [
                _fact("accuracy", f"{frozen:.1%} frozen, {mine:.1%} learning", mine > frozen),
                _fact("share of the labelled oracle's gain", f"{share:.0%}", share >= 0.5),
                _fact("conditions opened", f"{opened} of {len(order)} shown", opened == len(order)),
                _fact("questions, most per condition", str(most_asked), most_asked <= 20),
                _fact("questions in all", str(self.recorder.answers - asked), None),
            ],
        )

    def recorder_clean(self) -> float:
        played = [b["accuracy"] for b in self.recorder.batches if b["act"] == "clean"]
        return float(np.mean(played))

    def returning(self) -> tuple[str, str, list[report.Fact]]:
        before = dict(self.learner.domains())
        asked = self.recorder.answers
        found = []
        for salt, condition in enumerate((self.order[0], self.order[1])):
            mine, frozen, _ = self._play(
                "returning", condition, "shuffled", 10 * BATCH, 40 + salt, None
            )
            found.append(
                (SHOWN[condition], mine, frozen, self.recorder._names.get(self.learner.domain()))
            )
        self._play("returning", "clean", "shuffled", 8 * BATCH, 45)
        new = len(self.learner.domains()) - len(before)
        return (
            "A condition returns",
            (
                f"{found[0][0].capitalize()} and {found[1][0]} come back, then the sun. It finds"
                " what it learned instead of learning it again."
            ),
            [
                _fact("new conditions opened", str(new), new == 0),
                _fact(
                    "found again",
                    ", ".join(f"{name}: {domain or 'nothing'}" for name, _, _, domain in found),
                    all(name == domain for name, _, _, domain in found),
                ),
                _fact(
                    "accuracy",
                    f"{np.mean([f for _, _, f, _ in found]):.1%} frozen,"
                    f" {np.mean([m for _, m, _, _ in found]):.1%} learning",
                    None,
                ),
                _fact(
                    "back to normal at the end",
                    self.learner.domain(),
                    self.learner.domain() == "source",
                ),
                _fact("questions asked", str(self.recorder.answers - asked), None),
            ],
        )

    def new_classes(self) -> tuple[str, str, list[report.Fact]]:
        old_before = self._accuracy(self.learner, self.judge_rows, KNOWN)
        opened = sum(kind == "condition" for kind in self.learner.domains().values())
        asked = self.recorder.answers
        x, y = self._stream(self.new_stream, 6 * BATCH, "shuffled", "clean", 60)
        known, known_y = self._stream(self.stream_rows, 6 * BATCH, "shuffled", "clean", 61)
        given: dict[int, int] = {}
        questions_before = len(self.recorder.questions)
        for number, part in enumerate(batches(len(x), BATCH)):
            half = slice(part.start, part.start + BATCH // 4)
            bx = np.concatenate([x[part], known[half]])
            by = np.concatenate([y[part], known_y[half]])
            seen = self.recorder.batch(bx, by, act="new_classes", condition="new classes")
            if number >= 1:
                self._teach(seen.ids, by, given)
        precise = [q for q in self.recorder.questions[questions_before:] if q["answer"] in NEW]
        total = len(self.recorder.questions) - questions_before
        rows = np.concatenate([self.judge_rows, self.new_judge])
        mix = self.rng.permutation(np.concatenate([self.judge_rows[:240], self.new_judge[:160]]))
        for part in batches(len(mix), BATCH):
            self.recorder.batch(
                self.sample.x[mix[part]],
                self.sample.y[mix[part]],
                act="new_classes",
                condition="ten classes",
            )
        old_after, new_in_ten = (
            self._accuracy(self.learner, self.judge_rows, KNOWN),
            self._accuracy(self.learner, self.new_judge),
        )
        everything = self._accuracy(self.learner, rows)
        self.classes: report.Classes = {
            "old_among_old": [old_before, old_after],
            "new_in_ten": new_in_ten,
            "all": everything,
            "per_class": self._per_class(rows),
        }
        now_open = sum(kind == "condition" for kind in self.learner.domains().values())
        return (
            "Four new classes appear",
            (
                "Shirts, sneakers, bags and boots, which it never saw. It says it does not know,"
                " asks, and learns each from ten labels."
            ),
            [
                _fact(
                    "questions about new classes",
                    f"{len(precise)} of {total}",
                    total > 0 and len(precise) / max(total, 1) >= 0.6,
                ),
                _fact(
                    "old classes, among the old",
                    f"{old_before:.1%} before, {old_after:.1%} after",
                    old_after >= 0.9,
                ),
                _fact(
                    "old classes, among all ten",
                    f"{self._accuracy(self.learner, self.judge_rows):.1%}",
                    None,
                ),
                _fact("new classes, among all ten", f"{new_in_ten:.1%}", new_in_ten >= 0.7),
                _fact(
                    "mistaken for a new condition", f"{now_open - opened} times", now_open == opened
                ),
                _fact("labels", f"{sum(given.values()) + self.recorder.answers - asked}", None),
            ],
        )

    def _teach(self, ids: tuple[str, ...], y: NDArray[np.int64], given: dict[int, int]) -> None:
        """Ten labels for each new class, answers to questions counted."""
        answered = {CLASSES.index(n): 0 for n in NEW}
        for question in self.recorder.questions:
            if question["answer"] in NEW:
                answered[CLASSES.index(question["answer"])] += 1
        picked = []
        for sample, slot in zip(ids, y, strict=True):
            if (
                slot >= len(KNOWN)
                and answered[int(slot)] + given.get(int(slot), 0) < PER_NEW_CLASS
                and self.learner.is_pending(sample)
            ):
                picked.append(sample)
                given[int(slot)] = given.get(int(slot), 0) + 1
        names = [self.recorder.truth[sample] for sample in picked]
        for name in dict.fromkeys(names):
            if name not in self.learner.classes:
                self.learner.add_class(name)
                self.recorder.event("class_added", f"{name}: a class it had never heard of")
        if picked:
            self.learner.label(picked, names, source="operator")
            self.learner.settle()

    def _per_class(self, rows: NDArray[np.int64]) -> list[report.PerClass]:
        mine = np.array(self.learner.predict(self.sample.x[rows], stream="judge").labels)
        frozen = np.array(self.twin.predict(self.sample.x[rows]).labels)
        truth = np.array(CLASSES)[self.sample.y[rows]]
        return [
            {
                "name": name,
                "known_from_start": name in KNOWN,
                "frozen": float((frozen[truth == name] == name).mean()) if name in KNOWN else None,
                "learner": float((mine[truth == name] == name).mean()),
            }
            for name in CLASSES
        ]

    def attacked(self) -> tuple[str, str, list[report.Fact]]:
        rows = np.concatenate([self.judge_rows, self.new_judge])
        before, digest = self._accuracy(self.learner, rows), self.learner.digest()
        commit = self.learner.history(1)[0].number
        outcome = self._poison_burst()
        after_burst = self._accuracy(self.learner, rows)
        constant = self._constant_frames()
        trickled = self._trickle()
        damaged = self._accuracy(self.learner, rows)
        receipt = self.learner.forget(source="night shift")
        self.recorder.event("forgotten", f"{receipt.removed} labels of one source", receipt.removed)
        forgotten = self._accuracy(self.learner, rows)
        self.learner.rollback(to=commit)
        self.recorder.event("rolled_back", f"to commit {commit}")
        restored = self._accuracy(self.learner, rows)
        x, y = self._stream(self._all_ten(), 6 * BATCH, "shuffled", "clean", 80)
        for part in batches(len(x), BATCH):
            self.recorder.batch(x[part], y[part], act="attacked", condition="ten classes")
        self.safety += [
            {
                "what": "64 labels from one source, 80% wrong",
                "outcome": outcome,
                "detail": f"accuracy {before:.1%} before, {after_burst:.1%} after",
            },
            {
                "what": "frames that never change",
                "outcome": "held" if constant == "stuck" else constant,
                "detail": "abstains; no adaptation, no questions",
            },
            {
                "what": "a source that slips in a few wrong labels at a time",
                "outcome": "forgotten",
                "detail": (
                    f"{trickled} labels got through: {damaged:.1%}; after forget(source=...):"
                    f" {forgotten:.1%}"
                ),
            },
            {
                "what": "rollback to before the attack",
                "outcome": "restored",
                "detail": f"accuracy {restored:.1%}, as before ({before:.1%})",
            },
        ]
        return (
            "An attack, and a stuck camera",
            (
                "A burst of wrong labels is refused, a frozen picture teaches nothing, and what"
                " slips through can be taken back."
            ),
            [
                _fact("burst of wrong labels", outcome, outcome in ("held", "vetoed")),
                _fact("constant frames", constant, constant == "stuck"),
                _fact(
                    "after forget(source=...)",
                    f"{damaged:.1%} to {forgotten:.1%}, was {before:.1%}",
                    abs(forgotten - before) < 0.01,
                ),
                _fact("after rollback", f"{restored:.1%}", restored == before),
                _fact("digest before the attack", digest[:12], None),
            ],
        )

    def _all_ten(self) -> NDArray[np.int64]:
        """Rows of all ten classes, six old to four new."""
        return np.concatenate([self.stream_rows[: 3 * len(self.new_stream) // 2], self.new_stream])

    def _wrong(self, y: NDArray[np.int64], share: float, among: int) -> list[str]:
        wrong = self.rng.random(len(y)) < share
        moved = (y + self.rng.integers(1, among, len(y))) % among
        return [CLASSES[k] for k in np.where(wrong, moved, y)]

    def _poison_burst(self) -> str:
        picked = self.rng.choice(self.stream_rows, 64, replace=False)
        self.learner.learn(
            self.sample.x[picked],
            self._wrong(self.sample.y[picked], 0.8, len(KNOWN)),
            source="line 3",
        )
        self.learner.settle()
        last = self.learner.history(1)[0]
        kind = last.outcome if last.outcome in ("held", "vetoed") else "learned"
        self.recorder.event(
            cast(report.EventKind, kind), str(last.detail.get("why", "64 labels, 80% wrong")), 64
        )
        return kind

    def _constant_frames(self) -> str:
        frame = np.repeat(self.sample.x[self.stream_rows[:1]], BATCH, axis=0)
        for _ in range(3):
            seen = self.recorder.batch(
                frame,
                np.repeat(self.sample.y[self.stream_rows[:1]], BATCH),
                act="attacked",
                condition="constant frames",
            )
        return seen.reading.axis

    def _trickle(self) -> int:
        """Labels of new classes, swapped, four at a time: too few for any test."""
        through = 0
        boots = self.new_stream[self.sample.y[self.new_stream] == CLASSES.index("Ankle boot")]
        for start in range(0, 24, 4):
            picked = boots[start : start + 4]
            self.learner.learn(
                self.sample.x[picked], ["Sneaker"] * len(picked), source="night shift"
            )
            self.learner.settle()
            through += self.learner.history(1)[0].outcome == "learned"
        self.recorder.event("learned", "wrong labels of the night shift", 4 * through)
        return 4 * through

    def killed(self) -> tuple[str, str, list[report.Fact]]:
        counters = self.learner.counters()
        # the user's own passes, probes, refreshes and this story's checks
        self.forwards = counters["encoded"] / max(counters["observed"], 1)
        self.learner.close()
        picked = self.stream_rows[:16]
        given = json.dumps(
            {"x": self.sample.x[picked].tolist(), "y": [CLASSES[k] for k in self.sample.y[picked]]}
        )
        started = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-m", "edgeadapt.demo.crash", str(bundle_path()), str(self.state)],
            input=given + "\n",
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if not child.stdout:
            raise StateError(
                "the child process could not start:"
                f" {child.stderr.strip().splitlines()[-1:] or child.returncode}"
            )
        before = json.loads(child.stdout.splitlines()[0])
        self.recorder.event(
            "killed", f"SIGKILL inside a transaction after commit {before['commit']}"
        )
        reopened = time.perf_counter()
        self.learner = self._open_frozen()
        opened_ms = 1000 * (time.perf_counter() - reopened)
        digest, commit = self.learner.digest(), self.learner.history(1)[0].number
        received = self.learner.counters()["evidence"].get("received", 0)
        self.recorder.learner = self.learner
        self.recorder.event(
            "resumed",
            (
                f"at commit {commit}, same digest"
                if digest == before["digest"]
                else "with another digest"
            ),
        )
        self.learner.freeze(False)
        self.learner.settle()
        learned = self.learner.history(1)[0]
        x, y = self._stream(self._all_ten(), 6 * BATCH, "shuffled", "clean", 90)
        for part in batches(len(x), BATCH):
            self.recorder.batch(x[part], y[part], act="killed", condition="ten classes")
        same = digest == before["digest"] and commit == before["commit"]
        self.safety.append(
            {
                "what": "SIGKILL inside a transaction",
                "outcome": "resumed",
                "detail": (
                    f"commit {commit}, digest {digest[:12]}, {opened_ms:.0f} ms; {received} durable"
                    " labels learned after restart"
                ),
            }
        )
        return (
            "Killed in the middle of a write",
            (
                "SIGKILL inside a transaction. It comes back at the last commit, bit for bit, and"
                " learns the labels that were already safe."
            ),
            [
                _fact("process ended by", f"signal {-child.returncode}", child.returncode == -9),
                _fact("digest", f"{digest[:12]}, same as before" if same else "differs", same),
                _fact("back after", f"{opened_ms:.0f} ms", None),
                _fact(
                    "labels that were safe",
                    f"{received}, then {learned.outcome}",
                    received == 16 and learned.outcome == "learned",
                ),
                _fact("took", f"{time.perf_counter() - started:.1f} s", None),
            ],
        )

    def _open_frozen(self) -> Learner:
        """Open without learning the labels that wait, so that the digest is that of the last
        commit.
        """
        learner = open_learner(
            bundle_path(), state=self.state, budget=Budget(busy_fraction=1.0), freeze=True
        )
        return learner

    # -- report ------------------------------------------------------------------------------------
    def report(self) -> report.Report:
        played = self.recorder.batches
        means = {
            key: float(np.mean([c[key] for c in self.conditions]))
            for key in ("frozen", "learner", "oracle")
        }  # type: ignore[literal-required]
        size = [b for b in played if b["size"] == BATCH]
        counters = self.learner.counters()
        shown = [
            self.recorder.questions[i]
            for i in np.linspace(
                0, len(self.recorder.questions) - 1, min(24, len(self.recorder.questions))
            ).astype(int)
        ]
        manifest = self.learner.bundle.manifest
        return {
            "product": {
                "version": edgeadapt.__version__,
                "bundle": manifest.name,
                "runtime": "onnxruntime",
                "machine": f"{platform.machine()}, {_cpu_count()} cores",
                "seed": self.seed,
                "date": now(),
            },
            "headline": {
                **means,
                "questions": self.recorder.answers,
                "seconds": time.perf_counter() - self.started,
            },  # type: ignore[typeddict-item]
            "acts": self.acts,
            "batches": played,
            "events": self.recorder.events,
            "conditions": self.conditions,
            "classes": self.classes,
            "questions": shown,
            "safety": self.safety,
            "cost": {
                **{
                    f"{step}_ms": float(np.median([b[f"{step}_ms"] for b in size]))
                    for step in ("encode", "sense", "learn", "record")
                },  # type: ignore[literal-required,typeddict-item]
                "rss_mib": rss_mib(),
                "bundle_kib": self.learner.bundle.bytes / 1024,
                "state_kib": counters["state_bytes"] / 1024,
                "forwards_per_batch": self.forwards,
            },
        }


def _fact(label: str, value: str, holds: bool | None) -> report.Fact:
    return {"label": label, "value": value, "holds": None if holds is None else bool(holds)}


def _cpu_count() -> int:
    import os

    return len(os.sched_getaffinity(0))
