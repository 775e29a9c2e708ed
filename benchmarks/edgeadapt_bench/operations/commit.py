"""What a label costs: from ``label`` to durable and to learned, bytes that reach the disk, and what
it takes to take labels back.

Baseline: a table of one's own. The same bytes (id, label, source, time, features) are inserted into
a plain SQLite file with the same durability (write-ahead log, ``synchronous=FULL``) on the same
disk, in turn with each label; and deleted from it with ``secure_delete``.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt_bench.datasets.vectors import Crowd, vector_bundle
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.measure import Row, Say, absent, reported
from edgeadapt_bench.harness.process import in_child
from edgeadapt_bench.operations.interference import WIDE, Pool
from edgeadapt_bench.operations.large_state import open_free
from edgeadapt_bench.operations.soak_streams import written_bytes

LABELS, FORGOTTEN = 200, (1, 100, 10_000)
_TOGETHER, _WARM_UP = 64, 5


class Plain:
    """A user's own table of labelled features."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE labels (id TEXT PRIMARY KEY, label TEXT, source TEXT, time REAL, features"
            " BLOB)"
        )

    def insert(
        self, ids: Sequence[str], labels: Sequence[str], features: NDArray[np.float16]
    ) -> None:
        """One transaction, durable when it returns."""
        self._db.execute("BEGIN IMMEDIATE")
        now = time.time()
        self._db.executemany(
            "INSERT INTO labels VALUES (?, ?, ?, ?, ?)",
            [
                (i, n, "desk", now, f.tobytes())
                for i, n, f in zip(ids, labels, features, strict=True)
            ],
        )
        self._db.execute("COMMIT")

    def delete(self, ids: Sequence[str]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("DELETE FROM labels WHERE id = ?", [(i,) for i in ids])
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._db.close()


def label_times(bundle: str, count: int, together: int = 1) -> dict[str, Any]:
    """Seconds of ``label`` until durable and until learned, and of the plain insert; bytes written
    by each; ``count`` calls in turn.

    Args:
        together: labels per call.
    """
    opened = read_bundle(Path(bundle))
    pool, manifest = Pool.of(opened), opened.manifest
    durable, learned, plain = [], [], []
    ours_written = plain_written = 0
    features = (
        np.random.default_rng(0)
        .standard_normal((together, manifest.feature_dim + manifest.tap_dim))
        .astype(np.float16)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open_free(bundle, Path(folder) / "state") as learner,
    ):
        table = Plain(Path(folder) / "plain.db")
        for turn in range(count + _WARM_UP):
            inputs, labels = pool.some(turn, together)
            ids = learner.observe(**inputs, stream="desk").ids
            learner.settle()
            before, started = written_bytes(), time.perf_counter()
            learner.label(ids, labels, source="desk")
            returned = time.perf_counter()
            learner.settle()
            done, between = time.perf_counter(), written_bytes()
            table.insert(ids, labels, features)
            inserted, after = time.perf_counter(), written_bytes()
            if turn >= _WARM_UP:
                durable.append(returned - started)
                learned.append(done - started)
                plain.append(inserted - done)
                ours_written += between - before
                plain_written += after - between
        table.close()
        outcomes = [
            commit.outcome for commit in learner.history(count + 100) if commit.kind == "learn"
        ]
    return {
        "durable": durable,
        "learned": learned,
        "plain": plain,
        "outcomes": outcomes,
        "written": ours_written / count / together,
        "written_plain": plain_written / count / together,
    }


def forget_times(bundle: str, counts: list[int], kept: int) -> dict[str, Any]:
    """Seconds to forget ``counts`` rows of a source each, bytes written by it, and the same deleted
    from a plain table; snapshots.

    Args:
        kept: rows of another source, learned last, that stay.
    """
    opened = read_bundle(Path(bundle))
    crowd, rng = Crowd.of(opened, len(opened.manifest.classes)), np.random.default_rng(0)
    result: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_free(bundle, Path(folder) / "state") as learner,
    ):
        table = Plain(Path(folder) / "plain.db")
        ids: dict[int, list[str]] = {}
        for number in (*counts, kept):
            ids[number] = []
            for begin in range(0, number, _TOGETHER):
                slots = rng.integers(0, len(crowd.names), min(_TOGETHER, number - begin))
                drawn = crowd.draw(slots, rng)
                some = learner.learn(
                    None, crowd.labels(slots), features=drawn, source=f"{number} rows"
                )
                table.insert(
                    some,
                    crowd.labels(slots),
                    np.concatenate(list(drawn.values()), axis=1).astype(np.float16),
                )
                ids[number] += some
                learner.settle()
        for number in counts:
            before, started = written_bytes(), time.perf_counter()
            receipt = learner.forget(source=f"{number} rows")
            done, between = time.perf_counter(), written_bytes()
            table.delete(ids[number])
            result[str(number)] = {
                "seconds": done - started,
                "removed": receipt.removed,
                "subtracted": receipt.subtracted,
                "written": between - before,
                "plain": time.perf_counter() - done,
                "written_plain": written_bytes() - between,
            }
        table.close()
        learner.close()
        sizes = _snapshot_bytes(Path(folder) / "state" / "learner.db")
    return {**result, "snapshot": sizes}


