"""A long stream through one learner, in a process of its own: labels, new classes and conditions
come and go while memory, the worker's queue and times are watched.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import read_bundle
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt.scenarios.environment import resident_mib
from edgeadapt_bench.datasets.vectors import Crowd
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.operations import large_state
from edgeadapt_bench.operations.large_state import folder_bytes

_BATCH, _LABEL_EVERY, _LABELS, _PHASES, _SAMPLES = 64, 8, 16, 20, 100


_REMEMBERED = 4096  # samples whose label the one who answers still knows


@dataclass
class Watch:
    """What is sampled in the course of a stream: observations so far, resident MiB, work that
    waits, milliseconds of a bare read.
    """

    learner: Learner
    bare: Callable[[], object]
    every: int
    samples: dict[str, list[float]] = field(
        default_factory=lambda: {"observed": [], "mib": [], "backlog": [], "bare_ms": []}
    )

    def look(self, observed: int) -> float:
        """Sample if it is time; seconds that it took."""
        if observed < self.every * (len(self.samples["mib"]) + 1):
            return 0.0
        started = time.perf_counter()
        values = {
            "observed": observed,
            "mib": resident_mib(),
            "backlog": self.learner.counters()["backlog"],
            "bare_ms": self._bare_ms(),
        }
        for name, value in values.items():
            self.samples[name].append(float(value))
        return time.perf_counter() - started

    def _bare_ms(self) -> float:
        times = []
        for _ in range(8):
            started = time.perf_counter()
            self.bare()
            times.append(1e3 * (time.perf_counter() - started))
        return float(np.median(times))


def written_bytes() -> int:
    """Bytes that this process caused to be written to disk so far; on a file system in memory,
    none.
    """
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError("/proc/self/io has no write_bytes")


Batch = tuple[dict[str, Any], list[str], str]  # keywords of observe, true labels, stream


def live_through(
    bundle: str,
    observations: int,
    stream: Callable[[np.random.Generator], Iterable[Batch]],
    label_every: int,
    labels: int,
) -> dict[str, Any]:
    """Observe all batches of a stream; of every ``label_every``-th batch the first ``labels``
    samples get their labels, and questions theirs.

    Returns:
        The samples of :class:`Watch`, seconds, milliseconds of each ``observe``, bytes, counters,
        commits by outcome.
    """
    opened = read_bundle(Path(bundle))
    rng = np.random.default_rng(0)
    truth: dict[str, str] = {}
    spent: list[float] = []
    asked = given = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        open_learner(
            bundle,
            state=Path(folder) / "state",
            budget=large_state.FREE,
            policy=Policy(new_classes="add"),
        ) as learner,
    ):
        watch = Watch(learner, lambda: None, max(1, observations // _SAMPLES))
        program = Program(opened, learner._program.runtime)
        began, aside, before, observed = time.perf_counter(), 0.0, written_bytes(), 0
        for number, (inputs, names, source) in enumerate(stream(rng)):
            if number == 0:
                watch.bare = _bare_read(program, inputs)
            started = time.perf_counter()
            seen = learner.observe(**inputs, stream=source)
            spent.append(time.perf_counter() - started)
            observed += len(names)
            if number % label_every == label_every - 1:
                learner.label(seen.ids[:labels], names[:labels], source="desk")
                given += min(labels, len(names))
            truth.update(zip(seen.ids, names, strict=True))
            for old in (
                list(truth)[: len(truth) - _REMEMBERED] if len(truth) > 2 * _REMEMBERED else ()
            ):
                del truth[old]
            for question in learner.questions(limit=1000) if number % label_every == 0 else ():
                if question.id in truth:
                    learner.label(question.id, truth[question.id], source="desk")
                    asked += 1
            if number % 512 == 511:
                learner.checkpoint()
            aside += watch.look(observed)
        waited = time.perf_counter()
        learner.settle()
        ended = time.perf_counter()
        counters = learner.counters()
        classes = len(learner.classes)
        conditions = len(learner.domains())
        commits = [commit for commit in learner.history(1_000_000) if commit.kind == "learn"]
        outcomes = Counter(commit.outcome for commit in commits)
        reasons = Counter(
            re.sub(r"\d[\d.e-]*", "#", commit.detail["why"])
            for commit in commits
            if "why" in commit.detail
        )
        written = written_bytes() - before
        size = folder_bytes(Path(folder) / "state")
    return {
        **watch.samples,
        "seconds": ended - began - aside,
        "caught_up": ended - waited,
        "observe_ms": [1e3 * s for s in spent],
        "written": written,
        "state": size,
        "labels": given + asked,
        "answers": asked,
        "classes": classes,
        "conditions": conditions,
        "outcomes": outcomes,
        "reasons": reasons,
        "counters": {
            name: counters[name] for name in ("deferred", "overruns", "refreshes", "pending")
        },
        "evidence": counters["evidence"],
    }


def _bare_read(program: Program, inputs: Mapping[str, Any]) -> Callable[[], object]:
    """The same graphs on the same batch, and nothing else."""
    tensors = program.factory()
    if "x" in inputs:
        return lambda: program.read(*program.encode(inputs["x"]), tensors)
    z = inputs["features"]["z"]
    taps = inputs["features"].get("taps", np.zeros((len(z), 0), np.float32))
    return lambda: program.read(z, taps, tensors)


def soak_vectors(bundle: str, observations: int, classes: int) -> dict[str, Any]:
    """Vectors of a growing number of classes on two streams; one of them is under a condition in
    every other phase.
    """
    opened = read_bundle(Path(bundle))
    crowd = Crowd.of(opened, classes)
    known, count = len(opened.manifest.classes), -(-observations // _BATCH)

    def stream(rng: np.random.Generator) -> Iterable[Batch]:
        for number in range(count):
            progress = number / count
            visible = known + int((classes - known) * min(1.0, progress / 0.6))
            slots = rng.integers(0, visible, min(_BATCH, observations - number * _BATCH))
            phase = int(progress * _PHASES)
            is_calm = number % 2 == 0 or phase % 2 == 0
            features = crowd.draw(slots, rng, None if is_calm else crowd.offset(phase // 2 % 4))
            yield {"features": features}, crowd.labels(slots), f"sensor-{number % 2}"

    return live_through(bundle, observations, stream, _LABEL_EVERY, _LABELS)


def soak_images(bundle: str, images: str, observations: int) -> dict[str, Any]:
    """Images in seeded order, clean and under the demo's conditions by turns; classes the bundle
    never saw come in the second half.
    """
    with np.load(images) as given:
        x, y, names = given["x"], given["y"], [str(name) for name in given["names"]]
    known = len(read_bundle(Path(bundle)).manifest.classes)

    def stream(rng: np.random.Generator) -> Iterable[Batch]:
        halves = np.flatnonzero(y < known), np.arange(len(y))
        for begin in range(0, observations, 8):
            rows = rng.choice(halves[begin >= observations // 2], min(8, observations - begin))
            phase = begin * _PHASES // observations
            condition = (
                "clean"
                if phase % 2 == 0
                else ("fog", "gaussian_noise", "contrast", "brightness")[phase // 2 % 4]
            )
            yield (
                {"x": corrupt(x[rows], condition, 3, begin)},
                [names[slot] for slot in y[rows]],
                "camera",
            )

    return live_through(bundle, observations, stream, _LABEL_EVERY, 4)


JOBS = {"vectors": soak_vectors, "images": soak_images}

if __name__ == "__main__":
    serve(JOBS)
