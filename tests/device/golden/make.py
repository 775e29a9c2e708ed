"""Makes a golden state folder: ``PYTHONPATH=../support python -m golden.make FOLDER`` in
``tests/device``, with the version whose journal is to be kept.

A life with something of everything: sources, a new class, a removed one, a forgotten source, a
rollback, a provisional condition, labels that were held, and labels that still wait. ``FOLDER``
gets ``learner.db``, ``probe.npz`` and ``expected.json``. A kept folder is never made again: it says
how that version wrote.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from feature_vectors import NAMES, WIDTH, samples

import edgeadapt
from edgeadapt.testing import inspect_state

HERE = Path(__file__).parent


def make_bundle(path: Path) -> None:
    """The factory's classes are the first four. Needs the host extra; the kept file is what the
    tests use.
    """
    from edgeadapt import host

    x, names = samples(400, [0, 1, 2, 3], 1)
    y = np.array([NAMES.index(name) for name in names])
    host.export(
        path,
        host.Identity(WIDTH),
        calibration=(x, y),
        classes=NAMES[:4],
        class_slots=8,
        guard_per_class=20,
        random_features=0,
        name="vectors",
        stress=False,
    )


def live(learner: Any) -> None:
    def teach(count: int, classes: list[int], seed: int, source: str) -> None:
        x, names = samples(count, classes, seed)
        learner.learn(x, names, source=source)
        learner.settle()

    teach(30, [0, 1, 2, 3], 2, "line 1")
    teach(20, [0, 1], 3, "line 2")
    learner.add_class("crack")
    teach(25, [4], 4, "line 1")
    seen = learner.observe(samples(32, [0, 1, 2, 3], 5)[0], stream="cam")
    learner.label(seen.ids[3], "ok", source="operator")
    learner.settle()
    teach(16, [2, 3], 6, "gone")
    learner.forget(source="gone")
    learner.add_class("hole")
    teach(12, [5], 7, "line 2")
    learner.remove_class("hole")
    teach(40, [0, 1, 2, 3], 8, "line 3")
    learner.rollback()
    for seed in range(6):
        learner.observe(samples(32, [0, 1, 2, 3], 20 + seed, moved=1.5)[0], stream="moved")
        learner.settle()
    learner.checkpoint()
    teach(18, [0, 4], 9, "line 2")
    x, names = samples(64, [0, 1, 2, 3], 10)
    learner.learn(x, [NAMES[(NAMES.index(name) + 1) % 4] for name in names], source="liar")
    learner.settle()
    learner.freeze()
    learner.learn(*samples(7, [0, 1], 12), source="waits")


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        learner = edgeadapt.open(HERE / "vectors.edge", state=folder)
        live(learner)
        probe = samples(64, [0, 1, 2, 3, 4], 99)[0]
        np.savez(out / "probe.npz", x=probe, probs=learner.predict(probe).probs)
        expected = {
            "classes": learner.classes,
            "evidence": learner.counters()["evidence"],
            "domains": learner.domains(),
            "history": [[c.number, c.kind, c.outcome] for c in reversed(learner.history(100))],
            "digest": learner.digest(),
        }
        (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        inspect_state(learner).journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(Path(folder) / "learner.db", out / "learner.db")


if __name__ == "__main__":
    main()
