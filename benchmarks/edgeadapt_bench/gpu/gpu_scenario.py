"""A short day of a device on one runtime, with the bundle that ships: it predicts, notices a shift,
corrects it, learns, forgets, steps back.

    python -m edgeadapt_bench.gpu.gpu_scenario story '{"runtime": "tensorrt", "plans": "FOLDER"}'

On a runtime other than the CPU's the day is lived on the CPU too, and the probabilities of every
act are compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime
from edgeadapt_bench.gpu.gpu_check import answer
from edgeadapt_bench.gpu.gpu_result import GpuRow, checked, measured
from edgeadapt_bench.gpu.gpu_runtimes import CPU, opened

PART = "story"
NEW = "Bag"
CLOSE = 0.01  # probabilities, from the CPU's
_BATCH, _DARKER, _WINDOWS = 32, 0.25, 7
_ACCURATE, _LEARNED = 0.85, 0.5
Images = NDArray[np.uint8]


@dataclass
class Day:
    """Acts in order: a name, whether it went well, what was found, seconds; and the probabilities
    after each.
    """

    acts: list[tuple[str, bool, str, float]] = field(default_factory=list)
    probs: dict[str, NDArray[Any]] = field(default_factory=dict)

    def act(self, name: str, play: Callable[[], tuple[bool, str]]) -> None:
        started = time.perf_counter()
        is_right, found = play()
        self.acts.append((name, bool(is_right), found, time.perf_counter() - started))


def dark(seed: int = 2) -> Images:
    """Images of the known classes in the light of another place; (224, 28, 28) uint8."""
    return (_images(KNOWN, seed)[0][: _BATCH * _WINDOWS] * _DARKER).astype(np.uint8)


def _images(classes: tuple[str, ...], seed: int) -> tuple[Images, list[str]]:
    sample = load_sample()
    rows = sample.rows(classes, np.random.default_rng(seed))
    return sample.x[rows], [CLASSES[k] for k in sample.y[rows]]


def live(runtime: Runtime, state: Path) -> Day:
    """The day; whoever calls it reads the acts."""
    day = Day()
    x, names = _images(KNOWN, 9)
    probe, wanted = x[:128], names[:128]
    lesson = _images((NEW,), 1)[0]
    night = dark()

    with open_learner(
        bundle_path(),
        state=state,
        runtime=runtime,
        policy=Policy(new_classes="add"),
        budget=Budget(busy_fraction=1.0),
    ) as learner:

        def predict() -> tuple[bool, str]:
            seen = learner.predict(probe)
            day.probs["predict"] = seen.probs
            right = float(np.mean(np.array(seen.labels) == np.array(wanted)))
            return right >= _ACCURATE, f"{right:.2f} of {len(probe)} right, {_ACCURATE} expected"

        def shift() -> tuple[bool, str]:
            for at in range(0, len(night), _BATCH):
                learner.observe(night[at : at + _BATCH])
                learner.settle()
            day.probs["shift"] = learner.predict(night[:40]).probs
            refreshes = int(learner.counters()["refreshes"])
            return (
                learner.domain() != "source" and refreshes > 0,
                f"in {learner.domain()!r} after {_WINDOWS} dark windows, {refreshes} refreshes",
            )

        def learn() -> tuple[bool, str]:
            before = _share(learner, lesson[24:88])
            seen = learner.observe(lesson[:24])
            learner.label(seen.ids, [NEW] * len(seen.ids), source="lesson")
            learner.settle()
            after = _share(learner, lesson[24:88])
            day.probs["learn"] = learner.predict(probe).probs
            return (
                before < _LEARNED <= after,
                (
                    f"of others like the 24 labelled, {before:.2f} were known before and"
                    f" {after:.2f} after"
                ),
            )

        def forget() -> tuple[bool, str]:
            receipt = learner.forget(source="lesson")
            learner.settle()
            left = _share(learner, lesson[24:88])
            return (
                left < _LEARNED and receipt.removed == 24,
                f"{receipt.removed} labels removed; {left:.2f} are known still",
            )

        def step_back() -> tuple[bool, str]:
            commit = learner.checkpoint()
            kept = learner.predict(probe).probs
            learner.learn(probe[:20], ["Coat"] * 20)
            learner.settle()
            moved = (
                float(np.abs(learner.predict(probe).probs - kept).max())
                if learner.predict(probe).probs.shape == kept.shape
                else 1.0
            )
            learner.rollback(commit)
            is_back = bool(np.array_equal(learner.predict(probe).probs, kept))
            return (
                is_back and moved > 0.01,
                (
                    f"probabilities moved by {moved:.2f} and are"
                    f" {'the same again' if is_back else 'not what they were'}"
                ),
            )

        for name, play in (
            ("predict", predict),
            ("meet a shift, refresh", shift),
            ("label a new class", learn),
            ("forget it", forget),
            ("roll back", step_back),
        ):
            day.act(name, play)
    return day


def _share(learner: Learner, x: Images) -> float:
    return float(np.mean(np.array(learner.predict(x).labels) == NEW))


def story(runtime: str, plans: str) -> list[GpuRow]:
    """A row for each act, and one for how far the numbers are from the CPU's."""
    with tempfile.TemporaryDirectory(prefix="edgeadapt-story-") as folder:
        day = live(opened(runtime, plans), Path(folder) / "there")
        rows = [
            checked(PART, f"{name} on {runtime}", is_right, f"{found} ({seconds:.1f} s)")
            for name, is_right, found, seconds in day.acts
        ]
        if runtime != CPU:
            other = live(opened(CPU, plans), Path(folder) / "here").probs
            for act, probs in day.probs.items():
                off = (
                    float(np.abs(probs - other[act]).max())
                    if probs.shape == other[act].shape
                    else 1.0
                )
                rows.append(
                    measured(
                        PART,
                        f"probabilities after {act!r} on {runtime}: off the CPU's",
                        off,
                        "",
                        at_most=CLOSE,
                    )
                )
    return rows


CHECKS = {"story": story}

if __name__ == "__main__":
    answer(CHECKS)
