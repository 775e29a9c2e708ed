"""The product in a transfer, by its public face: exported once a factory, opened once a pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeadapt
from edgeadapt.bundle import Bundle
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt_bench.transfer.transfers import F32, I64, Part, Transfer

BATCH = 32
FIELD, ELSEWHERE = "field", "factory"
_EVERY = 1000  # more questions than are ever open


class Bundles:
    """Exports a factory once: transfers that differ only in the field share the bundle.

    Args:
        folder: where they are written. stress: of ``host.export``.
    """

    def __init__(self, folder: Path, stress: Any) -> None:
        self._folder, self._stress = folder, stress
        self._made: dict[str, Bundle] = {}

    def of(self, transfer: Transfer) -> Bundle:
        part = transfer.factory
        sha = hashlib.sha256(
            part.z.tobytes() + part.y.tobytes() + repr(transfer.classes[: transfer.known]).encode()
        )
        key = sha.hexdigest()[:16]
        if key not in self._made:
            from edgeadapt.host import Identity, export

            self._made[key] = export(
                self._folder / f"{key}.edge",
                Identity(part.z.shape[1]),
                (part.z, part.y),
                transfer.classes[: transfer.known],
                name="transfer",
                stress=self._stress,
                groups=part.unit if transfer.has_groups else None,
            )
        return self._made[key]


def opened(bundle: Bundle) -> Learner:
    """In memory; new classes are added.

    Its worker may always work, so that nothing depends on the machine's speed.
    """
    budget = Budget(busy_fraction=1.0, memory_mib=4096)
    return edgeadapt.open(bundle, policy=Policy(new_classes="add"), budget=budget)


def answers(
    learner: Learner, part: Part, names: tuple[str, ...], stream: str = FIELD
) -> NDArray[np.bool_]:
    """(N,) right answers under the condition that a stream is in."""
    labels = learner.predict(features={"z": part.z}, stream=stream).labels
    right: NDArray[np.bool_] = np.array(labels) == np.array(names)[part.y]
    return right


@dataclass(eq=False)
class Watched:
    """What happened while a stream was shown, batch by batch of 32.

    Attributes:
        axis: of the reading after each batch. asked: questions that each batch raised.
        met: samples after each batch.
        labels: answers given.
    """

    axis: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    met: list[int] = field(default_factory=list)
    labels: int = 0

    def noticed_after(self) -> int | None:
        """Samples until something was asked or a reading was not clear; None if it never was."""
        for axis, asked, met in zip(self.axis, self.asked, self.met, strict=True):
            if asked or axis not in ("clear", "warming"):
                return met
        return None

    def noticed_share(self) -> float:
        """Share of batches in which something was asked or the reading was not clear."""
        signs = [
            bool(asked) or axis not in ("clear", "warming")
            for axis, asked in zip(self.axis, self.asked, strict=True)
        ]
        return float(np.mean(signs)) if signs else 0.0


def show(
    learner: Learner, part: Part, names: tuple[str, ...], *, is_answering: bool, stream: str = FIELD
) -> Watched:
    """Show a part in batches of 32; the worker settles after each.

    Questions are answered with the truth, or left open.
    """
    watched = Watched()
    truth: dict[str, str] = {}
    open_before: set[str] = set()
    for start in range(0, len(part), BATCH):
        y = part.y[start : start + BATCH]
        seen = learner.observe(features={"z": part.z[start : start + BATCH]}, stream=stream)
        truth |= dict(zip(seen.ids, [names[k] for k in y], strict=True))
        learner.settle()
        questions = [q.id for q in learner.questions(_EVERY) if q.id in truth]
        watched.axis.append(seen.reading.axis)
        watched.asked.append(len(set(questions) - open_before))
        watched.met.append(start + len(y))
        open_before = set(questions)
        if is_answering and questions:
            learner.label(questions, [truth[sample] for sample in questions])
            learner.settle()
            watched.labels += len(questions)
    return watched


def teach(learner: Learner, z: F32, y: I64, names: tuple[str, ...], stream: str = FIELD) -> None:
    """Labels in hand, at most 32 at a time, met under the condition that the stream is in."""
    for start in range(0, len(y), BATCH):
        rows = slice(start, start + BATCH)
        learner.learn(None, [names[k] for k in y[rows]], features={"z": z[rows]}, stream=stream)
        learner.settle()


def accepted(learner: Learner) -> float:
    """Share of the labels given that teach or judge; what is held or vetoed is the rest."""
    found = learner.counters()["evidence"]
    total = sum(found.values())
    return (found.get("learned", 0) + found.get("held_out", 0)) / total if total else 1.0