def _snapshot_bytes(path: Path) -> list[int]:
    with sqlite3.connect(path) as db:
        return [
            int(row[0])
            for row in db.execute("SELECT length(tensors) FROM snapshots ORDER BY commit_number")
        ]


def label_rows(name: str, times: dict[str, Any]) -> list[Row]:
    """Medians and p99s of a label beside the plain insert, and bytes."""
    rows = []
    plain = 1e3 * np.array(times["plain"])
    for what, unit in (
        ("durable", "ms until label returns"),
        ("learned", "ms until predictions use it"),
    ):
        spent = 1e3 * np.array(times[what])
        for end, share in (("", 0.5), ("_p99", 0.99)):
            ours, least = (float(np.quantile(times, share)) for times in (spent, plain))
            rows.append(Row(f"{what}{end}_ms/{name}", ours, unit, least))
    bytes_row = f"written_bytes/{name}"
    if times["written_plain"] == 0:
        rows.append(absent(bytes_row, "the temporary folder is not on a disk"))
    else:
        rows.append(
            Row(bytes_row, times["written"], "bytes a label, until learned", times["written_plain"])
        )
    learned = times["outcomes"].count("learned") / max(1, len(times["outcomes"]))
    return [*rows, Row(f"learned_share/{name}", learned, "of label commits")]


def forget_rows(name: str, times: dict[str, Any]) -> list[Row]:
    rows = []
    for number, found in times.items():
        if number == "snapshot":
            largest, unit = max(found, default=0), f"bytes, the largest of {len(found)}"
            rows += reported(name, ("snapshot_bytes", largest, unit))
            continue
        unit = f"ms, {found['removed']} rows, {found['subtracted']} subtracted"
        written = "forget_written_bytes", found["written"], "bytes", float(found["written_plain"])
        rows += reported(
            f"{name}/{number}",
            ("forget_ms", 1e3 * found["seconds"], unit, 1e3 * found["plain"]),
            written,
        )
    return rows


def run_commit(data: str | None, say: Say, *, quick: bool = False) -> list[Row]:
    """The shipped bundle (96 features and 96 early ones) and vectors of 1,280.

    Args:
        quick: the shipped bundle alone, few labels, 1,000 rows at most.
    """
    count, forgotten = (30, [1, 100, 1000]) if quick else (LABELS, list(FORGOTTEN))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        subjects = {"demo": str(bundle_path())}
        if not quick:
            say(f"commit: exporting a bundle for vectors of {WIDE}")
            subjects["wide"] = str(vector_bundle(Path(scratch) / "wide.edge", WIDE, 16, 32))
        for name, bundle in subjects.items():
            for together in (1, 16):
                say(f"commit: {name}, {count} times {together} labels")
                rows += label_rows(
                    f"{name}/{together}_labels",
                    in_child(
                        __name__, "label_times", bundle=bundle, count=count, together=together
                    ),
                )
            say(f"commit: {name}, forgetting {', '.join(map(str, forgotten))} rows")
            rows += forget_rows(
                name,
                in_child(
                    __name__,
                    "forget_times",
                    bundle=bundle,
                    counts=forgotten,
                    kept=forgotten[-1] // 2,
                ),
            )
    return [
        *rows,
        Row(
            "calls",
            float(count),
            "label calls of each kind; quick" if quick else "label calls of each kind",
        ),
    ]


JOBS = {"label_times": label_times, "forget_times": forget_times}

if __name__ == "__main__":
    serve(JOBS)
