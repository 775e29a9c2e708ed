"""Makes a golden life: ``python -m golden.lives BUNDLE FOLDER`` in ``tests/device``.

A life on a bundle with adaptors: labels of two sources, a condition that trained an adaptor, a new
class, a rollback, and labels that were withdrawn and forgotten, by sample and by source. ``FOLDER``
gets ``learner.db``, ``answers.npz`` and ``expected.json``. A kept folder is never made again: it
says how that version wrote. ``README.md`` says which version wrote which.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from edgeadapt_bench.datasets.mirrored_domain import samples

import edgeadapt
from edgeadapt import Budget

STREAM = "line"
PROBE = 48
"""Samples of each condition that are predicted and kept."""


def live(learner: Any) -> None:
    def teach(count: int, seed: int, source: str) -> None:
        learner.learn(*samples(count, seed), source=source)
        learner.settle()

    teach(24, 2, "line 1")
    teach(12, 3, "gone")
    given = [sample for seed in range(20, 26) for sample in labelled(learner, seed)]
    learner.checkpoint()
    learner.add_class("plus w")
    teach(20, 4, "line 2")
    learner.rollback()
    learner.withdraw(given[0])
    learner.forget(ids=[given[1]])
    learner.forget(source="gone")
    learner.settle()
    for seed in range(30, 36):
        labelled(learner, seed)
    learner.checkpoint()
    teach(16, 5, "line 1")


def labelled(learner: Any, seed: int) -> list[str]:
    """One window of the mirror; the ids of the samples that were answered, once it is noticed."""
    x, names = samples(32, seed, 1.0)
    seen = learner.observe(x, stream=STREAM)
    learner.settle()
    given = list(seen.ids[:16]) if learner.domain(STREAM) != "source" else []
    if given:
        learner.label(given, names[: len(given)], source="operator")
        learner.settle()
    return given


def story(learner: Any) -> dict[str, Any]:
    """What the tests compare, besides digests and predictions."""
    return {
        "classes": list(learner.classes),
        "evidence": learner.counters()["evidence"],
        "labelled": learner.labelled(),
        "domains": learner.domains(),
        "history": [f"{c.number} {c.kind}: {c.outcome}" for c in reversed(learner.history(200))],
    }


def machine() -> dict[str, str]:
    """Where bits are the same: processor, its instructions, and what computes."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = dict(re.findall(r"^(model name|flags)\s*: (.+)$", about, re.MULTILINE))
    return {
        "processor": found.get("model name", ""),
        "instructions": hashlib.sha256(found.get("flags", "").encode()).hexdigest()[:12],
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def answers(learner: Any) -> dict[str, Any]:
    """Predictions for both conditions, once the stream has met its condition again."""
    found = {}
    for name, mirrored in (("factory", 0.0), ("mirror", 1.0)):
        for seed in (50, 51, 52):
            learner.observe(samples(32, seed, mirrored)[0], stream=STREAM)
            learner.settle()
        found[name] = learner.predict(samples(PROBE, 99, mirrored)[0], stream=STREAM).probs
    return found


def main() -> None:
    bundle, out = (Path(argument) for argument in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with edgeadapt.open(bundle, state=folder, budget=Budget(busy_fraction=1.0)) as learner:
            live(learner)
            expected = story(learner) | {"digest": learner.digest(), "machine": machine()}
        (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        with sqlite3.connect(Path(folder) / "learner.db") as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(Path(folder) / "learner.db", out / "learner.db")
        with edgeadapt.open(
            bundle, state=folder, budget=Budget(busy_fraction=1.0), freeze=True
        ) as learner:
            np.savez_compressed(out / "answers.npz", **answers(learner))


if __name__ == "__main__":
    main()
