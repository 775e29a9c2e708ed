"""What a caller of ``predict`` notices while the worker learns: latency under every kind of
background work, against idle in the same run.

Blocks of predictions take turns: nothing else happens; labels are learned; windows of a shifted
stream are sensed (and adapted to, where the bundle may); sources of a large state are forgotten and
changes rolled back. The caller tops the work up between calls, untimed, so that the worker never
rests in a block that is not idle. What one could change about it is measured in the same way,
without a target.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.scenarios.corruptions import corrupt
from edgeadapt_bench.datasets.vectors import Crowd, vector_bundle
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.measure import ONE_THREAD, Row, Say, at_most
from edgeadapt_bench.harness.process import in_child
from edgeadapt_bench.operations.large_state import SOURCES, open_free, source_name, teach

BOUND = 5.0  # p99 while labels are learned or windows sensed, times p99 when idle
# p99 while thousands of rows are forgotten: two turns of the interpreter's switch interval
UNDOING_MS = 10.0
WIDE = 1280
AS_SHIPPED = "as_shipped"
WORKS = ("labels", "windows", "undoing")
_POOL, _LABELS, _WINDOW, _BLOCK_S = 512, 16, 32, 0.3
# of the state that is undone; the wide one's are thirteen times as long
_ROWS = {"demo": 20_000, "wide": 4_000}


@dataclass(frozen=True, eq=False)
class Pool:
    """Inputs of the known classes and the same under a condition, by the name ``observe`` takes
    them by.
    """

    calm: dict[str, NDArray[Any]]
    shifted: dict[str, NDArray[Any]]
    labels: list[str]

    @classmethod
    def of(cls, bundle: Bundle) -> Pool:
        """Images of the shipped sample, or vectors drawn around what the bundle knows."""
        rng = np.random.default_rng(1)
        if bundle.manifest.input.layout == "features":
            crowd = Crowd.of(bundle, len(bundle.manifest.classes))
            slots = rng.integers(0, len(crowd.names), _POOL)
            return cls(
                crowd.draw(slots, rng), crowd.draw(slots, rng, crowd.offset(0)), crowd.labels(slots)
            )
        sample = load_sample()
        rows = sample.rows(KNOWN, rng)[:_POOL]
        x = sample.x[rows]
        return cls(
            {"x": x}, {"x": corrupt(x, "fog", 3, 0)}, [CLASSES[slot] for slot in sample.y[rows]]
        )

    def some(
        self, number: int, count: int, *, shifted: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """The ``number``-th batch as keywords of ``predict``, and its labels."""
        begin = number * count % (_POOL - count + 1)
        rows = slice(begin, begin + count)
        taken = {
            name: values[rows] for name, values in (self.shifted if shifted else self.calm).items()
        }
        return taken if "x" in taken else {"features": taken}, self.labels[rows]


class Served:
    """A learner that is asked for predictions, and the work it is given meanwhile."""

    def __init__(self, learner: Learner, pool: Pool, batch: int) -> None:
        self.learner, self.pool, self.batch = learner, pool, batch
        self.calls = self.given = 0
        self.undone: list[float] = []

    def block(self, seconds: float, top_up: Callable[[], object] | None = None) -> list[float]:
        """Seconds of every prediction but the first, for so long; the worker is idle at the end."""
        self.learner.settle()
        end = time.perf_counter() + seconds
        taken: list[float] = []
        while time.perf_counter() < end:
            if top_up is not None and self.learner.settle(0.0):
                top_up()
            taken.append(self.once())
        self.learner.settle()
        return taken[1:]

    def once(self) -> float:
        inputs, _ = self.pool.some(self.calls, self.batch)
        self.calls += 1
        started = time.perf_counter()
        self.learner.predict(**inputs)
        return time.perf_counter() - started

    def give_labels(self) -> None:
        inputs, labels = self.pool.some(self.given, _LABELS)
        self.given += 1
        self.learner.learn(
            inputs.get("x"),
            labels,
            features=inputs.get("features"),
            source=f"desk {self.given % SOURCES}",
        )

    def give_window(self) -> None:
        inputs, _ = self.pool.some(self.given, _WINDOW, shifted=True)
        self.given += 1
        self.learner.observe(**inputs, stream="shifted")

    def undo(self, number: int) -> list[float]:
        """Predictions while another thread forgets a source of the large state and goes back one
        change.
        """

        def run() -> None:
            started = time.perf_counter()
            self.learner.forget(source=source_name(number))
            self.learner.rollback()
            self.undone.append(time.perf_counter() - started)

        thread = threading.Thread(target=run)
        thread.start()
        taken = []
        while thread.is_alive():
            taken.append(self.once())
        thread.join()
        return taken


def latencies(
    bundle: str,
    batch: int,
    rounds: int,
    rows: int,
    works: list[str],
    change: str = AS_SHIPPED,
    on_one_core: bool = False,
    block_s: float = _BLOCK_S,
) -> dict[str, Any]:
    """Seconds per prediction, idle and under each of ``works``, in alternating blocks.

    Args:
        rows: labels learned before, for ``undoing``.
        change: a key of ``CHANGES``.
        on_one_core: the whole process, as on the smallest devices.
    """
    if on_one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    opened = read_bundle(Path(bundle))
    with (
        tempfile.TemporaryDirectory() as folder,
        open_free(bundle, Path(folder) / "state") as learner,
    ):
        teach(
            learner, Crowd.of(opened, len(opened.manifest.classes)), rows, np.random.default_rng(0)
        )
        CHANGES[change]()
        served = Served(learner, Pool.of(opened), batch)
        taken: dict[str, list[float]] = {work: [] for work in ("idle", *works)}
        for turn in range(rounds + 1):  # the first one warms up
            for work in taken:
                if work == "undoing":
                    spent = served.undo(turn % SOURCES) if turn else []
                else:
                    top_up = {
                        "idle": None,
                        "labels": served.give_labels,
                        "windows": served.give_window,
                    }[work]
                    spent = served.block(block_s, top_up)
                taken[work] += spent if turn else []
        counters, history = learner.counters(), learner.history(100_000)
    learned = sum(
        commit.outcome == "learned"
        for commit in history
        if str(commit.detail.get("source", "")).startswith("desk")
    )
    return {**taken, "learned": learned, "undone": served.undone, "evidence": counters["evidence"]}


CHANGES: dict[str, Callable[[], object]] = {
    AS_SHIPPED: lambda: None,
    "switch_every_0.5_ms": lambda: sys.setswitchinterval(5e-4),  # Python's own is ten times as long
    "blas_on_all_cores": lambda: None,  # by the environment: what numpy does where nothing is set
}
"""What one could change, or forget to set, by name: called before anything is timed."""
_CHANGED = (("", tuple(CHANGES)[1:]), ("/one_core", (AS_SHIPPED,)))


def rows_of(name: str, times: dict[str, Any], bound: float | None) -> list[Row]:
    """Median, p99 and largest of every kind of work beside idle, and the ratio of the p99s.

    Args:
        bound: of the ratio under labels and windows; undoing, which a person asks for now and then,
            is held to ``UNDOING_MS``.
    """
    idle = 1e3 * np.array(times["idle"])
    rows: list[Row] = []
    for work in (work for work in WORKS if work in times):
        busy = 1e3 * np.array(times[work])
        p99, calm = float(np.quantile(busy, 0.99)), float(np.quantile(idle, 0.99))
        rows += [
            at_most(
                f"p99_ratio/{name}/{work}",
                p99 / calm,
                "x idle",
                None if work == "undoing" else bound,
                1.0,
            ),
            Row(f"p50_ms/{name}/{work}", float(np.median(busy)), "ms", float(np.median(idle))),
            at_most(
                f"p99_ms/{name}/{work}",
                p99,
                "ms",
                UNDOING_MS if bound is not None and work == "undoing" else None,
                calm,
            ),
            Row(f"max_ms/{name}/{work}", float(busy.max()), "ms", float(idle.max())),
        ]
    return rows


def run_interference(data: str | None, say: Say, *, quick: bool = False) -> list[Row]:
    """Each bundle and batch in a process of its own.

    Args:
        quick: the shipped bundle alone, two rounds, a small state, no targets.
    """
    rounds, rows = (2, []) if quick else (10, [])
    all_cores = dict.fromkeys(
        (key for key in ONE_THREAD if key.endswith("THREADS")), str(len(os.sched_getaffinity(0)))
    )
    with tempfile.TemporaryDirectory() as scratch:
        subjects = {"demo": str(bundle_path())}
        if not quick:
            say(f"interference: exporting a bundle for vectors of {WIDE}")
            subjects["wide"] = str(vector_bundle(Path(scratch) / "wide.edge", WIDE, 16, 32))
        for name, bundle in subjects.items():
            size = 1_000 if quick else _ROWS[name]
            for batch in (1, 8):
                say(
                    f"interference: {name}, batch {batch}, {rounds} rounds, a state of {size}"
                    " labels"
                )
                times = in_child(
                    __name__,
                    "latencies",
                    bundle=bundle,
                    batch=batch,
                    rounds=rounds,
                    rows=size,
                    works=list(WORKS),
                )
                rows += rows_of(f"{name}/b{batch}", times, None if quick else BOUND)
                rows.append(
                    Row(
                        f"undone_ms/{name}/b{batch}/{size}_rows",
                        1e3 * float(np.median(times["undone"])),
                        "ms for a source and a change",
                    )
                )
            for where, changes in () if quick else _CHANGED:
                for change in changes:
                    say(f"interference: {name}, batch 1{where}, {change}")
                    times = in_child(
                        __name__,
                        "latencies",
                        environment=all_cores if change.startswith("blas") else None,
                        bundle=bundle,
                        batch=1,
                        rounds=rounds,
                        rows=_ROWS[name] // 8,
                        works=list(WORKS),
                        change=change,
                        on_one_core=bool(where),
                    )
                    found = rows_of(
                        f"{name}/b1{where}/{change}", times, BOUND if change == AS_SHIPPED else None
                    )
                    rows += [row for row in found if row.name.startswith("p99")]
    rows.append(
        Row(
            "rounds",
            float(rounds),
            "blocks of each kind; quick, so no targets" if quick else "blocks of each kind",
        )
    )
    return rows


JOBS = {"latencies": latencies}

if __name__ == "__main__":
    serve(JOBS)
