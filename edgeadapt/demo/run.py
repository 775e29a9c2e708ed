"""What the acts of the demo share: the learner, the same bundle frozen, images, and what was
found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo import report
from edgeadapt.demo.images import SEVERITY, DemoImages, Rows
from edgeadapt.demo.recorder import Recorder
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.orders import Order, batches
from edgeadapt.scenarios.refitted_head import RefittedHead

SHOWN = {
    "gaussian_noise": "noise",
    "brightness": "brightness",
    "fog": "fog",
    "contrast": "contrast",
    "clean": "clean",
}
BATCH = 32
_ORACLE_LABELS = 500
Act = tuple[str, str, list[report.Fact]]
"""Title, sentence, facts."""


@dataclass
class Found:
    """What acts leave for the report.

    Attributes:
        order: conditions in the order in which they were shown.
        forwards: passes of the encoder per batch, those of the acts' own checks included.
    """

    conditions: list[report.Condition] = field(default_factory=list)
    safety: list[report.Safety] = field(default_factory=list)
    classes: report.Classes | None = None
    order: list[str] = field(default_factory=list)
    forwards: float = 0.0


class DemoRun:
    """One run.

    Attributes:
        frozen: the same bundle, which is never told anything.
        state: folder of the learner that learns.
    """

    def __init__(self, state: Path, seed: int, say: Callable[[str], None]) -> None:
        self.say, self.state = say, state
        self.rng = np.random.default_rng(seed)
        self.images = DemoImages.drawn(seed, self.rng)
        self.found = Found()
        self.say(f"opening {bundle_path().name} and its frozen twin")
        self.learner = self.open()
        self.frozen = open_learner(bundle_path(), policy=Policy(adapt="off"))
        self.recorder = Recorder(self.learner, self.frozen, self.say)

    def open(self) -> Learner:
        # minutes, not days
        return open_learner(
            bundle_path(),
            state=self.state,
            budget=Budget(busy_fraction=1.0),
            policy=Policy(quiet_questions_per_day=0),
        )

    def close(self) -> None:
        self.learner.close()
        self.frozen.close()

    def play(
        self,
        act: str,
        condition: str,
        order: Order,
        count: int,
        salt: int,
        oracle: RefittedHead | None = None,
    ) -> tuple[float, float, float]:
        """A stream of one condition; mean accuracy of learner, frozen model and oracle."""
        x, y = self.images.streamed(self.images.stream, count, order, condition, salt)
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

    def oracle(self, condition: str) -> RefittedHead:
        rows = self.images.oracle[:_ORACLE_LABELS]
        z = self.frozen.predict(
            corrupt(self.images.x[rows], condition, SEVERITY, self.images.seed + 77)
        ).embedding
        return RefittedHead(z, self.images.y[rows], len(CLASSES))

    def accuracy(self, rows: Rows, among: tuple[str, ...] | None = None) -> float:
        """Accuracy on clean images; ``among`` restricts the answer set."""
        p = self.learner.predict(self.images.x[rows], stream="judge")
        columns = [i for i, name in enumerate(p.classes) if among is None or name in among]
        said = np.array(p.classes)[columns][p.probs[:, columns].argmax(axis=1)]
        return float((said == np.array(CLASSES)[self.images.y[rows]]).mean())

    def per_class(self, rows: Rows) -> list[report.PerClass]:
        mine = np.array(self.learner.predict(self.images.x[rows], stream="judge").labels)
        frozen = np.array(self.frozen.predict(self.images.x[rows]).labels)
        truth = np.array(CLASSES)[self.images.y[rows]]
        return [
            {
                "name": name,
                "known_from_start": name in KNOWN,
                "frozen": float((frozen[truth == name] == name).mean()) if name in KNOWN else None,
                "learner": float((mine[truth == name] == name).mean()),
            }
            for name in CLASSES
        ]

    def clean_accuracy(self) -> float:
        played = [b["accuracy"] for b in self.recorder.batches if b["act"] == "clean"]
        return float(np.mean(played))

    def conditions_opened(self) -> int:
        return sum(kind == "condition" for kind in self.learner.domains().values())

    def show(self, act: str, condition: str, x: NDArray[np.uint8], y: Rows) -> None:
        """Images in batches, as a stream."""
        for part in batches(len(x), BATCH):
            self.recorder.batch(x[part], y[part], act=act, condition=condition)


def fact(label: str, value: str, holds: bool | None) -> report.Fact:
    return {"label": label, "value": value, "holds": None if holds is None else bool(holds)}
