"""Runs the learner beside a frozen model and a labelled oracle, and writes down what a report
needs.
"""

from __future__ import annotations

import base64
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo import report
from edgeadapt.demo.sample import CLASSES
from edgeadapt.device.learner import Learner
from edgeadapt.results import Observation
from edgeadapt.scenarios.refitted_head import RefittedHead

STEPS = ("encode", "sense", "learn", "record")


@dataclass(eq=False)
class Recorder:
    """Batches, events and questions of one run, in order.

    Attributes:
        learner: the one that learns. frozen: the same bundle, never told anything.
        truth: answers a question by sample id. say: progress, one line.
    """

    learner: Learner
    frozen: Learner
    say: Callable[[str], None]
    batches: list[report.Batch] = field(default_factory=list)
    events: list[report.Event] = field(default_factory=list)
    questions: list[report.Question] = field(default_factory=list)
    truth: dict[str, str] = field(default_factory=dict)
    answers: int = 0
    _seen_commit: int = 0
    _domain: str = "source"
    _was_shifted: bool = False
    _refreshes: int = 0
    _names: dict[str, str] = field(default_factory=dict)

    def event(self, kind: report.EventKind, text: str, count: int = 1) -> None:
        self.events.append(
            {"batch": max(0, len(self.batches) - 1), "kind": kind, "text": text, "count": count}
        )

    def batch(
        self,
        x: NDArray[np.uint8],
        y: NDArray[np.int64],
        *,
        act: str,
        condition: str,
        order: Literal["shuffled", "sorted"] = "shuffled",
        oracle: RefittedHead | None = None,
        answer: bool = True,
    ) -> Observation:
        """Show one batch to everyone, let the learner ask, answer, wait until it has learned."""
        before = self.learner.timings()
        seen = self.learner.observe(x)
        names = [CLASSES[k] for k in y]
        self.truth.update(zip(seen.ids, names, strict=True))
        frozen = self.frozen.predict(x)
        self.learner.settle()
        index = len(self.batches)
        self.batches.append(
            {
                "index": index,
                "act": act,
                "condition": condition,
                "order": order,
                "size": len(y),
                "accuracy": _share(seen.prediction.labels, names),
                "frozen": _share(frozen.labels, names),
                "oracle": (
                    None
                    if oracle is None
                    else float((oracle.predict(frozen.embedding) == y).mean())
                ),
                "shift": float(seen.reading.shift),
                "is_shifted": seen.reading.is_shifted,
                "novel_share": seen.reading.novel_share,
                "domain": self._named(seen.reading.domain, condition),
                "encode_ms": 0.0,
                "sense_ms": 0.0,
                "learn_ms": 0.0,
                "record_ms": 0.0,
            }
        )
        if answer:
            self.answer(x, seen)
        after = self.learner.timings()
        self.batches[index].update(
            cast(Any, {f"{step}_ms": 1000 * (after[step] - before[step]) for step in STEPS})
        )
        self._note_changes(seen, condition)
        return seen

    def _named(self, domain: str, condition: str) -> str:
        """Domains are shown under the condition they were opened in."""
        if domain == "source":
            return domain
        return self._names.setdefault(domain, condition)

    def answer(self, x: NDArray[np.uint8], seen: Observation) -> None:
        """Answer every open question truthfully; a class that was never heard of is added first."""
        rows = {sample: i for i, sample in enumerate(seen.ids)}
        asked = self.learner.questions(100)
        for question in asked:
            name = self.truth[question.id]
            if name not in self.learner.classes:
                self.learner.add_class(name)
                self.event("class_added", f"{name}: a class it had never heard of")
            if len(self.questions) < 400:
                frame = question.frame if question.frame is not None else x[rows[question.id]]
                self.questions.append(
                    {
                        "batch": len(self.batches) - 1,
                        "why": question.why,
                        "image": png(frame),
                        "predicted": question.predicted,
                        "answer": name,
                        "novelty": question.novelty,
                    }
                )
        if asked:
            self.event("question", f"asks {len(asked)}: {asked[0].why}", len(asked))
            self.learner.label(
                [q.id for q in asked], [self.truth[q.id] for q in asked], source="operator"
            )
            self.answers += len(asked)
            self.event("answer", f"{len(asked)} answers", len(asked))
            self.learner.settle()

    def _note_changes(self, seen: Observation, condition: str) -> None:
        reading = seen.reading
        if reading.is_shifted != self._was_shifted and reading.axis != "warming":
            self.event(
                "shift_on" if reading.is_shifted else "shift_off",
                f"shift reads {reading.shift:.1f} x threshold",
            )
            self._was_shifted = reading.is_shifted
        counters = self.learner.counters()
        if counters["refreshes"] > self._refreshes:
            if self._refreshes == 0 or self._domain != self.learner.domain():
                self.event(
                    "adapt",
                    "label-free correction is active",
                    counters["refreshes"] - self._refreshes,
                )
            self._refreshes = counters["refreshes"]
        domain = self.learner.domain()
        if domain != self._domain:
            if domain in self._names:
                self.event("domain_found", f"{self._names[domain]}: its stored correction is back")
            elif domain != "source":
                self._names[domain] = condition
            self._domain = domain
        for commit in reversed(self.learner.history(20)):
            if commit.number <= self._seen_commit:
                continue
            self._seen_commit = commit.number
            detail = dict(commit.detail)
            if commit.kind == "domain":
                name = self._names.get(str(detail.get("domain")), condition)
                self.event(
                    "domain_opened" if commit.outcome == "opened" else "novel",
                    f"{name}: {commit.outcome}",
                )
            elif commit.kind == "learn" and commit.outcome == "learned":
                self.event(
                    "learned",
                    f"learned {detail['learned']}, held {detail['held_out']} out to judge",
                    int(detail["learned"]),
                )
            elif commit.kind == "learn":
                self.event(
                    cast(report.EventKind, commit.outcome),
                    str(detail.get("why", "")),
                    int(detail.get("labels", 1)),
                )


def _share(labels: Any, names: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(labels, names, strict=True)]))


def png(image: NDArray[np.uint8]) -> str:
    """A grey image (H, W) as a data URI."""
    height, width = image.shape
    raw = b"".join(b"\0" + row.tobytes() for row in image)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def rss_mib() -> float:
    """Resident memory of this process, MiB."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M")
